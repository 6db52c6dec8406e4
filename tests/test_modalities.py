# SPDX-License-Identifier: Apache-2.0
"""The table of modalities: every row is whole, and nothing but the table knows their names."""

import re
import shutil
from pathlib import Path

import pytest
import torch

from bundle.cli import main
from bundle.errors import FlipmapError, cause_of
from bundle.modalities import FLAIR, MODALITIES, OCT, modality_of
from bundle.pipeline.job import Job
from tests.conftest import ROOT


@pytest.mark.parametrize("modality", MODALITIES.values(), ids=MODALITIES)
def test_a_row_is_whole(modality):
    assert modality_of(modality.name) is modality
    assert all(path.is_file() for path in [modality.split_path, *modality.configs()])
    assert all(modality.configs(method)[-1].stem == method for method in modality.methods)
    if not modality.calibrates("default"):
        with pytest.raises(Exception, match="Failed to") as caught:
            Job(modality.configs())
        assert "Train first" in cause_of(caught.value).remedy
        return
    job = Job(modality.configs(), calibration="none")
    assert job.modality is modality
    assert all(key in job.config.get() for key in modality.found_by)


def test_an_unknown_name_is_refused_with_those_that_are_known():
    with pytest.raises(FlipmapError, match="flair, t1w, t2w, oct"):
        modality_of("ultrasound")
    with pytest.raises(FlipmapError, match=r"disyre.*structured_flips"):
        FLAIR.configs("guessing")


def test_what_ships_without_a_calibration_says_so():
    """Brightness of a retina differs by camera."""
    assert not OCT.calibrates("intensity")
    assert OCT.calibrates("default")
    with pytest.raises(Exception, match="no entry") as caught:
        Job(OCT.configs("intensity"))
    assert "no entry 'intensity'" in cause_of(caught.value).reason


def test_a_contrast_without_weights_says_so(bids_folder, tmp_path, capsys):
    """As one has it that trains a contrast of its own."""
    for path in list(bids_folder.rglob("*_FLAIR.nii.gz")):
        shutil.copy(path, path.with_name(path.name.replace("FLAIR", "T2w")))
    asked = ["--config", str(ROOT / "configs" / "t2w.json"), "--set", f"weights={tmp_path / 'mine.pt'}"]
    assert main(["run", str(bids_folder), str(tmp_path / "out"), *asked, "-q"]) == 2
    said = capsys.readouterr().err
    assert "mine.pt" in said
    assert "Train first" in said
    assert not (tmp_path / "out").exists()


def test_no_string_test_of_a_modality():
    compared = re.compile(r"""[=!]=\s*["'](mri|flair|t1w|t2w|oct|brain|retina)["']|in \(["'](mri|flair|oct)["']""")
    for path in sorted((ROOT / "bundle").rglob("*.py")):
        assert not compared.search(Path(path).read_text()), path


@pytest.mark.parametrize("path", sorted((ROOT / "models").rglob("*.pt")), ids=lambda path: path.stem)
def test_weights_are_tensors_in_16_bits(path):
    state = torch.load(path, weights_only=True)
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float16}


def test_weights_are_small_enough_to_travel():
    assert sum(path.stat().st_size for path in (ROOT / "models").rglob("*.pt")) < 60e6
