# SPDX-License-Identifier: Apache-2.0
"""A map sharpened by its scan: scores are known on a coarse grid, the scan says where the edge is."""

from __future__ import annotations

import torch

__all__ = ["guided_filter", "sharpen"]

NOISE = 0.01  # standard deviation of the guide, in its units, below which it shows no edge
FLOOR = 0.01  # scores far below it are alike, whatever their ratio


def guided_filter(values: torch.Tensor, guide: torch.Tensor, radius: int, noise: float = NOISE) -> torch.Tensor:
    """In every window the line a · guide + b that fits the values best; a voxel gets the mean of its windows' lines.

    He, Sun and Tang, "Guided Image Filtering", ECCV 2010, equations 5 to 8.

    Args:
        values, guide: (N, 1, H, W).
        radius: of the square windows, voxels; they have 2 · radius + 1 a side.
        noise: square root of the paper's ε.

    Returns:
        the shape of ``values``.
    """
    rows, columns = (_box(size, radius, values) for size in values.shape[2:])

    def mean(x: torch.Tensor) -> torch.Tensor:
        return rows @ x @ columns.T

    guide_mean, value_mean = mean(guide), mean(values)
    covariance = mean(guide * values) - guide_mean * value_mean
    variance = (mean(guide * guide) - guide_mean**2).clamp(min=0)
    slope = covariance / (variance + noise**2)
    return mean(slope) * guide + mean(value_mean - slope * guide_mean)


def _box(size: int, radius: int, like: torch.Tensor) -> torch.Tensor:
    """Matrix (size, size) whose product with a vector is its mean over windows, cut off at the ends: several times as
    fast as pooling with windows of this width.
    """
    place = torch.arange(size, device=like.device)
    within = ((place[:, None] - place[None]).abs() <= radius).to(like.dtype)
    return within / within.sum(1, keepdim=True)


def sharpen(scores: torch.Tensor, slices: torch.Tensor, radius: int) -> torch.Tensor:
    """The guided filter over log(1 + score / `FLOOR`), so that a faint lesion's edge counts as much as a bright one's.

    Args:
        scores: (N, 1, H, W), not negative.
        slices: (N, C, H, W), intensities in [0, 1]; their mean over channels is the guide.
        radius: of the windows, voxels.

    Returns:
        (N, 1, H, W), not negative, in the logarithm's units.
    """
    guide = slices.float().mean(1, keepdim=True)
    return guided_filter(torch.log1p(scores.float() / FLOOR), guide, radius).clamp(min=0)
