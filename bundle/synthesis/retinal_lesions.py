# SPDX-License-Identifier: Apache-2.0
"""Synthetic anomalies of the retina: fluid, drusen and detachments of the epithelium, bright spots, thinning.

B-scans are (1, X, Y) on the model's grid (`bundle.transforms.oct.FlattenRetinad`), columns about 24 µm and rows
6 µm apart, intensities in [0, 1]. What the anomalies look like follows the consensus of terms for OCT (Staurenghi et
al., Ophthalmology 2014); sizes and brightness are this project's own.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable
from scipy import ndimage

__all__ = ["RETINAL_LESIONS", "RandRetinalLesionsd"]

SPACING_UM = (24.0, 6.0)  # of the grid
LIFTED = 0.08  # change beyond which a pixel outside the mask belongs to what was lifted
EPITHELIUM_UM = (15.0, 60.0)  # above the outer border of the mask, where the bottom of the pigment epithelium lies


@dataclass(frozen=True)
class Bscan:
    """What the anomalies know of a B-scan.

    Attributes:
        light: intensities (X, Y).
        mask: of the retina, bool (X, Y).
        top, bottom: first and last row of the mask, one a column (X,).
        rng: source of everything random.
    """

    light: np.ndarray
    mask: np.ndarray
    top: np.ndarray
    bottom: np.ndarray
    rng: np.random.RandomState

    def column(self) -> int:
        """A random column of the retina."""
        return int(self.rng.choice(np.flatnonzero(self.mask.any(1))))

    def noise(self, sigma: float | Sequence[float], shape: Sequence[int] | None = None) -> np.ndarray:
        """Smoothed Gaussian noise of standard deviation 1."""
        noise = ndimage.gaussian_filter(self.rng.standard_normal(shape or self.light.shape), sigma)
        return noise / max(float(noise.std()), 1e-9)


def fluid(scan: Bscan) -> np.ndarray:
    """Pockets within the retina: dark, sharp-edged, rounded, often many, side by side."""
    rng, light = scan.rng, scan.light.copy()
    centre, level = scan.column(), rng.uniform(0.0, 0.12)
    for _ in range(rng.randint(1, 9)):
        x = int(np.clip(centre + rng.normal(0, 12), 0, len(light) - 1))
        thickness = scan.bottom[x] - scan.top[x]
        if thickness < 8:
            continue
        y = scan.top[x] + thickness * rng.uniform(0.15, 0.8)
        radius = rng.uniform(25, 220), rng.uniform(15, 110)
        light = _fill(scan, light, _ellipse(scan, (x, y), radius), level)
    return light


def subretinal_fluid(scan: Bscan) -> np.ndarray:
    """The retina lifted off the epithelium, and dark fluid under it."""
    return _lift(scan, scan.rng.uniform(30, 250), scan.rng.uniform(0.0, 0.12), under=scan.rng.uniform(25, 45))


def drusen(scan: Bscan) -> np.ndarray:
    """One to some low bumps of the epithelium, filled with what is about as bright as the retina."""
    light = scan.light
    for _ in range(scan.rng.randint(1, 5)):
        width, height = scan.rng.uniform(30, 200), scan.rng.uniform(18, 110)
        light = _lift(_with(scan, light), height, scan.rng.uniform(0.12, 0.6), width)
    return light


def detachment(scan: Bscan) -> np.ndarray:
    """A large elevation of the epithelium, empty or filled."""
    return _lift(scan, scan.rng.uniform(80, 320), scan.rng.uniform(0.02, 0.4), scan.rng.uniform(200, 700))


def bright_spots(scan: Bscan) -> np.ndarray:
    """Hyper-reflective spots: hard exudates and pigment, with the shadow of the larger ones."""
    rng, light = scan.rng, scan.light.copy()
    for _ in range(rng.randint(1, 13)):
        x, radius = scan.column(), rng.uniform(8, 45)
        y = scan.top[x] + (scan.bottom[x] - scan.top[x]) * rng.uniform(0.1, 0.85)
        inside = _ellipse(scan, (x, y), (radius * rng.uniform(1, 2), radius))
        light = light + inside * (rng.uniform(0.55, 1.0) - light) * rng.uniform(0.5, 1)
        if radius > 25 and rng.rand() < 0.6:
            rows = np.arange(light.shape[1])[None]
            width = radius / SPACING_UM[0]
            shadow = np.exp(-0.5 * ((np.arange(len(light))[:, None] - x) / width) ** 2) * (rows > y)
            light = light * (1 - rng.uniform(0.2, 0.6) * shadow)
    return light


def thinning(scan: Bscan) -> np.ndarray:
    """A stretch of the retina pressed together from the inside: its rows come from above, so its layers get thin."""
    rng, (columns, rows) = scan.rng, scan.light.shape
    bump = _bump(scan, rng.uniform(200, 900)) * rng.uniform(0.2, 0.6)
    y = np.arange(rows)[None]
    share = np.clip((scan.bottom[:, None] - y) / np.maximum(scan.bottom - scan.top, 1)[:, None], 0, None)
    source = y - (np.minimum(share, 1.6) * bump[:, None] * (scan.bottom - scan.top)[:, None])
    return _at(scan.light, np.broadcast_to(np.arange(columns)[:, None], source.shape), source)


def outer_loss(scan: Bscan) -> np.ndarray:
    """Atrophy: the bright outer bands are gone over a stretch, and light goes through to the choroid."""
    rng = scan.rng
    bump = np.clip(3 * _bump(scan, rng.uniform(150, 700)), 0, 1)[:, None]
    y = np.arange(scan.light.shape[1])[None]
    lost = bump * (y > scan.bottom[:, None] - rng.uniform(60, 120) / SPACING_UM[1])
    through = y > scan.bottom[:, None] - 20 / SPACING_UM[1]
    blurred = ndimage.gaussian_filter(np.minimum(scan.light, 0.35), (2, 4))
    return scan.light + lost * (blurred * np.where(through, rng.uniform(1.2, 2.4), rng.uniform(0.5, 1)) - scan.light)


def changed_layer(scan: Bscan) -> np.ndarray:
    """A stretch of some layers brighter or darker: oedema, ischaemia, exudation."""
    rng = scan.rng
    share = (np.arange(scan.light.shape[1])[None] - scan.top[:, None]) / np.maximum(scan.bottom - scan.top, 1)[:, None]
    centre, width = rng.uniform(0.1, 0.9), rng.uniform(0.04, 0.25)
    layer = np.exp(-(((share - centre) / width) ** 2)) * _bump(scan, rng.uniform(100, 900))[:, None]
    return scan.light * np.exp(rng.choice([-1.4, -0.8, 0.5, 0.9]) * rng.uniform(0.5, 1) * layer)


RETINAL_LESIONS: dict[str, Callable[[Bscan], np.ndarray]] = {
    "fluid": fluid,
    "subretinal fluid": subretinal_fluid,
    "drusen": drusen,
    "detachment": detachment,
    "bright spots": bright_spots,
    "thinning": thinning,
    "outer loss": outer_loss,
    "changed layer": changed_layer,
}


class RandRetinalLesionsd(MapTransform, Randomizable):
    """Paint anomalies of `RETINAL_LESIONS` into B-scans, on top of what they have; the mask grows with what is lifted.

    Args:
        keys: keys of B-scans (1, X, Y) in [0, 1], which they stay in.
        prob: how often a B-scan gets any.
        most: most kinds in a B-scan.
        region_key: of the mask of the retina (1, X, Y).
        kinds: names from `RETINAL_LESIONS`; all by default.
        allow_missing_keys: leave out keys that an item has not got.

    Raises:
        ValueError: on an unknown kind.
    """

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 0.7,
        most: int = 2,
        region_key: str = "retina",
        kinds: Sequence[str] = tuple(RETINAL_LESIONS),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if unknown := set(kinds) - set(RETINAL_LESIONS):
            raise ValueError(f"unknown {', '.join(sorted(unknown))}: choose from {', '.join(RETINAL_LESIONS)}")
        self.prob, self.most, self.region_key, self.kinds = prob, most, region_key, tuple(kinds)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        d = dict(data)
        mask = np.asarray(d[self.region_key])[0] > 0.5
        if self.R.rand() >= self.prob or not mask.any():
            return d
        top, bottom = _borders(mask)
        for key in self.key_iterator(d):
            light = np.asarray(d[key])[0].astype(np.float64)
            for kind in self.R.choice(self.kinds, self.R.randint(1, self.most + 1)):
                light = RETINAL_LESIONS[kind](Bscan(light, mask, top, bottom, self.R)).clip(0, 1)
            # What is lifted out of the mask belongs to it: the retina would be found there.
            mask = mask | (np.abs(light - np.asarray(d[key])[0]) > LIFTED)
            d[key] = torch.from_numpy(light.astype(np.float32))[None]
        d[self.region_key] = torch.from_numpy(mask.astype(np.float32))[None]
        return d


def _borders(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last row of a mask (X, Y) in every column; columns without any take those of their neighbours."""
    known = np.flatnonzero(mask.any(1))
    first, last = mask[known].argmax(1), mask.shape[1] - 1 - mask[known, ::-1].argmax(1)
    return tuple(np.interp(np.arange(len(mask)), known, border) for border in (first, last))


