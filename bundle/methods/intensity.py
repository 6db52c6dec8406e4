# SPDX-License-Identifier: Apache-2.0
"""Plain thresholding: the intensity of the scan as its anomaly map, the baseline of every table."""

from __future__ import annotations

import torch

from ..networks.anomaly_network import AnomalyNetwork
from .base import SliceMethod

__all__ = ["Darkness", "Intensity"]


class Intensity(SliceMethod):
    """The brightest channel as it is, or smoothed by ``smoothing``; the network is not asked."""

    remembers_training = False

    def score(self, slices: torch.Tensor, numbers: torch.Tensor, network: AnomalyNetwork) -> torch.Tensor:
        return slices.amax(1, keepdim=True)


class Darkness(Intensity):
    """How far the brightest channel is below the end of the scale: the baseline for what is darker than healthy."""

    def score(self, slices: torch.Tensor, numbers: torch.Tensor, network: AnomalyNetwork) -> torch.Tensor:
        return 1 - super().score(slices, numbers, network)
