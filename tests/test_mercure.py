# SPDX-License-Identifier: Apache-2.0
"""As others start it: a module of mercure, and a tool of Boutiques."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bundle.batch.plan import DICOM_OUTPUTS
from bundle.cli import main
from bundle.commands.boutiques import descriptor
from bundle.errors import EXIT_CODES
from bundle.synthesis.sample import synthetic_head

SCRIPTS = Path(sys.executable).parent


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """What mercure gives a module: images in one folder with their task, and an empty one for the results."""
    pytest.importorskip("highdicom")
    from tests.dicom_files import write_series

    scan, _, affine = synthetic_head((72, 84, 8), (2.7, 2.7, 12.0), seed=0)
    given, wanted = tmp_path / "in", tmp_path / "out"
    for number, path in enumerate(write_series(tmp_path / "series", scan, affine, SeriesDescription="AX FLAIR")):
        given.mkdir(exist_ok=True)
        shutil.move(path, given / f"1.2.3#4.5.{number}.dcm")
    wanted.mkdir()
    (given / "task.json").write_text(json.dumps({"process": {"settings": {"set": {"threshold": 3.0}}}}))
    monkeypatch.setenv("MERCURE_IN_DIR", str(given))
    monkeypatch.setenv("MERCURE_OUT_DIR", str(wanted))
    return given, wanted


def test_a_series_is_mapped_and_results_lie_flat(folders):
    import pydicom

    given, wanted = folders
    assert main(["mercure"]) == EXIT_CODES["all good"]
    made = sorted(wanted.glob("*.dcm"))
    assert len(made) == len(DICOM_OUTPUTS) + 1
    source = pydicom.dcmread(next(given.glob("*.dcm")))
    assert {pydicom.dcmread(path).StudyInstanceUID for path in made} == {source.StudyInstanceUID}
    said = json.loads((wanted / "result.json").read_text())
    assert said["cases"][0]["status"] == "done"
    text = said["__mercure_notification"]["text"]
    assert f"case score {said['cases'][0]['case_score']}" in text
    assert "not for diagnosis" in text
    assert {path.suffix for path in wanted.iterdir()} == {".dcm", ".json"}, "nothing half written"


def test_what_cannot_be_mapped_is_told(folders):
    given, wanted = folders
    for path in list(given.glob("*.dcm"))[:3]:
        path.unlink()
    assert main(["mercure"]) == EXIT_CODES["some case failed"]
    said = json.loads((wanted / "result.json").read_text())
    assert said["cases"][0]["status"] == "failed"
    assert said["cases"][0]["remedy"]
    assert not list(wanted.glob("*.dcm"))


def test_nothing_to_map_is_told(folders):
    """With what there is, in the notification; derived series are taken where the task asks for them."""
    import pydicom

    given, wanted = folders
    for path in list(given.glob("*.dcm"))[3:]:
        path.unlink()
    for path in given.glob("*.dcm"):
        image = pydicom.dcmread(path)
        image.ImageType = ["DERIVED", "SECONDARY", "MPR"]
        image.save_as(path)
    assert main(["mercure"]) == EXIT_CODES["nothing to do"]
    text = json.loads((wanted / "result.json").read_text())["__mercure_notification"]["text"]
    assert "3 DICOM files, 1 series: AX FLAIR: a derived series" in text
    (given / "task.json").write_text(json.dumps({"process": {"settings": {"derived": True}}}))
    assert main(["mercure"]) == EXIT_CODES["some case failed"]
    said = json.loads((wanted / "result.json").read_text())
    assert "3 slices, at least 5 needed" in said["cases"][0]["reason"]


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ({"process": {"settings": {"treshold": 3}}}, "unknown settings treshold"),
        ({"process": {"settings": {"set": {"treshold": 3}}}}, "threshold"),
        ([], "not readable"),
    ],
)
def test_a_task_that_is_none_of_ours(folders, task, reason, capsys):
    (folders[0] / "task.json").write_text(json.dumps(task))
    assert main(["mercure"]) == EXIT_CODES["usage"]
    assert reason in capsys.readouterr().err


def test_folders_that_are_not_there(monkeypatch, capsys):
    monkeypatch.delenv("MERCURE_IN_DIR", raising=False)
    assert main(["mercure"]) == EXIT_CODES["usage"]
    assert "Set MERCURE_IN_DIR" in capsys.readouterr().err


def test_the_descriptor_has_every_option_and_is_valid(tmp_path, capsys):
    """By the program that runs such descriptors."""
    bosh = SCRIPTS / "bosh"
    if not bosh.exists():
        pytest.skip("Boutiques is not installed")
    assert main(["boutiques"]) == 0
    said = capsys.readouterr().out
    path = tmp_path / "flipmap.json"
    path.write_text(said)
    checked = subprocess.run([bosh, "validate", path], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    flags = {one.get("command-line-flag") for one in descriptor()["inputs"]} - {None}
    assert {"--participant-label", "--session-label", "--n-cpus", "--verbose"} == flags


def test_boutiques_runs_it(bids_folder, tmp_path):
    bosh, flipmap = SCRIPTS / "bosh", SCRIPTS / "flipmap"
    if not bosh.exists() or not flipmap.exists():
        pytest.skip("Boutiques or the command is not installed")
    (tmp_path / "flipmap.json").write_text(json.dumps(descriptor()))
    asked = {
        "bids_dir": str(bids_folder),
        "output_dir": str(tmp_path / "out"),
        "level": "participant",
        "participant_label": ["00", "03"],
        "n_cpus": 1,
    }
    (tmp_path / "invocation.json").write_text(json.dumps(asked))
    environment = {**os.environ, "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"}
    command = [
        bosh,
        "exec",
        "launch",
        tmp_path / "flipmap.json",
        tmp_path / "invocation.json",
        "--skip-data-collection",
    ]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    maps = sorted(path.name for path in (tmp_path / "out").rglob("*FLAIR_desc-anomaly_map.nii.gz"))
    assert maps == [f"sub-0{n}_mod-FLAIR_desc-anomaly_map.nii.gz" for n in (0, 3)]