def _with(scan: Bscan, light: np.ndarray) -> Bscan:
    return Bscan(light, scan.mask, scan.top, scan.bottom, scan.rng)


def _ellipse(scan: Bscan, centre: tuple[float, float], radius_um: tuple[float, float]) -> np.ndarray:
    """Share of each pixel in an ellipse with a slightly wavy outline, in [0, 1]."""
    x, y = np.arange(scan.light.shape[0])[:, None], np.arange(scan.light.shape[1])[None]
    radius = [max(r / s, 0.7) for r, s in zip(radius_um, SPACING_UM, strict=True)]
    distance = np.hypot((x - centre[0]) / radius[0], (y - centre[1]) / radius[1])
    wavy = 1 + 0.12 * scan.noise(6) * (min(radius) > 2)
    return np.clip((wavy - distance) * min(radius) + 0.5, 0, 1)


def _fill(scan: Bscan, light: np.ndarray, inside: np.ndarray, level: float) -> np.ndarray:
    """An area of one brightness, with speckle like its surroundings, within the retina."""
    speckle = level * np.exp(0.3 * scan.noise((0.5, 0.5)))
    return light + inside * scan.mask * (speckle - light)


def _bump(scan: Bscan, width_um: float) -> np.ndarray:
    """A smooth bump over the columns (X,), at most 1."""
    x = (np.arange(len(scan.light)) - scan.column()) * SPACING_UM[0] / width_um
    return np.exp(-(np.abs(x) ** scan.rng.uniform(1.8, 4)))


