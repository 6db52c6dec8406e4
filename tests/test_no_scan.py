# SPDX-License-Identifier: Apache-2.0
"""What has the shape of a head and is no MRI of one is named; real scans of all places, z-scored or not, pass."""

import numpy as np
import pytest
from scipy import ndimage

from bundle.errors import ScanError
from bundle.io.nifti import read_scan
from bundle.synthesis.sample import synthetic_head
from bundle.transforms.background import background_to_zero
from bundle.transforms.head import head_mask
from bundle.transforms.mri import to_axial
from bundle.transforms.no_scan import refuse_other_kinds
from tests.conftest import data_folder

SPACING = (2.0, 2.0, 4.0)


def ask(volume, spacing=SPACING):
    """As the preprocessing does."""
    zeroed = background_to_zero(volume.astype(np.float32), "x.nii.gz")
    head = head_mask(zeroed, spacing)
    assert head.any()
    refuse_other_kinds(zeroed, head, spacing, "x.nii.gz")


@pytest.fixture(scope="module")
def drawn():
    """A head, where it is, where its brain and its bone are, and a source of numbers."""
    scan, _, _ = synthetic_head((96, 112, 32), SPACING, lesion_mm=0, seed=1)
    scan = scan.astype(np.float32)
    head = head_mask(background_to_zero(scan), SPACING)
    plane = np.ones((3, 3, 1), bool)
    brain = ndimage.binary_erosion(head, plane, iterations=6)
    bone = ndimage.binary_erosion(head, plane, iterations=2) & ~brain
    return scan, head, brain, bone, np.random.RandomState(0)


def hounsfield(drawn):
    scan, head, brain, bone, rng = drawn
    tissue = np.where(brain, rng.normal(35, 6, scan.shape), rng.normal(20, 20, scan.shape))
    return np.where(head, np.where(bone, rng.normal(900, 150, scan.shape), tissue), -1000)


def statistic(drawn, smooth_mm=8.0):
    scan, head, _, _, rng = drawn
    noise, blobs = (
        ndimage.gaussian_filter(rng.normal(size=scan.shape), [mm / 2.355 / s for s in SPACING])
        for mm in (smooth_mm, 25.0)
    )
    return np.where(head, noise / noise.std() + blobs / blobs.std(), 0)


def probability(drawn):
    scan, _, brain, _, rng = drawn
    return np.clip(0.5 + 8 * ndimage.gaussian_filter(rng.normal(size=scan.shape), 2), 0, 1) * brain


def phase(drawn):
    scan, head, _, _, rng = drawn
    return np.where(head, (scan * 37) % 8192 - 4096, rng.uniform(-4096, 4096, scan.shape))


KINDS = {
    "CT": (hounsfield, "CT"),
    "CT with an offset": (lambda d: hounsfield(d) + 1024, "CT"),
    "CT with an offset, scaled": (lambda d: (hounsfield(d) + 1024) / 3000, "CT"),
    "CT without negative values": (lambda d: hounsfield(d).clip(0), "CT"),
    "CT in a window": (lambda d: hounsfield(d).clip(0, 80), "CT window"),
    "t values": (statistic, "statistical map"),
    "t values, hardly smoothed": (lambda d: statistic(d, 4.0), "statistical map"),
    "phase": (phase, "phase image"),
    "phase without a sign": (lambda d: phase(d) + 4096, "phase image"),
    "probability": (probability, "a map"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_scan_is_named(drawn, kind):
    make, reason = KINDS[kind]
    with pytest.raises(ScanError, match=reason) as caught:
        ask(make(drawn))
    assert caught.value.remedy


@pytest.mark.parametrize(
    "change",
    [
        lambda scan, head: scan,
        lambda scan, head: scan * 1e-4,
        lambda scan, head: scan + 1024,
        lambda scan, head: np.where(head, (scan - scan[head].mean()) / scan[head].std(), 0),
        lambda scan, head: (scan - scan.mean()) / scan.std(),
        lambda scan, head: np.minimum(scan, np.percentile(scan[head], 97)),
    ],
    ids=["as it is", "small numbers", "offset", "z-scored in the head", "z-scored", "clipped"],
)
def test_a_scan_passes_whatever_was_done_to_its_numbers(drawn, change):
    ask(change(drawn[0], drawn[1]))


PLACES = [
    "brain_lgg",
    "brain_wmh_auto",
    "brain_wml10",
    "brain_brats",
    "brain_t1_healthy",
    "brain_t1_ixi",
    "brain_t2_healthy",
]


@pytest.mark.parametrize("place", PLACES)
def test_real_scans_of_all_places_pass(place):
    paths = sorted(data_folder(place).glob("sub-*/anat/*.nii.gz"))
    for path in paths[:: max(1, len(paths) // 2)][:2]:
        scan = to_axial(read_scan(path))
        volume, spacing = scan[0].numpy(), tuple(float(size) for size in scan.pixdim)
        ask(volume, spacing)
        inside = head_mask(background_to_zero(volume), spacing)
        ask(np.where(inside, (volume - volume[inside].mean()) / volume[inside].std(), 0), spacing)
