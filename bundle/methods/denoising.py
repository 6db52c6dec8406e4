# SPDX-License-Identifier: Apache-2.0
"""The denoising autoencoder: what a UNet that learned to take coarse noise off healthy slices takes off a scan.

Kascenas, Pugeault and O'Neil, "Denoising autoencoders for unsupervised anomaly detection in brain MRI", MIDL 2022:
Gaussian noise is drawn on a grid of 16 x 16 places, enlarged to the slice, moved at random and added within the head;
the map is |x − f(x)|. Here f is `bundle.networks.slice_unet.SliceUNet` at a fixed time.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable

from ..networks.slice_unet import SliceUNet
from .base import SliceMethod
from .differences import difference

__all__ = ["Denoising", "RandCoarseNoised"]

TIME = 1  # what the UNet is told: it knows one kind of noise


class Denoising(SliceMethod[SliceUNet]):
    """The residual as a MONAI inferer.

    Args:
        score_with: a name from `bundle.methods.differences.DIFFERENCES`.
        kwargs: of `SliceMethod`.
    """

    def __init__(self, score_with: str = "absolute", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.difference = difference(score_with)

    def score(self, slices: torch.Tensor, numbers: torch.Tensor, network: SliceUNet) -> torch.Tensor:
        slices = slices.float()
        return self.difference(slices, network(slices, torch.full((len(slices),), TIME, device=slices.device)).float())


class RandCoarseNoised(MapTransform, Randomizable):
    """Add the paper's noise to healthy slices, as the twins of `bundle.training.inferers.RestorationTraining`.

    Args:
        keys: the one key of the healthy slice (C, H, W), air at 0.
        std: of the noise, in units of the scaled intensity.
        cells: of its coarse grid, along each axis.
        donor_key: removed; it serves synthetic anomalies.
        twin_key: where the noisy slice goes.
        severity_key: where the severity goes: 0, which `RestorationTraining` takes for `TIME`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        std: float = 0.2,
        cells: int = 16,
        donor_key: str = "donor",
        twin_key: str = "anomalous",
        severity_key: str = "severity",
    ) -> None:
        super().__init__(keys)
        self.std, self.cells = std, cells
        self.donor_key, self.twin_key, self.severity_key = donor_key, twin_key, severity_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        d = dict(data)
        d.pop(self.donor_key, None)
        for key in self.key_iterator(d):
            image = torch.as_tensor(d[key])
            coarse = self.R.normal(0, self.std, (1, len(image), self.cells, self.cells)).astype(np.float32)
            noise = F.interpolate(torch.from_numpy(coarse), image.shape[1:], mode="bilinear", align_corners=False)[0]
            noise = noise.roll([int(self.R.randint(size)) for size in image.shape[1:]], dims=(1, 2))
            d[self.twin_key] = image + noise * (image > 0)
            d[self.severity_key] = 0.0
        return d
