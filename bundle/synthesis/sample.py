# SPDX-License-Identifier: Apache-2.0
"""A synthetic head: ellipsoids, folds and noise that look enough like a FLAIR scan to try the bundle on.

No patient is in it, and no label map: it is drawn from formulas and a seed.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

__all__ = ["synthetic_head"]

AIR, SCALP, SKULL, FLUID, GREY, WHITE, LESION = 0.0, 150.0, 14.0, 26.0, 78.0, 62.0, 118.0
HEAD_MM = (74.0, 92.0, 94.0)  # half axes: left-right, front-back, up


def synthetic_head(
    shape: tuple[int, int, int] = (256, 256, 24),
    spacing: tuple[float, float, float] = (0.9375, 0.9375, 5.0),
    lesion_mm: float = 15.0,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw a head.

    Args:
        shape: voxels (X, Y, Z), Z from the base of the skull to the vertex.
        spacing: voxel size, mm.
        lesion_mm: radius of a bright lesion in the white matter, mm; 0 for a healthy head.
        seed: of folds, outline and noise.

    Returns:
        int16 scan (X, Y, Z), uint8 mask of its lesion, and its affine (4 x 4, LPS axes).
    """
    rng = np.random.RandomState(seed)
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
    for limit, value in ((1.0, SCALP), (0.93, SKULL), (0.87, FLUID), (0.845, GREY)):
        scan[depth < limit] = value
    scan[depth < 0.79 + 0.03 * folds] = WHITE
    scan[(np.abs(folds + 0.3) < 0.28) & (depth > 0.72) & (depth < 0.845)] = FLUID
    scan[(np.abs(x) < 1.5) & (depth > 0.5) & (depth < 0.845) & (z > 5)] = FLUID
    for side in (-1, 1):
        bent = x - side * (9 + 0.06 * np.abs(y))
        scan[(bent / 5.5) ** 2 + ((y - 4) / 32) ** 2 + ((z - 18) / 15) ** 2 < 1] = FLUID
    distance = np.sqrt((x - 33) ** 2 + (y + 12) ** 2 + (1.2 * (z - 34)) ** 2) + 2.5 * noise(6)
    mask = (distance < lesion_mm) & (depth < 0.8)
    scan[mask] = LESION + 6 * noise(4)[mask]
    scan = ndimage.gaussian_filter(scan, [0.8 / spacing[0], 0.8 / spacing[1], 0]) * (1 + 0.06 * noise(60))
    grain = 1.6 * rng.standard_normal((2, *shape))
    scan = np.where(depth < 1.05, np.hypot(scan + grain[0], grain[1]), 0)
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    affine[:3, 3] = [spacing[0] * shape[0] / 2, spacing[1] * shape[1] / 2, -40]
    return scan.round().clip(0, 32767).astype(np.int16), mask.astype(np.uint8), affine
