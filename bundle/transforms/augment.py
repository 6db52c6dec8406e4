"""What a healthy head may look like on another scanner: pose, size, contrast, bias field, noise, resolution."""

from __future__ import annotations

import torch
from monai.config import KeysCollection
from monai.transforms import (
    Compose,
    MapTransform,
    RandAdjustContrast,
    RandAffine,
    RandBiasField,
    RandFlip,
    RandGaussianNoise,
    RandGaussianSmooth,
    Randomizable,
    RandScaleIntensity,
)

__all__ = ["RandScannerd"]


class RandScannerd(MapTransform, Randomizable):
    """Random pose and scanner of a slice (C, H, W) with intensities in [0, 1], which they stay in.

    Args:
        keys: keys of slices; each draws on its own.
        strength: 0 leaves the slice as it is, 1 is for training.
    """

    def __init__(self, keys: KeysCollection, strength: float = 1.0) -> None:
        super().__init__(keys)
        s = strength
        self.transform = Compose(
            [
                RandFlip(prob=0.5 * s, spatial_axis=0),
                RandAffine(
                    prob=0.9 * s,
                    rotate_range=0.25,
                    scale_range=((-0.15, 0.15), (-0.15, 0.15)),
                    shear_range=0.05,
                    translate_range=8,
                    padding_mode="zeros",
                ),
                RandBiasField(prob=0.3 * s, degree=3, coeff_range=(0.0, 0.15)),
                RandScaleIntensity(prob=0.8 * s, factors=0.25),
                RandAdjustContrast(prob=0.4 * s, gamma=(0.75, 1.4)),
                RandGaussianSmooth(prob=0.2 * s, sigma_x=(0.3, 0.9), sigma_y=(0.3, 0.9)),
                RandGaussianNoise(prob=0.3 * s, std=0.03),
            ]
        )

    def set_random_state(self, seed: int | None = None, state=None) -> RandScannerd:
        self.transform.set_random_state(seed, state)
        return self

    def __call__(self, data: dict) -> dict:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = torch.as_tensor(self.transform(d[key])).clamp(0, 1)
            # Plain tensors collate faster, and nothing here is ever inverted.
            d[key] = d[key].as_tensor() if hasattr(d[key], "as_tensor") else d[key]
        return d
