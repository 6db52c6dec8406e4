# SPDX-License-Identifier: Apache-2.0
"""What people who train see: people of their own, a line an epoch, curves, and errors in one line."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest
from monai.bundle import ConfigParser
from monai.utils import OptionalImportError

from bundle.cli import main
from bundle.config_errors import explained
from bundle.datasets import dealt, read_split, shipped_split, training_cases
from bundle.errors import DatasetError
from tests.conftest import ROOT
from tests.test_training import SMALL


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.json"
    path.write_text(json.dumps({**SMALL, "max_epochs": 2}))
    return str(path)


def monai(arguments, folder):
    """`python -m monai.bundle run` in a process, with its output and exit code."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "monai.bundle", "run", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)


def test_people_of_ones_own_are_dealt_by_a_hash(tmp_path, bids_folder, small, caplog):
    """Reproducibly; said in the log and in the provenance, and written down for calibration and evaluation."""
    files = str([str(ROOT / "configs" / "train_autoencoder.json"), small])
    given = ["--config_file", files, "--dataset_dir", str(bids_folder), "--output_dir", str(tmp_path / "out")]
    done = monai([*given, "--bundle_root", str(ROOT)], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lgg_flair.json knows nobody in bids: people are dealt by a hash of their names" in done.stdout
    split = tmp_path / "out" / "split.json"
    parts = read_split(split)
    assert all(parts.values())
    assert sorted(name for part in parts.values() for name in part) == [f"sub-{n:02d}" for n in range(6)]
    assert parts == {part: sorted(one) for part, one in dealt(f"sub-{n:02d}" for n in range(6)).items()}
    for part in parts:
        assert training_cases(bids_folder, part) == training_cases(bids_folder, part, split=split)
    known = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert known["split"]["name"] == "by a hash of names"

    lines = re.findall(r"epoch (\d) of 2: loss ([\d.]+), val_l1 ([\d.]+) \(", done.stdout)
    assert [number for number, *_ in lines] == ["1", "2"], done.stdout
    assert "resuming from iteration 0" not in done.stdout
    assert (tmp_path / "out" / "pictures" / "epoch_0001.png").exists()


@pytest.mark.parametrize("count", range(3, 40))
def test_no_part_is_empty_where_there_are_three_people(count):
    parts = dealt(f"sub-{number}" for number in range(count))
    assert all(parts.values())
    assert sum(map(len, parts.values())) == count


def test_who_is_dealt_stays_where_they_are_when_others_come():
    some, more = (dealt(f"sub-{number}" for number in range(count)) for count in (60, 80))
    assert all(set(some[part]) <= set(more[part]) for part in some)


def test_the_shipped_split_is_taken_where_it_knows_somebody(bids_folder, tmp_path):
    assert shipped_split(bids_folder) is None
    subject = read_split(ROOT / "configs" / "splits" / "lgg_flair.json")["test"][0]
    for path in sorted(bids_folder.rglob("*sub-00*"), key=lambda path: -len(path.parts)):
        path.rename(path.with_name(path.name.replace("sub-00", subject)))
    assert shipped_split(bids_folder).endswith("lgg_flair.json")
    with pytest.raises(DatasetError, match="none of its training subjects"):
        training_cases(bids_folder, "training", split=shipped_split(bids_folder))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dataset_dir", "nowhere"], "nowhere: "),
        (["--network_def#denoiser_channels", "three"], "the config: "),
        (["--loss", "$unknown.loss()"], "the config: NameError: name 'unknown' is not defined"),
        (["--initial_weights", "absent.pt"], "absent.pt: no such file"),
    ],
    ids=lambda value: value[0].strip("-") if isinstance(value, list) else "",
)
def test_what_is_wrong_in_a_config_ends_in_one_line(arguments, said, tmp_path, bids_folder):
    config = str(ROOT / "configs" / "train_autoencoder.json")
    given = ["--config_file", config, "--dataset_dir", str(bids_folder), "--output_dir", "out", "--max_epochs", "1"]
    done = monai([*given, *arguments], tmp_path)
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if "Warning" not in line and "create_workflow(" not in line]
    assert [line.startswith(f"ERROR {said}") for line in lines] == [True], done.stderr


def test_the_command_trains_and_says_what_is_wrong(tmp_path, bids_folder, small, capsys):
    data = ["--dataset_dir", str(bids_folder), "--output_dir", str(tmp_path / "out")]
    for given, said in (
        (["train", "autoencode", *data], "Did you mean autoencoder?"),
        (["train", "autoencoder", *data, "--set", "max_epoch=1"], "Did you mean max_epochs?"),
        (["train", "autoencoder", *data, "--tracking", "wandb"], "Choose from mlflow, tensorboard"),
        (["train", "autoencoder", *data, "--set", "initial_weights=absent.pt"], "absent.pt: no such file"),
    ):
        assert main(given) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out" / "weights.pt").exists()


@pytest.mark.parametrize(("where", "package"), [("tensorboard", "tensorboard"), ("mlflow", "mlflow")])
def test_curves_are_followed_or_what_is_missing_is_named(where, package, tmp_path, bids_folder, small):
    files = str([str(ROOT / "configs" / "train_autoencoder.json"), small])
    tracking = where if where == "mlflow" else str(ROOT / "configs" / "tracking" / "tensorboard.json")
    given = ["--config_file", files, "--dataset_dir", str(bids_folder), "--output_dir", "out"]
    done = monai([*given, "--tracking", tracking, "--bundle_root", str(ROOT)], tmp_path)
    if find_spec(package) is None:
        assert done.returncode != 0
        assert f"{package}" in done.stderr.splitlines()[-1]
        assert 'pip install ".[tracking]"' in done.stderr.splitlines()[-1]
        return
    assert done.returncode == 0, done.stdout + done.stderr
    if where == "tensorboard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(tmp_path / "out" / "tensorboard"))
        events.Reload()
        tags = events.Tags()["scalars"]
        assert {"train_loss", "val_l1"} <= set(tags)
        assert [one.step for one in events.Scalars("val_l1")] == [1, 2]
    else:
        assert (tmp_path / "out" / "mlruns.db").stat().st_size > 0


def test_a_package_that_is_missing_is_named_with_its_extra():
    parser = ConfigParser({"a": {"_target_": "monai.handlers.MLFlowHandler"}, "b": "$__import__('mlflowx')"})
    with pytest.raises(RuntimeError) as caught:
        parser.get_parsed_content("b")
    assert str(explained(caught.value)) == "mlflowx: is asked for and not installed. pip install mlflowx"
    texts = (  # as MONAI words them, where the package is absent or too old
        "Please install mlflow before using MLFlowHandler. (No module named 'mlflow').",
        "from mlflow import MlflowClient (No module named 'mlflow').",
        "import mlflow (requires version '9' by 'min_version').",
        "Please install mlflow.entities before using MLFlowHandler.",
    )
    missing = [
        ModuleNotFoundError("No module named 'mlflow'", name="mlflow.tracking"),
        *map(OptionalImportError, texts),
    ]
    for cause in missing:
        try:
            raise RuntimeError("Failed to instantiate component") from cause
        except RuntimeError as error:
            assert str(explained(error)).startswith("mlflow: ")
            assert 'pip install ".[tracking]"' in str(explained(error))


def test_what_happens_after_a_run_has_begun_asks_for_its_traceback():
    from ignite.engine import Engine

    def fails(engine, batch):
        raise ValueError("in the middle")

    with pytest.raises(ValueError) as caught:
        Engine(fails).run([1])
    assert explained(caught.value) is None
