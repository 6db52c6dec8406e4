# SPDX-License-Identifier: Apache-2.0
"""A synthetic head: ellipsoids, folds and noise that look enough like a scan to try the bundle on.

No patient is in it, and no label map: it is drawn from formulas and a seed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from ..io.nifti import scan_from_array

__all__ = ["DrawHead", "synthetic_head"]

AIR, SKULL = 0.0, 14.0
#: Contrast → intensity of scalp, fluid, grey and white matter, and lesion.
TISSUES = {
    "FLAIR": (150.0, 26.0, 78.0, 62.0, 118.0),
    "T1w": (150.0, 22.0, 55.0, 82.0, 42.0),
    "T2w": (90.0, 160.0, 88.0, 62.0, 125.0),
}
HEAD_MM = (74.0, 92.0, 94.0)  # half axes: left-right, front-back, up


def synthetic_head(
    shape: tuple[int, int, int] = (256, 256, 24),
    spacing: tuple[float, float, float] = (0.9375, 0.9375, 5.0),
    lesion_mm: float = 15.0,
    seed: int = 0,
    contrast: str = "FLAIR",
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw a head.

    Args:
        shape: voxels (X, Y, Z), Z from the base of the skull to the vertex.
        spacing: voxel size, mm.
        lesion_mm: radius of a lesion in the white matter, mm; 0 for a healthy head.
        seed: of folds, outline and noise.
        contrast: one of `TISSUES`.

    Returns:
        int16 scan (X, Y, Z), uint8 mask of its lesion, and its affine (4 x 4, LPS axes).
    """
    rng = np.random.RandomState(seed)
    scalp, fluid, grey, white, lesion = TISSUES[contrast]
    x, y, z = (np.arange(n, dtype=np.float32) * s for n, s in zip(shape, spacing, strict=True))
    x, y = x - x.mean(), y - y.mean()
    z = z - 0.32 * z.max()
    x, y, z = np.meshgrid(x, y, z, indexing="ij", sparse=True)

    def noise(mm: float) -> np.ndarray:
        smooth = ndimage.gaussian_filter(rng.standard_normal(shape).astype(np.float32), [mm / s for s in spacing])
        return smooth / smooth.std()

    depth = np.sqrt((x / HEAD_MM[0]) ** 2 + (y / HEAD_MM[1]) ** 2 + (z / HEAD_MM[2]) ** 2) + 0.012 * noise(18)
    folds = noise(3.2)
    scan = np.full(shape, AIR, np.float32)
    for limit, value in ((1.0, scalp), (0.93, SKULL), (0.87, fluid), (0.845, grey)):
        scan[depth < limit] = value
    scan[depth < 0.79 + 0.03 * folds] = white
    scan[(np.abs(folds + 0.3) < 0.28) & (depth > 0.72) & (depth < 0.845)] = fluid
    scan[(np.abs(x) < 1.5) & (depth > 0.5) & (depth < 0.845) & (z > 5)] = fluid
    for side in (-1, 1):
        bent = x - side * (9 + 0.06 * np.abs(y))
        scan[(bent / 5.5) ** 2 + ((y - 4) / 32) ** 2 + ((z - 18) / 15) ** 2 < 1] = fluid
    distance = np.sqrt((x - 33) ** 2 + (y + 12) ** 2 + (1.2 * (z - 34)) ** 2) + 2.5 * noise(6)
    mask = (distance < lesion_mm) & (depth < 0.8)
    scan[mask] = lesion + 6 * noise(4)[mask]
    scan = ndimage.gaussian_filter(scan, [0.8 / spacing[0], 0.8 / spacing[1], 0]) * (1 + 0.06 * noise(60))
    grain = 1.6 * rng.standard_normal((2, *shape))
    scan = np.where(depth < 1.05, np.hypot(scan + grain[0], grain[1]), 0)
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    affine[:3, 3] = [spacing[0] * shape[0] / 2, spacing[1] * shape[1] / 2, -40]
    return scan.round().clip(0, 32767).astype(np.int16), mask.astype(np.uint8), affine


class DrawHead:
    """A healthy head for a number, as the first transform of a preprocessing; of several voxel sizes.

    Args:
        contrast: of `synthetic_head`.
    """

    GRIDS = (
        ((256, 256, 24), (0.9375, 0.9375, 5.0)),
        ((128, 144, 16), (1.5, 1.5, 7.0)),
        ((96, 112, 12), (2.0, 2.0, 9.0)),
        ((72, 84, 10), (2.7, 2.7, 11.0)),
    )
    FIRST = 1000  # seeds below are left to tests

    def __init__(self, contrast: str = "FLAIR") -> None:
        self.contrast = contrast

    def __call__(self, case: Mapping[str, int]) -> dict:
        number = case["number"]
        grid = self.GRIDS[number % len(self.GRIDS)]
        scan, _, affine = synthetic_head(*grid, lesion_mm=0, seed=self.FIRST + number, contrast=self.contrast)
        return {"image": scan_from_array(scan, affine)}
