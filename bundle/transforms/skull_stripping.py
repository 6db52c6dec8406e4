# SPDX-License-Identifier: Apache-2.0
"""Whether a scan's skull has been stripped: bone is dark in every contrast of MRI, and lies between scalp and brain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from .head import box_of

__all__ = ["SHARE", "is_stripped", "skull_ratio"]

SHARE = 0.6  # of the head taken for brain, above which nothing else is asked: thin skulls have up to 0.59
LEAST_SHARE = 0.53  # whole heads have up to 0.53
SLAB_ML = 300.0  # of brain: in less the share says nothing, since the network needs more of a head than that
NO_SKULL = 0.96  # skulls make 0.1 to 0.9, stripped brains 0.97 and more (docs/brain_mask.md)
DEPTHS_MM, STEP_MM = 20.0, 2.0  # of the profile
OUTER = 6  # steps of it that the scalp may reach into
SLICES = 12  # that are looked at


def skull_ratio(volume: np.ndarray, head: np.ndarray, brain: np.ndarray, spacing: Sequence[float]) -> float:
    """How dark the darkest depth between two brighter ones is, in multiples of the darker of these.

    Median intensities by depth below the head's surface, in the slices that show at least half of the brain's largest
    area: a skull makes a valley (0.3 to 0.9), a stripped brain has none (about 1).

    Args:
        volume: (X, Y, Z), not negative, axial slices along Z.
        head, brain: bool, same shape; the brain may be a rough one, but not empty.
        spacing: voxel size, mm.
    """
    area = brain.sum((0, 1))
    shown = np.flatnonzero(area >= area.max() / 2)
    shown = shown[np.linspace(0, len(shown) - 1, min(SLICES, len(shown))).astype(int)]
    box = box_of(head)[:2]
    depth = np.stack([_depth(head[(*box, z)], spacing[:2]) for z in shown])
    values = np.stack([volume[(*box, z)] for z in shown])
    profile = [
        np.median(values[layer])
        for edge in np.arange(0, DEPTHS_MM, STEP_MM)
        if (layer := (depth > edge) & (depth <= edge + STEP_MM)).any()
    ]
    return min(
        (
            float(profile[valley] / max(min(max(profile[:valley]), max(profile[valley + 1 :])), 1e-9))
            for valley in range(1, len(profile) - 1)
            if np.argmax(profile[:valley]) < OUTER
        ),
        default=1.0,
    )


def is_stripped(volume: np.ndarray, head: np.ndarray, brain: np.ndarray, spacing: Sequence[float]) -> bool:
    """Whether the head is the brain; arguments as of `skull_ratio`."""
    share = brain[head].mean()
    if share > SHARE:
        return True
    if share < LEAST_SHARE and brain.sum() * np.prod(spacing) / 1000 >= SLAB_ML:
        return False
    return skull_ratio(volume, head, brain, spacing) >= NO_SKULL


def _depth(head: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Below the surface (X, Y), mm; the frame's edge counts as surface."""
    return ndimage.distance_transform_edt(np.pad(head, 1), sampling=spacing)[1:-1, 1:-1]
