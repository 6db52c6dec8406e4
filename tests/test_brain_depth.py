# SPDX-License-Identifier: Apache-2.0
"""Depth below the brain's surface: right in millimetres, the same however the scan lies, and it reaches the method."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor, list_data_collate
from monai.transforms import Compose, Orientationd

from bundle.io.nifti import write_map
from bundle.transforms.brain_depth import DEPTH, BrainDepthd, brain_depth
from bundle.transforms.mri import LoadScand, ToModelGridd
from tests.test_mri import CODES, oblique, reoriented

GRID = {"size": (64, 64), "spacing": 3.75}


def prepared(image, brain) -> MetaTensor:
    transform = Compose(
        [
            LoadScand(["image", "brain"], label_keys=["brain"]),
            Orientationd(["image", "brain"], axcodes="LPS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            ToModelGridd("image", source_key="brain", **GRID),
            BrainDepthd("image"),
        ]
    )
    return transform({"image": image, "brain": brain})["image"]


@pytest.fixture
def ball(tmp_path, head):
    """Scan and brain mask on disk: a cylinder of 60 mm across slices around the head's middle."""
    scan, _, affine = head
    x, y = ((np.arange(n) - (n - 1) / 2) * 2.0 for n in scan.shape[:2])
    brain = np.broadcast_to((np.hypot(x[:, None], y[None]) < 60)[..., None], scan.shape).astype(np.uint8)
    return scan, brain, affine


def written(tmp_path, ball, codes="LPS", tilt=0.0):
    scan, brain, affine = ball
    paths = []
    for name, values in (("image", scan), ("brain", brain)):
        data, its_affine = reoriented(values, oblique(affine, tilt), codes)
        write_map(tmp_path / f"{name}_{codes}.nii.gz", data, its_affine, np.int16)
        paths.append(tmp_path / f"{name}_{codes}.nii.gz")
    return paths


def test_depth_is_in_millimetres(tmp_path, ball):
    image = prepared(*written(tmp_path, ball))
    depth = brain_depth(image)[0]
    assert depth.shape == image.shape[1:]
    assert depth.max() == pytest.approx(60, abs=4)
    middle = depth[..., depth.shape[2] // 2]
    centre = np.unravel_index(middle.argmax(), middle.shape)
    rows, columns = np.indices(middle.shape)
    distance = 3.75 * np.hypot(rows - centre[0], columns - centre[1])
    inside = (middle > 0) & (distance > 8)
    assert np.abs(60 - distance - middle)[inside].max() < 2 * 3.75, "two voxels"
    assert (middle[distance > 68] == 0).all()


@pytest.mark.parametrize("codes", CODES)
def test_depth_does_not_hang_on_the_orientation(tmp_path, ball, codes):
    reference = brain_depth(prepared(*written(tmp_path, ball, "LPS", 18)))
    np.testing.assert_allclose(brain_depth(prepared(*written(tmp_path, ball, codes, 18))), reference, atol=0.1)


def test_depth_travels_with_the_scan(tmp_path, ball):
    image = prepared(*written(tmp_path, ball))
    expected = brain_depth(image)
    for batch in (image[None], list_data_collate([{"image": image}])["image"], image[None].to("cpu", torch.float32)):
        found = brain_depth(batch)
        assert found.shape == (1, 1, *image.shape[1:])
        np.testing.assert_array_equal(found[0], expected)
    two = list_data_collate([{"image": image}, {"image": image}])["image"]
    assert brain_depth(two).shape == (2, 1, *image.shape[1:])


def test_where_nobody_noted_a_depth_there_is_none(head):
    scan = torch.from_numpy(head[0].astype("float32"))[None]
    assert brain_depth(scan) is None
    assert brain_depth(MetaTensor(scan)) is None
    assert DEPTH not in MetaTensor(scan).meta
