# SPDX-License-Identifier: Apache-2.0
"""How often healthy tissue lights up at each place of the brain: at its vertex and base far more than in its depth.

The common space is the box around the brain in the scan: how far from the middle to the side, from back to front and
from foot to head; both halves are one. An affine registration to a template made of label maps was tried and did worse,
since the first and last slices light up wherever they lie (docs/decisions/0015-odds-of-findings.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from .geometry import voxel_millilitres, voxel_sizes

__all__ = ["CELLS", "BrainBox", "PlaceRates"]

GRID = 16  # cells from the middle to the side, from back to front, and from foot to head
CELLS = GRID**3
SPREAD = 1.0  # cells: standard deviation of the Gaussian that smooths the counts
PRIOR_ML = 0.56  # a cell: so much tissue with the mean rate is added, so that cells with little say little
LEAST_LIT_ML = 1.0  # a set of which less lights up says nothing of places
OUTSIDE = 0.005  # of the brain may lie outside its box, at each side
WHOLE_MM = 90.0  # least sides of the box of a whole brain


class BrainBox:
    """The box around a brain, along the axes of its scan.

    Args:
        brain: mask (X, Y, Z).
        affine: its, voxel → world (RAS+), 4 x 4, mm.
    """

    def __init__(self, brain: np.ndarray, affine: np.ndarray) -> None:
        mask, self._affine = np.asarray(brain) > 0, np.asarray(affine, dtype=float)
        sizes = voxel_sizes(self._affine)
        directions = self._affine[:3, :3] / sizes
        #: Of right, front and head: the scan's axis that points there, or away from there.
        self._axes = np.abs(directions).argmax(axis=1)
        self._away = np.array([directions[n, axis] < 0 for n, axis in enumerate(self._axes)])
        self._low, self._size = np.zeros(3), np.ones(3)
        self.whole = bool(mask.any()) and len(set(self._axes)) == 3
        if not self.whole:
            return
        for n, axis in enumerate(self._axes):
            profile = np.cumsum(mask.sum(tuple(other for other in range(3) if other != axis)))
            low, high = np.searchsorted(profile / profile[-1], [OUTSIDE, 1 - OUTSIDE])
            self._low[n], self._size[n] = low, high - low + 1
        self.whole = bool((self._size * sizes[self._axes] >= WHOLE_MM).all())

    def at(self, voxels: np.ndarray) -> np.ndarray:
        """Places (N, 3) of voxels (N, 3): 0 in the middle to 1 at the side, 0 to 1 to the front, and to the head."""
        along = (np.asarray(voxels, dtype=float)[:, self._axes] - self._low + 0.5) / self._size
        along = np.where(self._away, 1 - along, along)
        return np.column_stack([np.abs(2 * along[:, 0] - 1), along[:, 1:]])

    def at_mm(self, points: Sequence[Sequence[float]]) -> np.ndarray:
        """The same of world coordinates (RAS+), mm."""
        inverse = np.linalg.inv(self._affine)
        return self.at(np.asarray(points, dtype=float).reshape(-1, 3) @ inverse[:3, :3].T + inverse[:3, 3])

    def volumes(self, mask: np.ndarray) -> np.ndarray:
        """Millilitres of a mask in each cell, (CELLS,)."""
        cells = np.clip((self.at(np.argwhere(mask)) * GRID).astype(int), 0, GRID - 1)
        counts = np.bincount(np.ravel_multi_index(cells.T, (GRID,) * 3), minlength=CELLS)
        return counts * voxel_millilitres(self._affine)


class PlaceRates:
    """Rates of healthy tissue by place, relative to their mean; a set of scans counts by its tissue, not by its rate.

    Args:
        tissue: of each set of scans, healthy tissue in each cell and how much of it lights up, ml; (CELLS,) each.
    """

    def __init__(self, tissue: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
        looked_at, lit = np.zeros(CELLS), np.zeros(CELLS)
        for volume, raised in tissue:
            if (all_raised := float(np.sum(raised))) >= LEAST_LIT_ML:
                looked_at += volume
                lit += np.asarray(raised) * np.sum(volume) / all_raised
        rates = (_smooth(lit) + PRIOR_ML) / (_smooth(looked_at) + PRIOR_ML)
        self._decades = np.log10(rates)

    def decades(self, places: np.ndarray) -> np.ndarray:
        """Decimal logarithm of the rate at places (N, 3) of `BrainBox`."""
        cells = np.asarray(places, dtype=float).reshape(-1, 3).T * GRID - 0.5
        return ndimage.map_coordinates(self._decades, cells, order=1, mode="nearest")


def _smooth(cells: np.ndarray) -> np.ndarray:
    """Over both halves, which mirror each other."""
    half = np.asarray(cells, dtype=float).reshape((GRID,) * 3)
    whole = ndimage.gaussian_filter(np.concatenate([half[::-1], half]), SPREAD, mode="constant")
    return whole[GRID:]
