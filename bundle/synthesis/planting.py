# SPDX-License-Identifier: Apache-2.0
"""Small lesions, bright or dark, planted into healthy slices of real scans, at the scan's own resolution: a stand-in
for diseases of which there are no labels, such as white matter lesions, through everything that a scan goes through.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

__all__ = ["Planted", "plant_lesions"]

BENEATH_MM = 8.0  # centres lie deeper in the brain than its cortex
TISSUE = (0.8, 1.15)  # where centres may be, in multiples of the brain's median: neither fluid nor bright already
PARTS = 5  # of a slice that partial volume is summed over
RIM = (0.85, 1.15)  # of the radius, between which a lesion fades
SMOOTH_MM = 1.5  # noise finer than this does not say what tissue a voxel is


@dataclass(frozen=True)
class Planted:
    """A scan with lesions that are known.

    Attributes:
        scan: (X, Y, Z), in the units of the scan that they were planted in.
        lesion: bool, same shape: voxels of which at least half is lesion.
        count: of lesions.
    """

    scan: np.ndarray
    lesion: np.ndarray
    count: int


def plant_lesions(
    scan: np.ndarray,
    brain: np.ndarray,
    healthy: np.ndarray,
    spacing: Sequence[float],
    rng: np.random.RandomState,
    count: tuple[int, int] = (6, 25),
    diameter_mm: tuple[float, float] = (3.0, 11.0),
    contrast: tuple[float, float] = (0.2, 0.8),
) -> Planted:
    """Lay ellipsoids over the deep tissue of healthy slices, each brighter, or darker, than it by its own amount.

    Args:
        scan: (X, Y, Z), not negative, Z across axial slices.
        brain: bool, same shape.
        healthy: (Z,) bool, slices that may hold any.
        spacing: voxel size, mm.
        rng: source of everything random.
        count: of lesions, least and one more than most.
        diameter_mm: least and most; every order of size is as likely.
        contrast: what a lesion adds, least and most, in multiples of the brain's median; below zero for dark ones.

    Returns:
        the scan as it was, with a count of 0, where there is no such tissue.

    Raises:
        ValueError: on contrasts that do not rise, or of either sign at once.
    """
    if contrast[0] > contrast[1] or contrast[0] < 0 < contrast[1]:
        raise ValueError(f"contrast {list(contrast)} does not rise, or is of either sign: plant dark ones apart")
    stronger = np.maximum if contrast[1] > 0 else np.minimum
    median = float(np.median(scan[brain])) if brain.any() else 0.0
    allowed = brain & np.asarray(healthy)[None, None]
    smooth = ndimage.gaussian_filter(scan, [SMOOTH_MM / s if s < 2 * SMOOTH_MM else 0 for s in spacing])
    tissue = (smooth > TISSUE[0] * median) & (smooth < TISSUE[1] * median)
    deep = ndimage.distance_transform_edt(brain, sampling=spacing) > BENEATH_MM
    places = np.argwhere(tissue & deep & allowed)
    if not len(places):
        return Planted(scan, np.zeros(scan.shape, bool), 0)
    added, share = np.zeros(scan.shape, np.float32), np.zeros(scan.shape, np.float32)
    number = int(rng.randint(*count))
    for _ in range(number):
        centre, diameter = places[rng.randint(len(places))], np.exp(rng.uniform(*np.log(diameter_mm)))
        box, inside = _ellipsoid(scan.shape, centre, diameter / 2, spacing, rng)
        share[box] = np.maximum(share[box], inside)
        added[box] = stronger(added[box], inside * rng.uniform(*contrast))
    return Planted(np.maximum(scan + added * allowed * median, 0), (share >= 0.5) & allowed, number)


def _ellipsoid(
    shape: Sequence[int], centre: Sequence[float], radius: float, spacing: Sequence[float], rng: np.random.RandomState
) -> tuple[tuple[slice, ...], np.ndarray]:
    """A box of the grid, and what share of each of its voxels an ellipsoid of random axes fills."""
    axes = np.exp(rng.uniform(-0.35, 0.35, 3))
    axes *= radius / np.prod(axes) ** (1 / 3)
    reach = np.ceil(RIM[1] * axes / np.asarray(spacing)).astype(int) + 1
    box = tuple(slice(max(c - r, 0), min(c + r + 1, n)) for c, r, n in zip(centre, reach, shape, strict=True))
    filled = np.zeros([axis.stop - axis.start for axis in box])
    for part in (np.arange(PARTS) + 0.5) / PARTS - 0.5:  # partial volume in thick slices
        x, y, z = (
            (np.arange(axis.start, axis.stop) - c + shift) * s / a
            for axis, c, shift, s, a in zip(box, centre, (0, 0, part), spacing, axes, strict=True)
        )
        distance = np.sqrt(x[:, None, None] ** 2 + y[None, :, None] ** 2 + z[None, None] ** 2)
        filled += np.clip((RIM[1] - distance) / (RIM[1] - RIM[0]), 0, 1) / PARTS
    return box, filled
