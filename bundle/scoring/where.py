# SPDX-License-Identifier: Apache-2.0
"""Where in a brain a finding lies, in words: side, and what it lies next to. Rules, no atlas, held against label
maps of heads (tests/test_where.py).
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from .geometry import voxel_sizes

__all__ = ["CLASSES", "BrainPlaces"]

#: What a finding may lie next to, in the order in which the rules are asked.
CLASSES = ("infratentorial", "periventricular", "cortical or juxtacortical", "deep")
MIDLINE_MM = 6.0  # from the middle of the brain: neither side
WHOLE_MM = 105.0  # least height of a brain that is in the field of view as a whole
BELOW_VERTEX_MM = 82.0  # from here on, behind the middle, lies the posterior fossa
#: Below the surface of the brain, mm. Above it lie 60 % of the cortex and of white matter within 4 mm of it, and one
#: in eight voxels of the white matter farther from it (five label maps); cortex within a sulcus may lie deeper.
DEEP_MM = 14.0
VENTRICLES_MM = 8.0  # from fluid in the depth
FLUID_MM = 17.0  # below the surface, within a slice, from which on fluid is that of the ventricles
MEDIAN = 1 / 3  # of the brain, in scaled intensities
DARK, BRIGHT = 0.6, 1.6  # of the median: fluid, where the contrast shows it dark or bright
LEAST_FLUID = 20  # voxels


class BrainPlaces:
    """Names places of one scan.

    Args:
        brain: mask (X, Y, Z).
        affine: its, voxel → world (RAS+), 4 x 4, mm.
        fluid: points (N, 3) of the ventricles in world coordinates, mm (`ventricle_points`); none where they are not
            known.
    """

    def __init__(self, brain: np.ndarray, affine: np.ndarray, fluid: np.ndarray | None = None) -> None:
        self.affine = np.asarray(affine, dtype=float)
        step = np.maximum(np.round(4.0 / voxel_sizes(affine)), 1).astype(int)
        voxels = np.argwhere(np.asarray(brain)[:: step[0], :: step[1], :: step[2]] > 0) * step
        points = voxels @ self.affine[:3, :3].T + self.affine[:3, 3]
        self.known = len(points) > 0
        if self.known:
            low, high = np.percentile(points, [1, 99], axis=0)
            self.middle, self.top, self.height = points.mean(0), float(high[2]), float(high[2] - low[2])
            self.middle[0] = (low[0] + high[0]) / 2
        self.fluid = None if fluid is None or not len(fluid) else np.asarray(fluid, dtype=float)

    def name(self, centre_mm: np.ndarray, depth_mm: float) -> str:
        """``left, periventricular`` and the like; empty without a brain.

        Args:
            centre_mm: world coordinates (RAS+).
            depth_mm: below the surface of the brain.
        """
        if not self.known:
            return ""
        centre = np.asarray(centre_mm, dtype=float)
        aside = centre[0] - self.middle[0]
        side = "midline" if abs(aside) < MIDLINE_MM else "right" if aside > 0 else "left"
        return f"{side}, {self._class(centre, depth_mm)}"

    def _class(self, centre: np.ndarray, depth_mm: float) -> str:
        behind = centre[1] < self.middle[1]
        if self.height >= WHOLE_MM and behind and self.top - centre[2] > BELOW_VERTEX_MM:
            return "infratentorial"
        if self.fluid is not None and np.linalg.norm(self.fluid - centre, axis=1).min() < VENTRICLES_MM:
            return "periventricular"
        return "cortical or juxtacortical" if depth_mm < DEEP_MM else "deep"


def ventricle_points(
    scaled: np.ndarray, depth_in_slice: np.ndarray, affine: np.ndarray, bright_fluid: bool = False
) -> np.ndarray:
    """World coordinates (N, 3), mm, of voxels of the ventricles.

    Args:
        scaled: scan (X, Y, Z) in intensities whose median over the brain is a third.
        depth_in_slice: of each voxel below the surface of the brain, within its slice, mm; 0 outside.
        affine: of both.
        bright_fluid: whether the contrast shows fluid bright, as T2w does.
    """
    thin = (slice(None, None, 2), slice(None, None, 2))
    scan, depth = np.asarray(scaled)[thin], np.asarray(depth_in_slice)[thin]
    fluid = (scan > BRIGHT * MEDIAN if bright_fluid else scan < DARK * MEDIAN) & (depth > FLUID_MM)
    fluid = ndimage.binary_opening(fluid, np.ones((2, 2, 1)))
    voxels = np.argwhere(fluid) * [2, 2, 1]
    if len(voxels) < LEAST_FLUID:
        return np.zeros((0, 3))
    return voxels @ np.asarray(affine)[:3, :3].T + np.asarray(affine)[:3, 3]
