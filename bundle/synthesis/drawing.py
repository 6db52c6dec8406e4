# SPDX-License-Identifier: Apache-2.0
"""Fluid and elevations of the pigment epithelium, drawn by rules into B-scans of diseased retinas.

Nobody has outlined these images. The rules look at one thing each and know nothing of any map, so that a reader can
check them on the picture that they come with:

- elevation (drusen, detachments): all between the epithelium and the smooth curve under it
  (`bundle.transforms.retina.Retina.base`), where they are at least `ELEVATED_UM` apart;
- fluid: areas of at least `FLUID_UM2` within the retina, away from its borders and from those of the B-scan, that are
  darker than `FLUID_LIGHT` of its median above the vitreous; not shadows, which are many times as high as wide.

The second rule is about darkness, so darkness is a strong baseline there.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ..transforms.retina import Retina, find_retina

__all__ = ["RULES", "drawn", "drawn_volume"]

ELEVATED_UM = 35.0
FLUID_UM2, FLUID_LIGHT = 8000.0, 0.25
MARGIN_UM = 25.0  # of the retina's borders, where fluid is not looked for
SHADOW = 4.0  # times as high as wide


def drawn(bscan: np.ndarray, pixel_um: tuple[float, float]) -> dict[str, np.ndarray]:
    """What the rules find in a B-scan.

    Args:
        bscan: (X, Y), vitreous at Y = 0.
        pixel_um: size along X and Y.

    Returns:
        rule → bool (X, Y); nothing where no retina is found.
    """
    retina = find_retina(bscan, pixel_um)
    if retina is None:
        return {name: np.zeros(bscan.shape, bool) for name in RULES}
    return {name: rule(bscan, retina, pixel_um) for name, rule in RULES.items()}


def _elevation(bscan: np.ndarray, retina: Retina, pixel_um: tuple[float, float]) -> np.ndarray:
    rows = np.arange(bscan.shape[1])
    raised = (retina.base - retina.rpe) * pixel_um[1] >= ELEVATED_UM
    return raised[:, None] & (rows >= retina.rpe[:, None]) & (rows <= retina.base[:, None])


def _fluid(bscan: np.ndarray, retina: Retina, pixel_um: tuple[float, float]) -> np.ndarray:
    rows, margin = np.arange(bscan.shape[1]), MARGIN_UM / pixel_um[1]
    smooth = ndimage.median_filter(
        bscan, [max(1, round(um / size)) for um, size in zip((35, 20), pixel_um, strict=True)]
    )
    within = (rows > retina.ilm[:, None] + margin) & (rows < retina.rpe[:, None] - margin)
    above = rows < retina.ilm[:, None] - margin
    if not within.any() or not above.any():
        return np.zeros(bscan.shape, bool)
    floor = float(np.median(smooth[above]))
    dark = within & (smooth < floor + FLUID_LIGHT * (np.median(smooth[within]) - floor))
    pieces, _ = ndimage.label(dark)
    kept = np.zeros(bscan.shape, bool)
    for number, box in enumerate(ndimage.find_objects(pieces), start=1):
        if box[0].start == 0 or box[0].stop == len(bscan):
            continue
        piece = pieces[box] == number
        width, height = (size * n for size, n in zip(pixel_um, piece.shape, strict=True))
        if piece.sum() * np.prod(pixel_um) >= FLUID_UM2 and height < SHADOW * width:
            kept[box] |= piece
    return kept


RULES = {"elevation": _elevation, "fluid": _fluid}


def drawn_volume(scan: np.ndarray, pixel_um: tuple[float, float]) -> dict[str, np.ndarray]:
    """`drawn` in every B-scan of a volume (X, Y, Z): rule → bool, same shape."""
    masks = [drawn(scan[..., z], pixel_um) for z in range(scan.shape[2])]
    return {name: np.stack([one[name] for one in masks], axis=-1) for name in RULES}
