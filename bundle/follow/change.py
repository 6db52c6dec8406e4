# SPDX-License-Identifier: Apache-2.0
"""What has changed between two maps on one grid: voxel by voxel in calibrated units, and finding by finding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy import ndimage

from ..scoring.findings import CORNERS, voxel_millilitres, voxel_sizes

__all__ = ["STATES", "Change", "Limits", "change_map", "matched", "summary"]

#: What a finding may be, in the order of the table.
STATES = ("new", "larger", "smaller", "gone", "unchanged")


@dataclass(frozen=True)
class Limits:
    """What counts as a change.

    Attributes:
        threshold: of the maps, from which on a voxel is a finding.
        least_change: of the map, in its units: 1 is ten times rarer.
        tolerance_mm: how far a place may be off, by registration and by the voxels of the coarser scan.
        least_ml: of a finding, and of what it has grown or shrunk by: voxels of which the map has changed so much.
    """

    threshold: float
    least_change: float = 1.0
    tolerance_mm: float = 3.0
    least_ml: float = 0.1


@dataclass(frozen=True)
class Change:
    """A finding of either scan, or several that touch.

    Attributes:
        state: one of `STATES`.
        earlier_ml, later_ml: volumes on the grid of the later scan; 0 where there is none.
        change: of the map, the largest within it, signed: more unusual now is positive.
        centre_mm: of its voxels, world of the later scan (RAS+), mm.
        centre_voxel: on the grid of the later scan.
    """

    state: str
    earlier_ml: float
    later_ml: float
    change: float
    centre_mm: tuple[float, float, float]
    centre_voxel: tuple[int, int, int]


def change_map(
    earlier: np.ndarray, later: np.ndarray, both: np.ndarray, affine: np.ndarray, limits: Limits
) -> np.ndarray:
    """What the map has more (positive) or less (negative) than anything within the tolerance had, or has now; 0 where
    neither map reaches the threshold, or only one of the scans shows the brain.

    Args:
        earlier, later: calibrated maps (X, Y, Z) on one grid.
        both: bool, same shape: brain that both scans show.
        affine: of the grid, 4 x 4, mm.
        limits: what counts.
    """
    ball = _ball(affine, limits.tolerance_mm)
    highest = [ndimage.grey_dilation(one, footprint=ball) for one in (earlier, later)]
    more, less = (later - highest[0]).clip(0), (earlier - highest[1]).clip(0)
    counts = both & (np.maximum(earlier, later) >= limits.threshold)
    return np.where(counts, more - less, 0).astype(np.float32)


def matched(
    earlier: np.ndarray,
    later: np.ndarray,
    both: np.ndarray,
    affine: np.ndarray,
    limits: Limits,
    kept: np.ndarray | None = None,
) -> list[Change]:
    """Findings of both scans, those within the tolerance of each other taken together.

    Args:
        earlier, later, both, affine, limits: see `change_map`.
        kept: bool, same shape: findings of either scan that are kept (`bundle.scoring.findings.kept`). What touches
            none of them is left out; None keeps all.

    Returns:
        the largest change of volume first.
    """
    ball, change = _ball(affine, limits.tolerance_mm), change_map(earlier, later, both, affine, limits)
    before, now = ((one >= limits.threshold) & both for one in (earlier, later))
    # Findings belong together where one lies within the tolerance of the other.
    joined = before | now | (ndimage.binary_dilation(before, ball) & ndimage.binary_dilation(now, ball))
    labels, count = ndimage.label(joined, structure=CORNERS)
    ml, found = voxel_millilitres(affine), []
    for number, box in enumerate(ndimage.find_objects(labels, count), start=1):
        inside = labels[box] == number
        if kept is not None and not (kept[box] & inside).any():
            continue
        masks = [part[box] & inside for part in (before, now)]
        values = change[box] * inside
        grown, shrunk = (float((part >= limits.least_change).sum() * ml) for part in (values, -values))
        volumes = [float(mask.sum() * ml) for mask in masks]
        if max(volumes) < limits.least_ml:
            continue
        strongest = float(values.ravel()[np.abs(values).argmax()])
        state = _state(volumes, grown, shrunk, limits)
        places = np.argwhere(masks[0] | masks[1]) + [axis.start for axis in box]
        found.append(_described(state, volumes, strongest, places, affine))
    return sorted(found, key=lambda one: (STATES.index(one.state) == 4, -abs(one.later_ml - one.earlier_ml)))


def _state(volumes: Sequence[float], grown: float, shrunk: float, limits: Limits) -> str:
    """Where the threshold of the map happens to lie says little: what counts is how much of it has changed clearly."""
    earlier, later = volumes
    if grown >= limits.least_ml and grown > shrunk and later > earlier:
        return "larger" if earlier else "new"
    if shrunk >= limits.least_ml and shrunk > grown and earlier > later:
        return "smaller" if later else "gone"
    return "unchanged"


def _described(state: str, volumes: Sequence[float], change: float, places: np.ndarray, affine: np.ndarray) -> Change:
    middle = places.mean(0)
    nearest = places[((places - middle) ** 2).sum(1).argmin()]
    x, y, z = (round(float(c), 2) for c in (affine @ [*middle, 1.0])[:3])
    i, j, k = (int(n) for n in nearest)
    return Change(state, round(volumes[0], 4), round(volumes[1], 4), round(change, 3), (x, y, z), (i, j, k))


def summary(changes: Sequence[Change]) -> dict:
    """Numbers and volumes by state, and the findings."""
    by_state = {state: [one for one in changes if one.state == state] for state in STATES}
    return {
        "counts": {state: len(found) for state, found in by_state.items()},
        "earlier_ml": round(sum(one.earlier_ml for one in changes), 3),
        "later_ml": round(sum(one.later_ml for one in changes), 3),
        "findings": [asdict(one) for one in changes],
    }


def _ball(affine: np.ndarray, radius_mm: float) -> np.ndarray:
    """Voxels within a radius, and the neighbours along every axis at least."""
    spacing = voxel_sizes(affine)
    reach = np.maximum(np.floor(radius_mm / spacing), 1).astype(int)
    offsets = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), -1)
    near = np.linalg.norm(offsets * spacing, axis=-1) <= radius_mm
    return near | (np.abs(offsets).sum(-1) <= 1)
