# SPDX-License-Identifier: Apache-2.0
"""Where findings lie, in words: on a drawn brain, and on label maps of heads."""

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from bundle.scoring.findings import CoarseDepth
from bundle.scoring.where import CLASSES, BrainPlaces, ventricle_points
from bundle.transforms.brain_depth import depth_in_slices
from tests.conftest import DATA

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
#: FreeSurfer's numbers.
LEFT, VENTRICLES, POSTERIOR_FOSSA = (2, 3), (4, 43), (7, 8, 46, 47, 16)
WHITE, CORTEX = (2, 41), (3, 42)
WORDS = {
    "fossa": "infratentorial",
    "ventricle": "periventricular",
    "cortex": "cortical or juxtacortical",
    "white": "cortical or juxtacortical",
}


@pytest.fixture(scope="module")
def drawn():
    """An ellipsoid of 140 x 170 x 130 mm with a slit of fluid in its middle; world coordinates begin at its corner."""
    x, y, z = (np.arange(n) * 2.0 for n in (80, 96, 76))
    at = np.meshgrid(x, y, z, indexing="ij")
    brain = sum(((a - c) / r) ** 2 for a, c, r in zip(at, (80, 96, 76), (70, 85, 65), strict=True)) < 1
    fluid = sum(((a - c) / r) ** 2 for a, c, r in zip(at, (80, 96, 80), (12, 30, 10), strict=True)) < 1
    scan = np.where(fluid, 0.05, 1 / 3) * brain
    points = ventricle_points(scan, depth_in_slices(brain, (2, 2)), AFFINE)
    return BrainPlaces(brain, AFFINE, points)


@pytest.mark.parametrize(
    ("centre", "depth", "words"),
    [
        ((60, 96, 80), 40, "left, deep"),
        ((66, 96, 80), 50, "left, periventricular"),
        ((98, 110, 80), 48, "right, deep"),
        ((80, 60, 80), 50, "midline, deep"),
        ((140, 96, 80), 6, "right, cortical or juxtacortical"),
        ((100, 40, 40), 20, "right, infratentorial"),
        ((100, 140, 40), 20, "right, deep"),
    ],
)
def test_on_a_drawn_brain(drawn, centre, depth, words):
    assert drawn.name(np.array(centre, float), depth) == words


def test_bright_fluid_is_found_too():
    scan, depth = np.full((60, 60, 10), 1 / 3), np.full((60, 60, 10), 30.0)
    scan[20:30, 20:30, 4:6] = 0.9
    assert len(ventricle_points(scan, depth, AFFINE)) == 0
    points = ventricle_points(scan, depth, AFFINE, bright_fluid=True)
    assert (points.min(0) >= 36).all() or points.min() >= 8
    assert points[:, 0].min() >= 40
    assert points[:, 0].max() <= 60


def test_without_a_brain_there_is_no_place():
    assert BrainPlaces(np.zeros((10, 10, 10)), AFFINE).name(np.zeros(3), 0.0) == ""


def test_a_slab_has_no_posterior_fossa():
    """Where the field of view ends is not known to be the vertex."""
    slab = BrainPlaces(np.ones((70, 80, 20)), AFFINE)
    assert slab.name(np.array([40.0, 20.0, 2.0]), 30.0) == "left, deep"


@pytest.mark.skipif(not (DATA / "brain_labels").is_dir(), reason="no label maps here")
def test_on_label_maps_of_heads():
    """Sides are right; of the posterior fossa and of ventricles at least four fifths are named as such, of cortex and
    the white matter within 4 mm of it at least half, and few of the white matter that is farther from it.
    """
    rng, right = np.random.RandomState(0), {"side": [], "fossa": [], "ventricle": [], "cortex": [], "white": []}
    for path in sorted((DATA / "brain_labels").glob("*.nii.gz"))[:4]:
        image = nib.as_closest_canonical(nib.load(path))
        labels = np.asarray(image.dataobj).astype(int)[::2, ::2, ::2]
        affine, brain = image.affine @ np.diag([2, 2, 2, 1]), (labels > 0) & (labels < 500)
        scan = np.where(np.isin(labels, (*VENTRICLES, 5, 44, 24, 14, 15)), 0.05, 1 / 3) * brain
        places = BrainPlaces(brain, affine, ventricle_points(scan, depth_in_slices(brain, (2, 2)), affine))
        depth = CoarseDepth(brain, affine)

        def name(voxel, places=places, affine=affine, depth=depth):
            return places.name(affine[:3, :3] @ voxel + affine[:3, 3], depth.mean(voxel[None])).split(", ")

        away = 2 * ndimage.distance_transform_edt(~np.isin(labels, CORTEX))
        for where, what in (
            (np.isin(labels, WHITE + CORTEX), "side"),
            (np.isin(labels, POSTERIOR_FOSSA), "fossa"),
            (np.isin(labels, VENTRICLES), "ventricle"),
            (np.isin(labels, WHITE + CORTEX) & (away <= 4), "cortex"),
            (np.isin(labels, WHITE) & (away > 4), "white"),
        ):
            voxels = np.argwhere(where)
            for voxel in voxels[rng.choice(len(voxels), 60)]:
                side, kind = name(voxel)
                assert kind in CLASSES
                if what == "side" and side != "midline":
                    right[what].append((labels[tuple(voxel)] in LEFT) == (side == "left"))
                elif what != "side":
                    right[what].append(kind == WORDS[what])
    assert np.mean(right["side"]) == 1
    assert np.mean(right["fossa"]) >= 0.8
    assert np.mean(right["ventricle"]) >= 0.8
    assert np.mean(right["cortex"]) >= 0.5
    assert np.mean(right["white"]) <= 0.2
