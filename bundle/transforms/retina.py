# SPDX-License-Identifier: Apache-2.0
"""The retina in a B-scan: where it begins, where it ends, and what around it a program has put there.

The retina lies between the inner limiting membrane (ILM, its border with the dark vitreous) and the retinal pigment
epithelium (RPE, the bright band at its outer border). Both are found as best paths through the B-scan by dynamic
programming, as is usual since Chiu et al., Optics Express 18 (2010).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

__all__ = ["Retina", "fill_of", "find_retina"]

THICKNESS_UM = (60.0, 1400.0)  # of any retina, diseased ones included
INNER_UM = 250.0  # above the epithelium: up to here it is retina, in most places
LIGHT_ABOVE = 0.8  # what light above the inner border costs, beside its edge
STANDS_OUT = 1.2  # standard deviations of the B-scan's noise that the retina is brighter than the vitreous
RIDGE = 1.0  # of the band's height above the vitreous, that the epithelium stands out from what lies deep
CHOROID = 0.15  # of the same, that the choroid is brighter than the vitreous: upside down it is not
WHITE = 0.97  # of the highest value: fill is as bright, the JPEG's ringing around it left aside
FILL_SHARE = 0.002  # of the B-scan: a smaller white patch is a reflection


@dataclass(frozen=True)
class Retina:
    """Where the retina of a B-scan lies; rows as floats, one a column (X,).

    Attributes:
        ilm: inner border.
        rpe: the bright outer band, with all its bumps.
        base: smooth curve that the RPE would follow without them.
        contrast: how far the band stands out, standard deviations of the noise.
    """

    ilm: np.ndarray
    rpe: np.ndarray
    base: np.ndarray
    contrast: float


def fill_of(bscan: np.ndarray) -> np.ndarray:
    """Pixels that a program put there: white or black areas of one value that touch the border.

    Rotated and shifted B-scans have them in their corners and along their edges.

    Args:
        bscan: (X, Y).

    Returns:
        bool, same shape.
    """
    fill = np.zeros(bscan.shape, bool)
    top, low = float(bscan.max()), float(bscan.min())
    flat = ndimage.maximum_filter(bscan, 5) - ndimage.minimum_filter(bscan, 5) <= 0.02 * (top - low)
    for extreme in (bscan >= low + WHITE * (top - low), (bscan <= low + (1 - WHITE) / 2 * (top - low)) & flat):
        pieces, count = ndimage.label(extreme)
        if not count:
            continue
        border = np.unique(np.concatenate([pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]]))
        sizes = np.bincount(pieces.ravel())
        large = [number for number in border if number and sizes[number] >= FILL_SHARE * bscan.size]
        fill |= np.isin(pieces, large)
    return ndimage.binary_dilation(fill, iterations=3) if fill.any() else fill


def find_retina(bscan: np.ndarray, pixel_um: Sequence[float]) -> Retina | None:
    """The borders of the retina in a B-scan.

    Args:
        bscan: (X, Y), vitreous at Y = 0.
        pixel_um: size along X and Y.

    Returns:
        where it lies; None where none stands out.
    """
    fill = fill_of(bscan)
    usable = bscan[~fill]
    if usable.size < 0.1 * bscan.size or usable.max() == usable.min():
        return None
    step = (max(1, round(24 / pixel_um[0])), max(1, round(6 / pixel_um[1])))
    small, valid = _shrunk(np.where(fill, np.median(usable), bscan), step), _shrunk((~fill).astype(float), step) > 0.5
    unit = (pixel_um[0] * step[0], pixel_um[1] * step[1])
    floor = np.percentile(small[valid], 20)
    light = np.where(valid, np.clip(small - floor, 0, np.percentile(small[valid], 99.5) - floor), 0)
    rpe = _best_path(_outer_band(light, unit), slope=3)
    ilm = _best_path(_inner_border(light, valid, rpe, unit), slope=3)
    contrast = _looks_right(small, valid, ilm, rpe, unit[1])
    thickness = float(np.median(rpe - ilm)) * unit[1]
    if contrast < STANDS_OUT or not THICKNESS_UM[0] <= thickness <= THICKNESS_UM[1]:
        return None
    at = (np.arange(len(rpe)) + 0.5) * step[0] - 0.5
    x = np.arange(bscan.shape[0])
    inner, outer, base = (np.interp(x, at, (path + 0.5) * step[1] - 0.5) for path in (ilm, rpe, _under(rpe)))
    return Retina(inner, outer, base, contrast)


def _shrunk(bscan: np.ndarray, step: tuple[int, int]) -> np.ndarray:
    """Means of blocks: speckle averages out; the last ones may be smaller."""
    padded = np.pad(bscan, [(0, -n % s) for n, s in zip(bscan.shape, step, strict=True)], mode="edge")
    return padded.reshape(padded.shape[0] // step[0], step[0], -1, step[1]).mean((1, 3))


def _outer_band(light: np.ndarray, unit: tuple[float, float]) -> np.ndarray:
    """How much a pixel looks like RPE: bright, retina above it, and darker well below it."""
    smooth = ndimage.gaussian_filter(light, (24 / unit[0], 6 / unit[1]))

    def mean_of(first_um: float, last_um: float) -> np.ndarray:
        """Mean from ``first_um`` to ``last_um`` below each pixel; negative is above."""
        first, last = round(first_um / unit[1]), round(last_um / unit[1])
        sums = np.cumsum(np.pad(smooth, ((0, 0), (1, 0))), axis=1)
        rows = np.arange(smooth.shape[1])
        low, high = (np.clip(rows + e, 0, smooth.shape[1]) for e in (first, last + 1))
        return (sums[:, high] - sums[:, low]) / max(last - first + 1, 1)

    return smooth + 0.8 * mean_of(-220, -40) - 0.8 * mean_of(60, 300)


def _inner_border(light: np.ndarray, valid: np.ndarray, rpe: np.ndarray, unit: tuple[float, float]) -> np.ndarray:
    """How much a pixel looks like ILM: dark all the way above it, bright below it.

    Both in units of the inner retina: the epithelium is several times as bright, and its edge would win where the inner
    retina is faint.
    """
    smooth = ndimage.gaussian_filter(light, (24 / unit[0], 4 / unit[1]))
    rows = np.arange(light.shape[1])
    nearest, farthest = (rows < rpe[:, None] - um / unit[1] for um in THICKNESS_UM)
    between = nearest & ~farthest & valid
    inner = smooth[nearest & (rows > rpe[:, None] - INNER_UM / unit[1]) & valid]
    tissue = float(np.median(inner)) if inner.size else float(np.percentile(smooth, 90))
    edge = ndimage.gaussian_filter1d(smooth, 9 / unit[1], axis=1, order=1)
    top = np.percentile(np.abs(edge[between]), 99) if between.any() else 1.0
    reach = ndimage.uniform_filter1d(smooth, max(3, round(90 / unit[1])), axis=1)
    lowest = np.minimum.accumulate(reach, axis=1)
    above = np.maximum.accumulate(ndimage.uniform_filter1d(smooth, max(3, round(30 / unit[1])), axis=1), axis=1)
    above = np.roll(above, round(30 / unit[1]), axis=1) - lowest
    score = np.minimum(edge / (top + 1e-9), 1) - LIGHT_ABOVE * np.minimum(above / (tissue + 1e-9), 1)
    return np.where(between, score, score.min() - 5)


def _best_path(score: np.ndarray, slope: int) -> np.ndarray:
    """Row in every column (X,) of the path with the highest sum that moves ``slope`` rows a column at most."""
    total, came = score[0].copy(), np.zeros(score.shape, np.int64)
    cost = 0.15 * np.ptp(score) / slope
    costs = np.array([cost * abs(move) ** 1.5 / 8 for move in range(-slope, slope + 1)], total.dtype)[:, None]
    rows, padded = np.arange(len(total)), np.full(len(total) + 2 * slope, -np.inf, total.dtype)
    for column in range(1, len(score)):
        padded[slope:-slope] = total
        moves = np.lib.stride_tricks.sliding_window_view(padded, len(total)) - costs
        best = moves.argmax(0)
        came[column] = rows + best - slope
        total = moves[best, rows] + score[column]
    path = np.empty(len(score), np.int64)
    path[-1] = total.argmax()
    for column in range(len(score) - 1, 0, -1):
        path[column - 1] = np.clip(came[column, path[column]], 0, len(total) - 1)
    return path.astype(float)


def _under(rpe: np.ndarray, degree: int = 4, rounds: int = 12) -> np.ndarray:
    """A polynomial under the path that bumps upwards do not lift: points above it lose weight round by round."""
    x = np.linspace(-1, 1, len(rpe))
    weights = np.ones(len(rpe))
    degree = min(degree, max(len(rpe) - 1, 0))
    for _ in range(rounds):
        curve = np.polynomial.polynomial.polyval(x, np.polynomial.polynomial.polyfit(x, rpe, degree, w=weights))
        apart = rpe - curve  # positive: below
        scale = 1.4826 * np.median(np.abs(apart)) + 0.5
        weights = np.sqrt(1 / (1 + (apart / scale / np.where(apart < 0, 1.0, 2.5)) ** 2))
    return curve


def _looks_right(small: np.ndarray, valid: np.ndarray, ilm: np.ndarray, rpe: np.ndarray, unit_um: float) -> float:
    """How far the band stands out from the vitreous, in standard deviations; 0 unless what lies around it is in order.

    The order, from bright to dark: the pigment epithelium, what lies well below it; the choroid, the vitreous.
    """
    rows = np.arange(small.shape[1])

    def between(first: np.ndarray, last: np.ndarray) -> np.ndarray:
        return small[(rows >= first[:, None]) & (rows <= last[:, None]) & valid]

    def median(values: np.ndarray) -> float:
        return float(np.median(values)) if values.size else np.nan

    band, vitreous = between(ilm, rpe), between(np.zeros_like(ilm), ilm - 30 / unit_um)
    rest = vitreous if vitreous.size > 20 else small[valid]
    height = median(band) - median(rest)
    epithelium, deep = between(rpe - 1, rpe + 1), between(rpe + 150 / unit_um, rpe + 400 / unit_um)
    choroid = between(rpe + 20 / unit_um, rpe + 120 / unit_um)
    ridge, under = median(epithelium) - median(deep), median(choroid) - median(rest)
    if not (height > 0 and ridge >= RIDGE * height and under >= CHOROID * height):  # nor if one of them is not there
        return 0.0
    return height / (float(rest.std()) + 1e-6)
