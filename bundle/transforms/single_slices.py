# SPDX-License-Identifier: Apache-2.0
"""Single slices and thin stacks: whether their skull has been stripped, told from each slice by itself.

The network of the brain mask needs more of a head than that, and depth profiles of a slice through a neck or a vertex
look like those of a stripped brain (docs/brain_mask.md). So four numbers of a slice are weighed by logistic regression.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

from .head import box_of, head_mask

__all__ = ["SINGLE_MM", "THIN_MM", "features", "stripped_slices", "thickness"]

THIN_MM = 60.0  # a stack of less shows too little of a head for the rules of whole ones
SINGLE_MM = 20.0  # in less than this the network finds brain in a neck as well
LEAST_CM2 = 15.0  # of the largest slice: less is no brain
SLICES = 12  # of a stack that are looked at
SECTORS, STEPS, STEP_MM = 24, 14, 1.5  # around the middle of a slice, and into its depth
SCALP = 8  # steps that the scalp may reach into
VALLEY = 0.75  # of the darker of what lies on both sides: less is a skull
SMOOTH_MM = 1.0  # sigma, against noise
FEW = 3  # voxels of a sector at a depth: fewer have no median
INSIDE_MM = 6.0  # deeper than that is inside
#: Weights of `features`, and the sum from which on a slice counts as stripped.
WEIGHTS, INTERCEPT, SURE = (-6.38, -4.81, -6.03, -24.14), 53.33, 0.0


def thickness(shape: Sequence[int], spacing: Sequence[float]) -> float:
    """Of a stack along its thinnest axis, mm."""
    return float(min(n * s for n, s in zip(shape, spacing, strict=True)))


def stripped_slices(volume: np.ndarray, spacing: Sequence[float]) -> np.ndarray | None:
    """The head in a thin stack, when that is a brain without its skull: the mean over its slices says so.

    Args:
        volume: (X, Y, Z), not negative, background at 0; slices along any axis.
        spacing: mm.

    Returns:
        bool, same shape; None where there is a skull, or too little of anything.
    """
    axis = int(np.argmin([n * s for n, s in zip(volume.shape, spacing, strict=True)]))
    stack, across = np.moveaxis(volume, axis, -1), [*(s for n, s in enumerate(spacing) if n != axis), spacing[axis]]
    head = head_mask(stack, across)
    area = head.sum((0, 1)) * np.prod(across[:2]) / 100
    if area.max() < LEAST_CM2:
        return None
    filled = np.flatnonzero(area)
    chosen = filled[np.unique(np.linspace(0, len(filled) - 1, min(SLICES, len(filled))).round().astype(int))]
    sums = [np.dot(WEIGHTS, features(stack[..., z], head[..., z], across[:2])) + INTERCEPT for z in chosen]
    return np.moveaxis(head, -1, axis) if float(np.mean(sums)) >= SURE else None


def features(plane: np.ndarray, head: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Four numbers of a slice (X, Y): the share of its outline under which there is a skull; logarithms of its area in
    cm², and of how bright its brightest parts are, in multiples of its inside; and how convex it is.

    Args:
        plane: not negative.
        head: bool, same shape, not empty.
        spacing: mm.
    """
    box = box_of(head)
    plane, head = plane[box], head[box]
    depth = ndimage.distance_transform_edt(np.pad(head, 1), sampling=spacing)[1:-1, 1:-1]
    profiles = _profiles(ndimage.gaussian_filter(plane, [SMOOTH_MM / s for s in spacing]), head, depth, spacing)
    deep = depth > INSIDE_MM
    inside = float(np.median(plane[deep if deep.any() else head]))
    area = float(head.sum() * np.prod(spacing)) / 100
    bright = float(np.percentile(plane[head], 98)) / max(inside, 1e-9)
    skull = float(np.mean([_valley(profile) < VALLEY for profile in profiles])) if profiles else 0.0
    return np.array([skull, np.log(area), np.log(max(bright, 1e-3)), _convex(head, spacing)])


def _profiles(plane: np.ndarray, head: np.ndarray, depth: np.ndarray, spacing: Sequence[float]) -> list[np.ndarray]:
    """Median intensities by depth below the outline, a profile a sector around the middle."""
    places = np.argwhere(head) * np.array(spacing)
    x, y = (places - places.mean(0)).T
    sector = ((np.arctan2(x, y) + np.pi) / (2 * np.pi) * SECTORS).astype(int) % SECTORS
    step, values = (depth[head] / STEP_MM).astype(int), plane[head]
    profiles = []
    for one in range(SECTORS):
        layers = [values[(sector == one) & (step == number)] for number in range(STEPS)]
        profile = np.array([np.median(layer) for layer in layers if len(layer) >= FEW])
        if len(profile) >= STEPS - 4:
            profiles.append(profile)
    return profiles


def _valley(profile: np.ndarray) -> float:
    """How dark the darkest depth between two brighter ones is, in multiples of the darker of these."""
    return min(
        (
            float(profile[at] / max(min(profile[:at].max(), profile[at + 1 :].max()), 1e-9))
            for at in range(1, len(profile) - 1)
            if np.argmax(profile[:at]) < SCALP
        ),
        default=1.0,
    )


def _convex(head: np.ndarray, spacing: Sequence[float]) -> float:
    """Area over that of the convex hull of the voxels' centres."""
    places = np.argwhere(head) * np.array(spacing)
    try:
        return float(head.sum() * np.prod(spacing) / ConvexHull(places).volume)
    except QhullError:  # all in one line
        return 0.0
