# SPDX-License-Identifier: Apache-2.0
"""What a healthy retina may look like from another camera: place, thickness, contrast, speckle, shadows."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import (
    Compose,
    MapTransform,
    RandAdjustContrastd,
    RandAffined,
    RandBiasFieldd,
    RandFlipd,
    RandGaussianSmoothd,
    Randomizable,
    RandomizableTransform,
    RandScaleIntensityd,
    SpatialPadd,
)
from monai.utils import ensure_tuple
from scipy import ndimage

__all__ = ["RandCamerad", "RandPieced", "RandSpeckled", "RandVesselShadowd"]


class RandSpeckled(RandomizableTransform, MapTransform):
    """Multiplicative speckle, a little wider than deep, and noise of the detector.

    Args:
        keys: keys of B-scans (1, X, Y) in [0, 1].
        prob: how often.
        strength: most of its standard deviation, in parts of the signal.
        floor: most of the standard deviation of the detector's noise; half of the time it is less than a quarter of
            that. A B-scan of poor light (Duke, eye 12) has a vitreous of 0.08 on the mean, where others have 0.03.
    """

    def __init__(self, keys: KeysCollection, prob: float = 0.5, strength: float = 0.35, floor: float = 0.12) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.strength, self.floor = strength, floor

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        d = dict(data)
        self.randomize(None)
        if self._do_transform:
            strength, width = self.R.uniform(0, self.strength), self.R.uniform(0.2, 0.9)
            floor = self.floor * self.R.rand() ** 2
            for key in self.key_iterator(d):
                noise = [self.R.standard_normal(d[key].shape[1:]).astype(np.float32) for _ in range(2)]
                wide = [ndimage.gaussian_filter(n, (width, width / 2)) for n in noise]
                signal, ground = (torch.from_numpy(n / max(float(n.std()), 1e-6)) for n in wide)
                d[key] = (d[key] * (1 + strength * signal) + floor * ground.abs()).clamp(0, 1)
        return d


class RandVesselShadowd(RandomizableTransform, MapTransform):
    """Shadows of vessels: columns darker below the inner retina. Every healthy retina has some.

    Args:
        keys: keys of B-scans (1, X, Y).
        prob: how often.
        max_count: most shadows.
    """

    def __init__(self, keys: KeysCollection, prob: float = 0.4, max_count: int = 5) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.max_count = max_count

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        d = dict(data)
        self.randomize(None)
        if not self._do_transform:
            return d
        for key in self.key_iterator(d):
            columns, light = torch.arange(d[key].shape[1]).float()[:, None], d[key][0]
            # Below a fifth of all the light of a column: under the nerve fibres, wherever they are.
            below = (light.cumsum(1) > 0.2 * light.sum(1, keepdim=True)).float()
            for _ in range(self.R.randint(1, self.max_count + 1)):
                centre, width = self.R.uniform(0, d[key].shape[1]), self.R.uniform(0.5, 2.5)
                shadow = self.R.uniform(0.1, 0.6) * torch.exp(-0.5 * ((columns - centre) / width) ** 2)
                light = light * (1 - shadow * below)
            d[key] = light[None]
        return d


class RandPieced(MapTransform, Randomizable):
    """Cut a piece whose middle is drawn from the whole B-scan, and shift it to stay inside.

    So a piece in four touches each end of a B-scan of twice its width. MONAI's RandSpatialCropd draws the first column
    of the piece, which an end of the B-scan hardly ever is: networks saw the periphery in few pieces, and marked it.

    Args:
        keys: keys of B-scans (1, X, Y), at least as large as the piece, that share the draw.
        size: of the piece.
        allow_missing_keys: leave out keys that an item has not got.
    """

    def __init__(self, keys: KeysCollection, size: tuple[int, int], allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.size = tuple(size)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        d, places = dict(data), self.R.rand(len(self.size))
        for key in self.key_iterator(d):
            for axis, (size, place) in enumerate(zip(self.size, places, strict=True), start=1):
                room = d[key].shape[axis] - size
                first = min(max(int(place * d[key].shape[axis]) - size // 2, 0), room)
                d[key] = d[key].narrow(axis, first, size)
        return d


class RandCamerad(MapTransform, Randomizable):
    """Random place, retina and camera of flattened B-scans (1, X, Y) in [0, 1], which they stay in.

    A piece of fixed size is cut out, since B-scans have many widths.

    Args:
        keys: keys of B-scans of one eye, which share every draw.
        mask_keys: keys of masks that go along.
        donor_key: another B-scan, cut to the same size on its own, where there is one.
        size: of the piece, along the B-scan and into depth.
        strength: 0 only cuts, 1 is for training.
        stretch: most that a B-scan is stretched along itself, more or less.
    """

    def __init__(
        self,
        keys: KeysCollection,
        mask_keys: KeysCollection = (),
        donor_key: str = "donor",
        size: tuple[int, int] = (128, 128),
        strength: float = 1.0,
        stretch: float = 0.2,
    ) -> None:
        super().__init__(keys)
        self.mask_keys, self.donor_key, self.size = ensure_tuple(mask_keys), donor_key, tuple(size)
        s, posed = strength, (*self.keys, *self.mask_keys)
        everything = (*posed, donor_key)
        modes = ("bilinear",) * len(self.keys) + ("nearest",) * len(self.mask_keys)
        self.transform = Compose(
            [
                SpatialPadd(everything, spatial_size=size, allow_missing_keys=True),
                RandPieced(posed, size, allow_missing_keys=True),
                RandPieced(donor_key, size, allow_missing_keys=True),
                RandFlipd(posed, prob=0.5 * s, spatial_axis=0, allow_missing_keys=True),
                RandAffined(
                    posed,
                    prob=0.8 * s,
                    rotate_range=0.03,
                    scale_range=((-stretch, stretch), (-0.15, 0.15)),
                    translate_range=((0, 0), (-5, 5)),
                    mode=modes,
                    padding_mode="border",
                    allow_missing_keys=True,
                ),
                RandVesselShadowd(self.keys, prob=0.4 * s),
                RandBiasFieldd(self.keys, prob=0.3 * s, degree=2, coeff_range=(0.0, 0.15)),
                RandScaleIntensityd(self.keys, prob=0.8 * s, factors=0.25),
                RandAdjustContrastd(self.keys, prob=0.6 * s, gamma=(0.65, 1.6)),
                # An average of frames between which the eye moved is blurred in both directions.
                RandGaussianSmoothd(self.keys, prob=0.4 * s, sigma_x=(0.3, 1.5), sigma_y=(0.3, 2.0)),
                RandSpeckled(self.keys, prob=0.6 * s),
            ]
        )

    def set_random_state(self, seed: int | None = None, state: Any = None) -> RandCamerad:
        self.transform.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        d = self.transform(dict(data))
        for key in (*self.keys, *self.mask_keys, self.donor_key):
            if key in d:
                d[key] = d[key].as_tensor() if hasattr(d[key], "as_tensor") else d[key]
        for key in self.keys:
            d[key] = d[key].clamp(0, 1)
        return d
