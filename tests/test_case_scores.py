# SPDX-License-Identifier: Apache-2.0
"""Case scores of healthy tissue: those that ship belong to the calibrations that ship, and say how they were made."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bundle.evaluation.case_scores import healthy_case_scores
from bundle.io.nifti import write_map
from bundle.modalities import MODALITIES
from bundle.pipeline.job import CASE_SCORES, Job
from tests.conftest import ROOT

SHIPPED = {"flair": ROOT / "models" / CASE_SCORES, "t1w": ROOT / "models" / "t1w" / CASE_SCORES}


@pytest.mark.parametrize("modality", SHIPPED)
def test_what_ships_belongs_together(modality):
    job = Job(MODALITIES[modality].configs())
    found = job.healthy_case_scores
    assert found is not None, "made for another calibration: flipmap case-scores DATA"
    assert len(found["scores"]) >= 30
    assert found["scores"] == sorted(found["scores"])
    assert MODALITIES[modality].suffix in found["what"]
    assert max(found["scores"]) <= job.calibration_points["end"]


def test_scores_of_another_calibration_are_not_shown(tmp_path, monkeypatch):
    job = Job()
    monkeypatch.setattr(Job, "calibration_hash", "another")
    assert job.healthy_case_scores is None
    assert Job(calibration="none").healthy_case_scores is None


def test_lesions_do_not_count(head, tmp_path):
    """A drawn lesion in every slice leaves nothing; without its mask the scan has a score."""
    scan, lesion, affine = head
    write_map(tmp_path / "a.nii.gz", scan, affine, np.int16)
    write_map(tmp_path / "few.nii.gz", lesion, affine, np.uint8)
    everywhere = lesion.copy()
    everywhere[48, 56] = 1
    write_map(tmp_path / "all.nii.gz", everywhere, affine, np.uint8)
    job, image = Job(), str(tmp_path / "a.nii.gz")
    (whole,) = healthy_case_scores(job, [{"image": image, "name": "a"}])
    assert healthy_case_scores(job, [{"image": image, "name": "a", "label": str(tmp_path / "all.nii.gz")}]) == []
    rest = healthy_case_scores(job, [{"image": image, "name": "a", "label": str(tmp_path / "few.nii.gz")}])
    assert all(score <= whole for score in rest)
    assert json.loads(SHIPPED["flair"].read_text())["fused"]["what"].startswith("lesion-free slices")
