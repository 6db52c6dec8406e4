# SPDX-License-Identifier: Apache-2.0
"""What is around a voxel within its axial slice and within the brain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

__all__ = ["mean_around"]


def mean_around(volume: np.ndarray, inside: np.ndarray, sigma: Sequence[float], step: Sequence[int]) -> np.ndarray:
    """Mean around each voxel, weighted by a Gaussian in its slice, of those voxels alone that are inside.

    It is taken on a coarse grid, which costs little and changes little where sigma is twice the step and more.

    Args:
        volume: (X, Y, Z).
        inside: bool, same shape.
        sigma: of the Gaussian along X and Y, voxels.
        step: voxels of the coarse grid along X and Y.

    Returns:
        float32, same shape; 0 far from all that is inside.
    """
    step = [min(each, length) for each, length in zip(step, volume.shape, strict=False)]
    both = torch.from_numpy(np.stack([np.where(inside, volume, 0), inside]).astype(np.float32).transpose(0, 3, 1, 2))
    # Whole steps, so that a coarse voxel lies where its voxels are; the frame is outside.
    width, height = (-length % each for length, each in zip(volume.shape, step, strict=False))
    coarse = F.avg_pool2d(F.pad(both, (0, height, 0, width)), step).numpy()
    coarse_sigma = [0, 0, *(one / each for one, each in zip(sigma, step, strict=True))]
    total, weight = ndimage.gaussian_filter(coarse, coarse_sigma, mode="constant")
    mean = torch.from_numpy(total / np.maximum(weight, 1e-6))[None]
    fine = F.interpolate(mean, scale_factor=tuple(map(float, step)), mode="bilinear", align_corners=False)[0]
    return fine.numpy().transpose(1, 2, 0)[: volume.shape[0], : volume.shape[1]]
