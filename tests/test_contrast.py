# SPDX-License-Identifier: Apache-2.0
"""T1w as FLAIR: the order of the tissues is that of FLAIR, other scans pass untouched."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from bundle.cases import CONTRAST
from bundle.errors import ScanError
from bundle.synthesis.painted_t1w import RandPaintT1wd, tissue_intensities
from tests.conftest import data_folder

LEVELS = {"fluid": 30.0, "grey": 80.0, "white": 120.0}


@pytest.fixture
def t1w():
    """Scan (1, X, Y, Z) of three noisy tissues in an empty frame, its tissues as numbers, and its brain."""
    rng, tissue = np.random.RandomState(0), np.zeros((40, 40, 12), int)
    tissue[4:36, 4:36] = 2
    tissue[10:30, 10:30] = 3
    tissue[16:24, 16:24] = 1
    scan = np.array([0, *LEVELS.values()])[tissue] + rng.normal(0, 4, tissue.shape) * (tissue > 0)
    return torch.from_numpy(scan.astype(np.float32))[None], tissue, tissue > 0


def test_tissues_are_found(t1w):
    scan, _, brain = t1w
    found = tissue_intensities(scan[0].numpy(), brain, np.random.RandomState(0))
    assert found == pytest.approx(list(LEVELS.values()), abs=3)


def case_of(scan, brain, **more):
    return {"image": MetaTensor(scan), "brain": MetaTensor(torch.from_numpy(brain)[None].float()), **more}


def test_grey_matter_becomes_the_brightest_and_fluid_stays_dark(t1w):
    scan, tissue, brain = t1w
    painter = RandPaintT1wd("image").set_random_state(0)
    shown = [painter(case_of(scan, brain, **{CONTRAST: "T1w"}))["image"].numpy()[0] for _ in range(4)]
    for image in shown:
        fluid, grey, white = (np.median(image[tissue == number]) for number in (1, 2, 3))
        assert 0 < fluid < 0.7 * white < white < grey
        assert (image[tissue == 0] == 0).all()
    assert not np.allclose(*shown[:2]), "every scan has ratios of its own"


def test_other_scans_pass(t1w):
    scan, _, brain = t1w
    case = case_of(scan, brain)
    assert RandPaintT1wd("image")(case)["image"] is case["image"]


def test_a_scan_without_tissues_is_refused(t1w):
    scan, _, brain = t1w
    with pytest.raises(ScanError, match="no three tissues"):
        RandPaintT1wd("image")(case_of((scan > 0) * 50.0, brain, **{CONTRAST: "T1w"}))


def test_a_real_brain_has_three_tissues():
    from bundle.io.nifti import read_scan

    path = sorted(data_folder("brain_t1_healthy").rglob("*_T1w.nii.gz"))[0]
    volume = read_scan(path)[0].numpy()
    fluid, grey, white = tissue_intensities(volume, volume > 0, np.random.RandomState(0))
    assert fluid < 0.7 * grey < grey < 0.95 * white
