# SPDX-License-Identifier: Apache-2.0
"""Healthy brains as they differ, and small lesions in them, painted into slices for the UNet of synthetic lesions.

Slices are (1, X, Y) with intensities in [0, 1], where the median of a brain is about a third; lengths are millimetres.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable
from scipy import ndimage

from .anomalies import smooth_noise

__all__ = ["CropBraind", "LesionTargetd", "RandContrastd", "RandHealthyBraind", "RandSmallLesionsd"]

MEDIAN = 1 / 3  # of the brain, in scaled intensities
FLUID = 0.6  # of the median: darker is fluid
BRIGHT_FLUID = 1.6  # of the median: brighter is fluid, where the contrast shows it bright
DEEP_MM = 17.0  # below the surface from which on fluid is that of the ventricles
LEAST_VOXELS = 400  # of brain: in less nothing is painted


@dataclass(frozen=True)
class Anatomy:
    """Where things are in a slice of a brain; arrays (X, Y).

    Attributes:
        median: intensity of the brain.
        brain: bool.
        depth: below the surface of the brain, mm.
        from_fluid: distance from the ventricles, mm; infinite where the slice has none.
    """

    median: float
    brain: np.ndarray
    depth: np.ndarray
    from_fluid: np.ndarray

    @classmethod
    def of(cls, image: np.ndarray, brain: np.ndarray, spacing: float, bright_fluid: bool = False) -> Anatomy | None:
        """None where there is too little brain."""
        if brain.sum() < LEAST_VOXELS:
            return None
        median = float(np.median(image[brain]))
        depth = ndimage.distance_transform_edt(np.pad(brain, 1))[1:-1, 1:-1] * spacing
        fluid = (image > BRIGHT_FLUID * median if bright_fluid else image < FLUID * median) & (depth > DEEP_MM)
        away = ndimage.distance_transform_edt(~fluid) * spacing if fluid.sum() > 20 else np.full(image.shape, np.inf)
        return cls(median, brain, depth, away)


def _pair(data: Mapping[Hashable, Any], key: Hashable, brain_key: str) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(data[key])[0], np.asarray(data[brain_key])[0] > 0.5


def _noise(rng: np.random.RandomState, size: tuple[int, ...], cell: float) -> np.ndarray:
    """Smooth noise of standard deviation 1, cells of so many voxels."""
    noise = smooth_noise(rng, size, max(4, int(max(size) / cell))).numpy()
    return noise / max(float(noise.std()), 1e-6)


class RandContrastd(MapTransform, Randomizable):
    """Bend intensities around the brain's median, and those below it once more: fluid is as dark as a scanner makes it.

    Args:
        keys: keys of slices, which share every draw.
        gamma: least and most power of intensities, in multiples of the median.
        scale: most that intensities are multiplied by more or less.
        dark: least and most power of those below the median.
        dark_prob: how often they are bent.
        bright: least and most power of those above the median.
    """

    def __init__(
        self,
        keys: KeysCollection,
        gamma: tuple[float, float] = (0.7, 1.4),
        scale: float = 0.1,
        dark: tuple[float, float] = (0.6, 1.8),
        dark_prob: float = 0.5,
        bright: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        super().__init__(keys)
        self.gamma, self.scale, self.dark, self.dark_prob, self.bright = gamma, scale, dark, dark_prob, bright

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        d = dict(data)
        scale, gamma = 1 + self.R.uniform(-self.scale, self.scale), np.exp(self.R.uniform(*np.log(self.gamma)))
        dark = self.R.uniform(*self.dark) if self.R.rand() < self.dark_prob else 1.0
        bright = self.R.uniform(*self.bright)
        for key in self.key_iterator(d):
            x = (torch.as_tensor(d[key]) * scale / MEDIAN).clamp(min=0) ** gamma
            d[key] = (MEDIAN * torch.where(x < 1, x**dark, x**bright)).clamp(0, 1)
        return d


class RandHealthyBraind(MapTransform, Randomizable):
    """What a healthy brain may show and another may not: a faint rim around the ventricles, tracts a little brighter.

    Args:
        keys: the one key of the slice.
        brain_key: of its brain mask.
        spacing: voxel size, mm.
        prob: how often each of the two is painted.
        rim: most that the rim adds, in multiples of the median; negative where it is darker.
        tracts: most standard deviation of the relative brightness.
        bright_fluid: whether the contrast shows fluid bright, as T2w does.
    """

    def __init__(
        self,
        keys: KeysCollection,
        brain_key: str = "brain",
        spacing: float = 0.9375,
        prob: float = 0.6,
        rim: float = 0.3,
        tracts: float = 0.08,
        bright_fluid: bool = False,
    ) -> None:
        super().__init__(keys)
        self.brain_key, self.spacing, self.prob, self.rim, self.tracts = brain_key, spacing, prob, rim, tracts
        self.bright_fluid = bright_fluid

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        d = dict(data)
        for key in self.key_iterator(d):
            image, brain = _pair(d, key, self.brain_key)
            if (known := Anatomy.of(image, brain, self.spacing, self.bright_fluid)) is not None:
                d[key] = torch.from_numpy(self._paint(image, known).astype(np.float32))[None]
        return d

    def _paint(self, image: np.ndarray, known: Anatomy) -> np.ndarray:
        if self.R.rand() < self.prob:
            width = np.exp(self.R.uniform(*np.log((1.4, 8.4))))
            rim = np.exp(-(((known.from_fluid - self.spacing) / width) ** 2)) * (known.from_fluid > 0) * known.brain
            patchy = 1 / (1 + np.exp(-1.5 * _noise(self.R, image.shape, self.R.uniform(12, 40))))
            image = image + self.R.uniform(0, self.rim) * known.median * rim * patchy
        if self.R.rand() < self.prob:
            noise = _noise(self.R, image.shape, np.exp(self.R.uniform(*np.log((5, 40)))))
            image = image * (1 + self.R.uniform(0, self.tracts) * noise)
        return image.clip(0, 1)


class RandSmallLesionsd(MapTransform, Randomizable):
    """Now and then, lesions of the white matter of 1.5 to 12 mm: beside the ventricles, beneath the cortex, anywhere
    deep.

    Args:
        keys: the one key of the slice, which may have other anomalies already.
        brain_key: of its brain mask.
        spacing: voxel size, mm.
        prob: how often.
        most: lesions in a slice.
        added: least and most that they add, in multiples of the median.
        dark: how often they are darker instead.
        tissue: least and most intensity of where they may be, in multiples of the median.
        bright_fluid: whether the contrast shows fluid bright, as T2w does.
        rims: how often they are caps and rims of the ventricles.
    """

    def __init__(
        self,
        keys: KeysCollection,
        brain_key: str = "brain",
        spacing: float = 0.9375,
        prob: float = 0.45,
        most: int = 24,
        added: tuple[float, float] = (0.2, 1.2),
        dark: float = 0.1,
        tissue: tuple[float, float] = (0.75, 1.3),
        bright_fluid: bool = False,
        rims: float = 0.3,
    ) -> None:
        super().__init__(keys)
        self.brain_key, self.spacing, self.prob, self.rims = brain_key, spacing, prob, rims
        self.most, self.added, self.dark = most, added, dark
        self.tissue, self.bright_fluid = tissue, bright_fluid

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        d = dict(data)
        for key in self.key_iterator(d):
            image, brain = _pair(d, key, self.brain_key)
            known = Anatomy.of(image, brain, self.spacing, self.bright_fluid) if self.R.rand() < self.prob else None
            if known is not None:
                share = ndimage.gaussian_filter(self._shares(image, known), self.R.uniform(0.3, 1.3))
                added = self.R.uniform(*self.added)
                added = -self.R.uniform(0.2, 0.8) if self.R.rand() < self.dark else added
                changed = (image + added * known.median * share).clip(0, 1)
                d[key] = torch.from_numpy(np.where(brain, changed, image).astype(np.float32))[None]
        return d

    def _shares(self, image: np.ndarray, known: Anatomy) -> np.ndarray:
        """How much of each voxel is lesion."""
        near, kind = np.isfinite(known.from_fluid).any(), self.R.rand()
        if near and kind < self.rims:  # caps and rims that flow together
            width = self.R.uniform(1.4, 7.5) * (1 + 0.5 * _noise(self.R, image.shape, self.R.uniform(6, 30)))
            part = _noise(self.R, image.shape, self.R.uniform(10, 30)) > self.R.uniform(0, 1.8)
            return (known.from_fluid < width) * (known.from_fluid > 0) * known.brain * part * self.R.uniform(0.6, 1)
        low, high = (limit * known.median for limit in self.tissue)
        tissue = (image > low) & (image < high) & known.brain
        if near and kind < self.rims + 0.25:
            places = np.argwhere(tissue & (known.from_fluid < 13) & (known.from_fluid > self.spacing))
        else:
            places = np.argwhere(tissue & (known.depth > self.R.choice([2.8, 7.5])))
        share = np.zeros(image.shape, np.float32)
        for _ in range(self.R.randint(1, self.most + 1) if len(places) else 0):
            self._lay(share, places[self.R.randint(len(places))])
        return share

    def _lay(self, share: np.ndarray, place: np.ndarray) -> None:
        """An ellipse of any angle, with the partial volume at its edge."""
        radius, aspect = np.exp(self.R.uniform(*np.log((0.8, 6.5)))), np.exp(self.R.uniform(-0.6, 0.6))
        angle, reach = self.R.uniform(0, np.pi), int(3 * radius + 3)
        box = tuple(slice(max(p - reach, 0), min(p + reach + 1, n)) for p, n in zip(place, share.shape, strict=True))
        x, y = (
            np.arange(axis.start, axis.stop) - p + self.R.uniform(-0.5, 0.5) for axis, p in zip(box, place, strict=True)
        )
        x, y = x[:, None], y[None]
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        inside = np.clip(radius - np.hypot(along / aspect, across * aspect) + 0.5, 0, 1)
        share[box] = np.maximum(share[box], inside * self.R.uniform(0.5, 1))


class LesionTargetd(MapTransform):
    """Add how far each voxel of the twin is brighter, and darker, than the healthy slice, from 0 to 1.

    A change of `FAINT` is none, from `FULL` above it on it is one, so that a strong lesion is to be told from a faint
    one.

    Args:
        keys: the one key of the twin.
        healthy_key: of the healthy slice.
        target_key: where the two channels go (2, X, Y), in the order of `bundle.networks.lesion_unet`.
    """

    FAINT, FULL = 0.015, 0.12

    def __init__(self, keys: KeysCollection, healthy_key: str = "image", target_key: str = "target") -> None:
        super().__init__(keys)
        self.healthy_key, self.target_key = healthy_key, target_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        d = dict(data)
        for key in self.key_iterator(d):
            change = torch.as_tensor(d[key]) - torch.as_tensor(d[self.healthy_key])
            d[self.target_key] = ((torch.cat([change, -change]) - self.FAINT) / self.FULL).clamp(0, 1)
        return d


class CropBraind(MapTransform, Randomizable):
    """Cut a window out of slices, about the middle of the brain.

    Args:
        keys: keys of (C, X, Y) that are cut alike.
        size: of the window.
        brain_key: of the brain mask.
        jitter: most that the window is off the middle, voxels.
    """

    def __init__(
        self, keys: KeysCollection, size: tuple[int, int], brain_key: str = "brain", jitter: tuple[int, int] = (14, 18)
    ) -> None:
        super().__init__(keys)
        self.size, self.brain_key, self.jitter = tuple(size), brain_key, jitter

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        d = dict(data)
        brain = np.asarray(d[self.brain_key])[0] > 0.5
        window = []
        for axis, (size, jitter) in enumerate(zip(self.size, self.jitter, strict=True)):
            inside = np.flatnonzero(brain.any(1 - axis))
            middle = (inside[0] + inside[-1]) // 2 if inside.size else brain.shape[axis] // 2
            first = middle - size // 2 + self.R.randint(-jitter, jitter + 1)
            first = int(np.clip(first, 0, brain.shape[axis] - size))
            window.append(slice(first, first + size))
        for key in self.key_iterator(d):
            d[key] = d[key][(slice(None), *window)]
        return d
