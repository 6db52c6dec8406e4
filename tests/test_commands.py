# SPDX-License-Identifier: Apache-2.0
"""The commands of ``flipmap``: each says what it takes, and old names lead to them."""

import argparse
import contextlib
import csv
import importlib
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from bundle.cli import COMMANDS, LAB, main
from bundle.io.nifti import write_map
from bundle.synthesis.sample import synthetic_head
from tests.conftest import ROOT


@pytest.mark.parametrize("name", [*COMMANDS, *LAB])
def test_every_option_says_what_it_is_for(name):
    module = importlib.import_module(f"bundle.commands.{name.replace('-', '_')}")
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    assert module.__doc__
    assert callable(module.run)
    assert all(action.help for action in parser._actions)


def test_every_module_is_a_command():
    modules = {path.stem for path in (ROOT / "bundle" / "commands").glob("*.py")} - {"__init__", "options"}
    assert modules == {name.replace("-", "_") for name in (*COMMANDS, *LAB)}


@pytest.mark.parametrize("name", LAB)
def test_old_names_lead_to_the_laboratory(name, capsys):
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    said = capsys.readouterr()
    assert said.err == f"flipmap: {name} is flipmap lab {name} now\n"
    assert f"usage: flipmap lab {name}" in said.out


def test_help_names_the_commands_and_the_exit_codes(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert all(name in said for name in COMMANDS)
    assert not any(f"\n    {name}" in said for name in LAB)
    assert "130" in said
    with pytest.raises(SystemExit):
        main(["lab", "--help"])
    said = capsys.readouterr().out
    assert all(f"\n    {name}" in said for name in LAB)


def test_methods_for_machines(capsys):
    assert main(["methods", "--json"]) == 0
    rows = {row["modality"]: row for row in json.loads(capsys.readouterr().out)["modalities"]}
    assert rows["flair"]["methods"][0] == "default"
    assert "masked_bernoulli" in rows["oct"]["methods"]
    assert all(rows[name]["weights"] for name in ("flair", "t1w", "t2w", "oct"))
    assert rows["t2w"]["methods"] == ["default"]


def test_evaluate_writes_the_table_of_its_protocol(tmp_path):
    scan, lesion, affine = synthetic_head((96, 112, 8), (2.0, 2.0, 13.0))
    write_map(tmp_path / "a" / "sub-00" / "anat" / "sub-00_FLAIR.nii.gz", scan, affine, np.float32)
    mask = tmp_path / "a" / "derivatives" / "lesion" / "sub-00" / "anat" / "sub-00_label-lesion_mask.nii.gz"
    write_map(mask, lesion, affine, np.uint8)
    places = json.dumps({"a": {"dataset_dir": str(tmp_path / "a")}})
    rows = json.dumps({"intensity": {"method": "intensity"}})
    given = ["--set", f"places={places}", "--set", f"rows={rows}"]
    assert main(["evaluate", "places", str(tmp_path), str(tmp_path / "out"), *given]) == 0
    with (tmp_path / "out" / "places.csv").open() as file:
        row = next(csv.DictReader(file))
    assert (row["place"], row["method"]) == ("a", "intensity")
    assert 0.1 < float(row["auprc"]) <= 1


@pytest.mark.parametrize(
    ("given", "offer"),
    [
        (["run", "in", "out", "--treshold", "3"], "--set threshold=3?"),
        (["run", "in", "out", "--threshold=3"], "--set threshold=3?"),
        (["run", "in", "out", "--min-finding-ml", "0.1"], "--set min_finding_ml=0.1?"),
        (["run", "in", "out", "--overwite"], "--overwrite?"),
        (["run", "in", "out", "--brain_mask", "m"], "--set brain_masks=m?"),
        (["train", "denoiser", "--dataset_dir", "d", "--output_dir", "o", "--max_epoch", "3"], "--set max_epochs=3?"),
        (["report", "out", "--brand-new"], None),
    ],
)
def test_an_option_that_there_is_not_is_answered_by_the_nearest(given, offer, capsys):
    with pytest.raises(SystemExit) as caught:
        main(given)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "unrecognized arguments: --" in said
    assert ("Did you mean" in said) == bool(offer)
    assert offer is None or f"Did you mean {offer}" in said


def test_evaluate_refuses_an_unknown_setting(tmp_path, capsys):
    assert main(["evaluate", "places", str(tmp_path), str(tmp_path / "out"), "--set", "precison=float32"]) == 2
    assert "precision" in capsys.readouterr().err


def test_evaluate_tells_what_is_wrong_with_the_data(tmp_path, capsys):
    assert main(["evaluate", "patients", str(tmp_path / "nowhere"), str(tmp_path / "out")]) == 3
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo terminals")
@pytest.mark.parametrize("how", ["flipmap", "monai"])
def test_on_a_terminal_a_bar_says_how_far_it_is_and_at_the_end_where_results_are(how, tmp_path):
    import fcntl
    import pty
    import struct
    import termios

    scan, _, affine = synthetic_head((72, 84, 6), (2.7, 2.7, 14.0))
    write_map(tmp_path / "in" / "a_FLAIR.nii.gz", scan, affine, np.int16)
    command = {
        "flipmap": ["-m", "bundle.cli", "run", "in", "out"],
        "monai": [*("-m", "monai.bundle", "run", "--config_file", str(ROOT / "configs" / "inference.json")),
                  *("--dataset_dir", "in", "--output_dir", "out")],
    }[how]  # fmt: skip
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, *command], cwd=tmp_path, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # the end of a pseudo terminal
        while part := os.read(ours, 65536):
            said += part
    os.close(ours)
    assert process.wait() == 0
    text = said.decode()
    assert re.search(r"1/1 .*\[\d\d:\d\d<\d\d:\d\d", text), text
    assert f"results: {tmp_path / 'out'}" in text
    assert "resuming" not in text
