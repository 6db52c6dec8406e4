# SPDX-License-Identifier: Apache-2.0
"""Autoencoder residual: what the binary autoencoder fails to reproduce. The simplest method there is."""

from __future__ import annotations

from typing import Any

import torch

from ..networks.anomaly_network import AnomalyNetwork
from .base import SliceMethod
from .differences import difference

__all__ = ["Reconstruction"]


class Reconstruction(SliceMethod[AnomalyNetwork]):
    """|x − D(E(x))|.

    Args:
        score_with: a name from `bundle.methods.differences.DIFFERENCES`.
        kwargs: of `SliceMethod`.
    """

    # Bits are too few to hold a patient: 1.3 to 1.4 % of other people's healthy voxels reach the threshold of 1 %.
    remembers_training = False

    def __init__(self, score_with: str = "absolute", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.difference = difference(score_with)

    def score(self, slices: torch.Tensor, numbers: torch.Tensor, network: AnomalyNetwork) -> torch.Tensor:
        return self.difference(slices.float(), network.decode(self.encode(slices, network)).float())
