# SPDX-License-Identifier: Apache-2.0
"""Large ventricles, as old brains have them, out of small ones: slices bent around their fluid."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable
from scipy import ndimage

from .lesions import Anatomy

__all__ = ["RandLargeVentriclesd"]

SMOOTH_MM = 2.0  # of the direction away from the ventricles
INSIDE = 0.5  # voxels within sure fluid that are shown where the wall has been
ALSO = 0.4  # of the largest piece of fluid: smaller ones are sulci
FIXED_MM = 12.0  # below the surface of the brain, within which tissue gives way less and less


class RandLargeVentriclesd(MapTransform, Randomizable):
    """Now and then, push tissue away from the ventricles, which widens them and leaves the surface where it is.

    A voxel at distance d from the ventricles shows what lies ``grow * exp(-d / reach)`` nearer to them.

    Args:
        keys: the one key of the slice (1, X, Y).
        brain_key: of its brain mask.
        spacing: voxel size, mm.
        prob: how often.
        grow: most that the wall of a ventricle moves, mm.
        reach: least and most distance over which the shift falls to a third, mm.
        bright_fluid: whether the contrast shows fluid bright, as T2w does.
    """

    def __init__(
        self,
        keys: KeysCollection,
        brain_key: str = "brain",
        spacing: float = 0.9375,
        prob: float = 0.5,
        grow: float = 9.0,
        reach: tuple[float, float] = (10.0, 25.0),
        bright_fluid: bool = False,
    ) -> None:
        super().__init__(keys)
        self.brain_key, self.spacing, self.prob = brain_key, spacing, prob
        self.grow, self.reach, self.bright_fluid = grow, reach, bright_fluid

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        d = dict(data)
        for key in self.key_iterator(d):
            grow, reach = self.R.uniform(0, self.grow), self.R.uniform(*self.reach)
            if self.R.rand() >= self.prob:
                continue
            image, brain = np.asarray(d[key])[0], np.asarray(d[self.brain_key])[0] > 0.5
            known = Anatomy.of(image, brain, self.spacing, self.bright_fluid)
            if known is not None and np.isfinite(known.from_fluid).all():
                d[key] = torch.from_numpy(self._bend(image, known, grow, reach))[None]
        return d

    def _bend(self, image: np.ndarray, known: Anatomy, grow: float, reach: float) -> np.ndarray:
        # From where fluid is sure, so that the wall as it was, with its partial volume, is left nowhere.
        fluid = ndimage.binary_erosion(_largest(known.from_fluid == 0))
        if not fluid.any():
            return image
        distance = ndimage.distance_transform_edt(~fluid)
        away = np.stack(np.gradient(ndimage.gaussian_filter(distance, SMOOTH_MM / self.spacing)))
        away /= np.maximum(np.linalg.norm(away, axis=0), 1e-6)
        shift = grow / self.spacing * np.exp(-distance * self.spacing / reach) * np.clip(known.depth / FIXED_MM, 0, 1)
        shift = np.minimum(shift, distance + INSIDE) * (distance > 0)
        places = np.indices(image.shape) - away * shift
        return ndimage.map_coordinates(image.astype(np.float32), places, order=1, mode="nearest").astype(np.float32)


def _largest(fluid: np.ndarray) -> np.ndarray:
    """The ventricles among what is deep and fluid: the largest piece, and others that are nearly as large."""
    pieces, count = ndimage.label(fluid)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    sizes[0] = 0
    return (sizes >= ALSO * sizes.max())[pieces] & fluid
