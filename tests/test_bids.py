# SPDX-License-Identifier: Apache-2.0
"""``flipmap bids``: the command line of BIDS Apps."""

import csv
import shutil

import pytest

from bundle.cli import main
from tests.test_batch import shown_in


@pytest.fixture
def data(bids_folder):
    """Two participants, the second with two sessions."""
    for number in range(2, 6):
        shutil.rmtree(bids_folder / f"sub-{number:02d}")
    source = bids_folder / "sub-01"
    for session in ("a", "b"):
        target = bids_folder / "sub-01" / f"ses-{session}" / "anat"
        target.mkdir(parents=True)
        name = f"sub-01_ses-{session}_FLAIR.nii.gz"
        shutil.copy(source / "anat" / "sub-01_FLAIR.nii.gz", target / name)
    shutil.rmtree(source / "anat")
    return bids_folder


def done(output):
    with (output / "batch.csv").open() as file:
        return sorted(row["name"] for row in csv.DictReader(file) if row["status"].startswith("done"))


def test_participants_apart_then_the_group(data, tmp_path, capsys):
    output = tmp_path / "out"
    assert main(["bids", str(data), str(output), "participant", "--participant-label", "00"]) == 0
    assert not (output / "batch.csv").exists(), "runs of participants may go on at the same time"
    labels = ["--participant-label", "sub-01", "--session-label", "b"]
    assert main(["bids", str(data), str(output), "participant", *labels, "--n-cpus", "1"]) == 0
    assert (output / "sub-00" / "anat" / "sub-00_mod-FLAIR_desc-anomaly_map.nii.gz").is_file()
    assert (output / "sub-01" / "ses-b" / "anat" / "sub-01_ses-b_mod-FLAIR_desc-anomaly_map.nii.gz").is_file()
    assert not (output / "sub-01" / "ses-a").exists()
    assert main(["bids", str(data), str(output), "group"]) == 0
    assert len(done(output)) == 3, "FLAIR and T1w of the first, FLAIR of the second"
    assert main(["bids", str(data), str(output), "participant"]) == 0
    assert main(["bids", str(data), str(output), "group"]) == 0
    assert len(done(output)) == 4
    shown = {row["name"]: row["state"] for row in shown_in(output)}
    assert shown.pop("sub-00_FLAIRT1w") == "skipped", "the T1w scan of these heads is a FLAIR scan"
    assert list(shown.values()) == ["done"] * 4


def test_what_is_not_there_is_said(data, tmp_path, capsys):
    assert main(["bids", str(data), str(tmp_path / "out"), "participant", "--participant-label", "77"]) == 3
    assert "Check the labels" in capsys.readouterr().err
    assert main(["bids", str(tmp_path), str(tmp_path / "out"), "participant"]) == 3
    assert "no BIDS data set" in capsys.readouterr().err
    assert main(["bids", str(data), str(tmp_path / "empty"), "group"]) == 3
