# SPDX-License-Identifier: Apache-2.0
"""What a healthy head may look like on another scanner: pose, contrast, bias field, noise, resolution, no skull."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.transforms import (
    Compose,
    MapTransform,
    RandAdjustContrastd,
    RandAffined,
    RandBiasFieldd,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    Randomizable,
    RandomizableTransform,
    RandScaleIntensityd,
    RandSimulateLowResolutiond,
)
from monai.utils import ensure_tuple
from scipy import ndimage

__all__ = ["RandMarginsd", "RandScannerd", "RandStripSkulld"]


class RandStripSkulld(RandomizableTransform, MapTransform):
    """Now and then, put everything outside the brain to zero, tightly or loosely.

    Args:
        keys: keys of slices (C, H, W).
        mask_key: key of the brain mask (1, H, W).
        prob: how often.
        margin: most voxels that stay around the brain.
    """

    def __init__(self, keys: KeysCollection, mask_key: str = "brain", prob: float = 0.25, margin: int = 2) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.mask_key, self.margin = mask_key, margin

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        d = dict(data)
        self.randomize(None)
        if self._do_transform and self.mask_key in d:
            kept = torch.as_tensor(d[self.mask_key])[0].numpy() > 0.5
            grow = self.R.randint(-1, self.margin + 1)
            if grow > 0:
                kept = ndimage.binary_dilation(kept, iterations=grow)
            elif grow < 0:
                kept = ndimage.binary_erosion(kept)
            for key in self.key_iterator(d):
                d[key] = d[key] * torch.from_numpy(kept)
        return d


class RandMarginsd(MapTransform, Randomizable):
    """Grow or shrink masks by a random number of voxels: the brain that is found in a scan is more or less tight.

    Args:
        keys: keys of masks (1, H, W).
        most, least: voxels that a mask grows by; below 0 it shrinks.
    """

    def __init__(self, keys: KeysCollection, most: int = 3, least: int = -2) -> None:
        super().__init__(keys)
        self.most, self.least = most, least

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        d, grow = dict(data), int(self.R.randint(self.least, self.most + 1))
        for key in self.key_iterator(d):
            mask = (torch.as_tensor(d[key]) > 0.5).float()[None]
            mask = mask if grow > 0 else 1 - mask
            grown = F.max_pool2d(mask, 2 * abs(grow) + 1, stride=1, padding=abs(grow))
            d[key] = (grown if grow > 0 else 1 - grown)[0]
        return d


class RandScannerd(MapTransform, Randomizable):
    """Random pose and scanner of a slice (C, H, W) with intensities in [0, 1], which they stay in.

    Args:
        keys: keys of slices of one head, which share every draw.
        mask_keys: keys of masks that take the same pose.
        strength: 0 leaves the slice as it is, 1 is for training.
        strip: how often the skull is stripped, where there is a ``brain`` among the masks.
        scale: most that intensities are multiplied by more or less.
        gamma: least and most power of intensities.
        bias: most of a bias field's coefficients.

    Scans that were brought to a standard contrast want little of the last three.
    """

    def __init__(
        self,
        keys: KeysCollection,
        mask_keys: KeysCollection = (),
        strength: float = 1.0,
        strip: float = 0.0,
        scale: float = 0.25,
        gamma: tuple[float, float] = (0.7, 1.5),
        bias: float = 0.2,
    ) -> None:
        super().__init__(keys)
        self.mask_keys = ensure_tuple(mask_keys)
        s, posed = strength, (*self.keys, *self.mask_keys)
        modes = ("bilinear",) * len(self.keys) + ("nearest",) * len(self.mask_keys)
        self.transform = Compose(
            [
                RandFlipd(posed, prob=0.5 * s, spatial_axis=0, allow_missing_keys=True),
                RandAffined(
                    posed,
                    prob=0.9 * s,
                    rotate_range=0.25,
                    scale_range=((-0.2, 0.2), (-0.2, 0.2)),
                    shear_range=0.05,
                    translate_range=8,
                    mode=modes,
                    padding_mode="zeros",
                    allow_missing_keys=True,
                ),
                RandStripSkulld(self.keys, prob=strip * s),
                RandBiasFieldd(self.keys, prob=0.35 * s, degree=3, coeff_range=(0.0, bias)),
                RandScaleIntensityd(self.keys, prob=0.8 * s, factors=scale),
                RandAdjustContrastd(self.keys, prob=0.5 * s, gamma=gamma),
                RandSimulateLowResolutiond(
                    self.keys,
                    prob=0.15 * s,
                    zoom_range=(0.5, 1.0),
                    downsample_mode="area",
                    upsample_mode="bilinear",
                ),
                RandGaussianSmoothd(self.keys, prob=0.2 * s, sigma_x=(0.3, 1.0), sigma_y=(0.3, 1.0)),
                RandGaussianNoised(self.keys, prob=0.3 * s, std=0.04),
            ]
        )

    def set_random_state(self, seed: int | None = None, state: Any = None) -> RandScannerd:
        self.transform.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        d = self.transform(dict(data))
        for key in (*self.keys, *self.mask_keys):
            if key in d:
                # Plain tensors collate faster, and nothing here is ever inverted.
                d[key] = d[key].as_tensor() if hasattr(d[key], "as_tensor") else d[key]
        for key in self.keys:
            d[key] = d[key].clamp(0, 1)
        return d
