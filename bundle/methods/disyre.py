# SPDX-License-Identifier: Apache-2.0
"""DISYRE: restore synthetic anomalies of growing severity instead of noise, and see what changes.

Naval Marimont et al., "DISYRE: Diffusion-Inspired SYnthetic REstoration for Unsupervised Anomaly Detection",
arXiv 2311.15453; ensembled form: "Ensembled Cold-Diffusion Restorations", arXiv 2407.06635. P(x, t) is
`bundle.networks.slice_unet.SliceUNet`, t in 0 … T the severity.

    step-wise (v1):   x_T = x;  for t = T, T − s, … s:   x_{t−s} = x_t + s/t · (P(x_t, t) − x_t);   a = |x − x_0|
    ensembled (v2):   a = mean over severities t of |x − P(x, t)|
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..errors import WeightsError
from ..networks.anomaly_network import AnomalyNetwork
from ..networks.slice_unet import SliceUNet
from .base import SliceMethod
from .differences import difference

__all__ = ["SEVERITIES", "Disyre"]

SEVERITIES = 100  # T


class Disyre(SliceMethod[SliceUNet | AnomalyNetwork]):
    """Both forms as a MONAI inferer. P(x, t) is the network, or the restoration in an `AnomalyNetwork`.

    Args:
        severities: of the ensemble, each in 1 … T; in the step-wise form the steps, falling.
        stepwise: v1 instead of v2.
        score_with: a name from `bundle.methods.differences.DIFFERENCES`.
        kwargs: of `SliceMethod`.
    """

    def __init__(
        self,
        severities: Sequence[int] = (20, 40, 60, 80, 100),
        stepwise: bool = False,
        score_with: str = "absolute",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        wrong = [t for t in severities if not 1 <= t <= SEVERITIES]
        if wrong or not severities:
            raise ValueError(f"severities {list(severities)}: give some, each from 1 to {SEVERITIES}")
        self.severities, self.stepwise = tuple(severities), stepwise
        self.difference = difference(score_with)

    def score(self, slices: torch.Tensor, numbers: torch.Tensor, network: SliceUNet | AnomalyNetwork) -> torch.Tensor:
        slices, restoration = slices.float(), _restoration(network)
        if self.stepwise:
            return self.difference(slices, self.restore_stepwise(slices, restoration))
        restored = (_restore(slices, severity, restoration) for severity in self.severities)
        return torch.stack([self.difference(slices, one) for one in restored]).mean(0)

    def restore_stepwise(self, slices: torch.Tensor, network: SliceUNet) -> torch.Tensor:
        """x_0 of the step-wise form, (N, C, H, W)."""
        steps = sorted(self.severities, reverse=True)
        current = slices
        for t, following in zip(steps, [*steps[1:], 0], strict=True):
            current = current + (t - following) / t * (_restore(current, t, network) - current)
        return current


def _restoration(network: SliceUNet | AnomalyNetwork) -> SliceUNet:
    unet = network.restoration if isinstance(network, AnomalyNetwork) else network
    if unet is None:
        raise WeightsError("the network", "has no restoration", "Give weights with one, as models/model.pt")
    return unet


def _restore(slices: torch.Tensor, severity: int, network: SliceUNet) -> torch.Tensor:
    return network(slices, torch.full((len(slices),), severity, device=slices.device)).float()