def _lift(
    scan: Bscan, height_um: float, level: float, width_um: float | None = None, under: float | None = None
) -> np.ndarray:
    """Raise what lies above a line, and fill the gap.

    Args:
        scan: the B-scan.
        height_um: of the gap.
        level: brightness of the filling.
        width_um: of the elevation.
        under: how far above the outer border of the mask the line lies, µm; just under the epithelium by default.
    """
    rng, (columns, rows) = scan.rng, scan.light.shape
    under = rng.uniform(*EPITHELIUM_UM) if under is None else under + EPITHELIUM_UM[0]
    lift = _bump(scan, width_um or rng.uniform(150, 600)) * height_um / SPACING_UM[1]
    line = (scan.bottom - under / SPACING_UM[1])[:, None]
    y = np.arange(rows)[None]
    # All of it moves by the line; towards the inner border the retina gives way, more or less.
    give = rng.uniform(0.3, 1.0)
    share = np.clip((y - scan.top[:, None]) / np.maximum(line - scan.top[:, None], 1), 0, 1)
    source = y + lift[:, None] * (give + (1 - give) * share)
    above = y <= line - lift[:, None]
    x = np.broadcast_to(np.arange(columns)[:, None], source.shape)
    moved = np.where(above, _at(scan.light, x, np.minimum(source, line)), scan.light)
    gap = ~above & (y <= line) & (lift[:, None] > 0.7)
    filling = level * np.exp(0.3 * scan.noise(0.5) + 0.15 * scan.noise(4))
    return np.where(gap, ndimage.gaussian_filter(filling, 0.4), moved)


def _at(light: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return ndimage.map_coordinates(light, [x, y], order=1, mode="nearest")
