# SPDX-License-Identifier: Apache-2.0
"""Resampling along the axes: the same as MONAI's at once, and exact where the grids are the same."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import SpatialResample

from bundle.transforms.resample import resample

VALUES = torch.rand((2, 13, 11, 6), generator=torch.Generator().manual_seed(0))


def scaled(scales, first):
    to_voxel = np.diag([*scales, 1.0])
    to_voxel[:3, 3] = first
    return to_voxel


@pytest.mark.parametrize("beyond", ["zeros", "border"])
@pytest.mark.parametrize("to_voxel", [scaled((0.7, 1.3, 1), (0.25, -3.4, 0)), scaled((2, 0.5, 1.5), (-1.3, 0.6, -2.2))])
def test_as_monai_does_it(to_voxel, beyond):
    shape = (20, 9, 8)
    monai = SpatialResample(mode="bilinear", padding_mode=beyond, align_corners=False, dtype=torch.float64)
    expected = monai(MetaTensor(VALUES), dst_affine=torch.from_numpy(to_voxel), spatial_size=shape)
    found = resample(VALUES, to_voxel, shape, beyond)
    assert found.shape == (2, *shape)
    torch.testing.assert_close(found, expected.as_tensor().float(), atol=1e-5, rtol=0)


def test_the_same_grid_is_not_touched():
    assert torch.equal(resample(VALUES, np.eye(4), VALUES.shape[1:]), VALUES)


def test_a_mirrored_axis():
    found = resample(VALUES, scaled((-1, 1, 1), (12, 0, 0)), VALUES.shape[1:])
    torch.testing.assert_close(found, VALUES.flip(1))


def test_turned_grids_are_refused():
    turned = np.eye(4)
    turned[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    with pytest.raises(ValueError, match="share their axes"):
        resample(VALUES, turned, VALUES.shape[1:])
