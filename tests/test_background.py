# SPDX-License-Identifier: Apache-2.0
"""A scan with an offset, z-scored, or in a bright frame is the same scan: the whole pipeline finds the same brain in
it, and marks the same voxels.
"""

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from bundle.datasets import training_cases
from bundle.errors import ScanError
from bundle.evaluation.protocol import dice
from bundle.io.nifti import scan_from_array
from bundle.pipeline.job import Job
from bundle.transforms.background import background_to_zero
from bundle.transforms.head import head_mask
from tests.conftest import ROOT, data_folder


def brain_of(scan):
    """A crude inside, for scoring against."""
    return scan > np.percentile(scan[scan > 0], 30)


def head_of(scan):
    """The head without holes, dark as they may be."""
    return ndimage.binary_fill_holes(scan > 0)


def scored(values, mask):
    return ((values - values[mask].mean()) / values[mask].std()).astype(np.float32)


#: What others do to a scan before they hand it on. Air is 0 in the scan.
CHANGES = {
    "offset": lambda s: s + 1000.0,
    "negative offset": lambda s: s - 500.0,
    "an offset as large as Hounsfield's": lambda s: s - 1000.0,
    "a fifth of its range above zero": lambda s: s + 0.2 * np.percentile(s, 99),
    "z-scored over the frame": lambda s: scored(s, np.ones(s.shape, bool)),
    "z-scored over the head": lambda s: scored(s, s > 0),
    "z-scored over the brain": lambda s: scored(s, brain_of(s)),
    "z-scored over the head, zero outside": lambda s: np.where(s > 0, scored(s, s > 0), 0),
    "a frame of middling brightness": lambda s: np.where(head_of(s), s, 0.37 * s.max() + 0.1),
    "a white frame": lambda s: np.where(head_of(s), s, s.max()),
    "scaled": lambda s: 0.001 * s,
}


@pytest.fixture(scope="module")
def job():
    return Job(precision="float32")


@pytest.fixture(scope="module")
def scans(head):
    """Name → scan with air at 0, and its affine: a synthetic head, and real ones where they are."""
    scan, _, affine = head
    spacing = tuple(np.abs(np.diag(affine)[:3]))
    found = {"synthetic": (np.where(head_mask(scan.astype(np.float32), spacing), np.maximum(scan, 1), 0), affine)}
    try:
        root = data_folder("brain_lgg")
    except pytest.skip.Exception:
        return found
    for case in training_cases(root, "test", split=ROOT / "configs" / "splits" / "lgg_flair.json"):
        if case["name"].startswith(("sub-CS4941", "sub-DU7018", "sub-FGA60K")):
            image = nib.load(case["image"])
            found[case["name"]] = np.asarray(image.dataobj, dtype=np.float32), image.affine
    return found


@pytest.fixture(scope="module")
def plain(job, scans):
    """Name → what the job says of the scan as it is, made when it is asked for."""

    class Results(dict):
        def __missing__(self, name):
            scan, affine = scans[name]
            self[name] = job({"image": scan_from_array(scan.astype(np.float32), affine)})
            return self[name]

    return Results()


@pytest.mark.parametrize("change", CHANGES)
def test_the_same_brain_and_the_same_mask(job, scans, plain, change):
    _same_after(change, "synthetic", job, scans, plain)


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_the_same_of_real_scans(job, scans, plain, change):
    for name in scans:
        _same_after(change, name, job, scans, plain)


def _same_after(change, name, job, scans, plain):
    scan, affine = scans[name]
    changed = job({"image": scan_from_array(CHANGES[change](scan.astype(np.float32)), affine)})
    for key in ("brain", "mask"):
        same = dice(*(result[key][0].numpy() > 0 for result in (plain[name], changed)))
        assert same >= 0.95, f"{name}: {key} {same:.3f}"


def test_air_with_noise_and_an_offset():
    """Where air is no fill but noise, its median is the offset."""
    rng = np.random.RandomState(0)
    scan = np.zeros((40, 40, 10))
    scan[10:30, 10:30] = 200
    noisy = np.hypot(scan + 5 * rng.standard_normal(scan.shape), 5 * rng.standard_normal(scan.shape))
    zero, shifted = background_to_zero(noisy), background_to_zero(noisy + 700)
    np.testing.assert_allclose(zero, shifted, atol=1e-3)
    assert np.median(zero[:5]) < 3


def test_a_frame_that_shows_no_air_is_left_alone():
    scan = np.random.RandomState(0).normal(150, 10, (20, 20, 5))
    scan[9:11, 9:11] = 400  # tissue has bright voxels, air has none
    np.testing.assert_allclose(background_to_zero(scan), scan, rtol=1e-6)


@pytest.mark.parametrize("fill", [-1000, -1024, -2000, -3024])
def test_a_ct_is_refused(fill):
    rng = np.random.RandomState(0)
    scan = np.full((40, 40, 10), float(fill))
    scan[5:35, 5:35] = rng.normal(-1000, 10, (30, 30, 10))
    scan[10:30, 10:30] = rng.normal(35, 10, (20, 20, 10))
    with pytest.raises(ScanError, match="look like a CT's"):
        background_to_zero(scan)
