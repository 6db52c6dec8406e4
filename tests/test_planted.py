# SPDX-License-Identifier: Apache-2.0
"""Planted lesions: of the size, brightness and place that was asked for, and nothing else of the scan changes."""

import csv

import numpy as np
import pytest

from bundle.cli import main
from bundle.commands.check_small_lesions import plant
from bundle.io.nifti import read_scan, write_map
from bundle.modalities import modality_of
from bundle.pipeline.job import Job
from bundle.synthesis.planting import plant_lesions
from bundle.synthesis.sample import synthetic_head
from bundle.transforms.mri import to_axial

SPACING = (1.0, 1.0, 5.0)


@pytest.fixture
def flat():
    """A flat brain of 100 in a head of 30: scan, brain mask, healthy slices."""
    scan, brain = np.full((90, 100, 20), 30.0, np.float32), np.zeros((90, 100, 20), bool)
    brain[10:80, 10:90, 2:18] = True
    scan[brain] = 100
    healthy = np.ones(20, bool)
    healthy[12:] = False
    return scan, brain, healthy


@pytest.mark.parametrize("seed", range(4))
def test_lesions_are_where_they_may_be(flat, seed):
    scan, brain, healthy = flat
    made = plant_lesions(scan, brain, healthy, SPACING, np.random.RandomState(seed))
    assert 6 <= made.count < 25
    assert made.lesion.any()
    changed = made.scan != scan
    assert (made.scan >= scan).all()
    assert not changed[~brain].any()
    assert not changed[..., ~healthy].any()
    assert changed[made.lesion].all()


def test_a_lesion_has_the_size_and_brightness_that_was_asked_for(flat):
    (scan, brain, _), fine, healthy = flat, (1.0, 1.0, 1.5), np.ones(20, bool)
    made = plant_lesions(scan, brain, healthy, fine, np.random.RandomState(0), (1, 2), (8.0, 8.0001), (0.5, 0.5001))
    assert made.count == 1
    assert 1.5 * made.lesion.sum() == pytest.approx(4 / 3 * np.pi * 4**3, rel=0.1)
    assert (made.scan - scan).max() == pytest.approx(50, rel=0.01)


def test_in_thick_slices_a_lesion_fills_a_part_of_a_voxel(flat):
    scan, brain, healthy = flat
    made = plant_lesions(scan, brain, healthy, SPACING, np.random.RandomState(0), (1, 2), (3.0, 3.0001), (0.5, 0.5001))
    assert 0 < (made.scan - scan).max() < 45, "3 mm in slices of 5 mm"


def test_without_tissue_nothing_is_planted(flat):
    scan, brain, _ = flat
    made = plant_lesions(scan, brain, np.zeros(20, bool), SPACING, np.random.RandomState(0))
    assert made.count == 0
    np.testing.assert_array_equal(made.scan, scan)


def test_dark_lesions(flat):
    scan, brain, healthy = flat
    made = plant_lesions(scan, brain, healthy, SPACING, np.random.RandomState(0), contrast=(-1.5, -0.4))
    changed = made.scan != scan
    assert (made.scan <= scan).all() and made.scan.min() == 0, "never below nothing"
    assert changed[made.lesion].all() and not changed[~brain].any()
    for wrong in ((-0.5, 0.5), (0.5, -0.5), (0.5, 0.2)):
        with pytest.raises(ValueError, match="either sign"):
            plant_lesions(scan, brain, healthy, SPACING, np.random.RandomState(0), contrast=wrong)


@pytest.mark.parametrize(("modality", "sign"), [("t1w", -1), ("t2w", 1)])
def test_planted_into_other_contrasts(modality, sign, tmp_path):
    known = modality_of(modality)
    drawn, _, affine = synthetic_head((80, 92, 14), (2.4, 2.4, 9.0), seed=3, contrast=known.suffix)
    path = tmp_path / f"sub-1_{known.suffix}.nii.gz"
    write_map(path, drawn, affine, np.float32)
    job = Job(known.configs(), check_contrast=False, precision="float32")
    made = plant({"image": str(path), "name": "sub-1"}, job.preprocessing, 0, tmp_path, known)
    change = made.intensity - np.maximum(to_axial(read_scan(path))[0].numpy(), 0)
    assert made.lesion.any()
    assert (sign * change[made.lesion] > 0).all()


def test_a_table_of_another_contrast(tmp_path, capsys):
    """The parts that the split fills; a row a method, of the sign that suits the contrast."""
    drawn, _, affine = synthetic_head((80, 92, 14), (2.4, 2.4, 9.0), seed=3, contrast="T2w")
    write_map(tmp_path / "in" / "sub-siat5" / "anat" / "sub-siat5_T2w.nii.gz", drawn, affine, np.float32)
    arguments = ["check-small-lesions", "--modality", "t2w", "--dataset_dir", str(tmp_path / "in")]
    assert main([*arguments, "--output_dir", str(tmp_path / "out")]) == 0
    with (tmp_path / "out" / "small_lesions_t2w.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert {row["part"] for row in rows.values()} == {"validation"}
    assert list(rows) == [
        *("raw intensity", "intensity on the model's grid", "intensity, smoothed", "structured flips", "default")
    ]
    assert all(0 < float(row["auprc"]) < 1 for row in rows.values())
