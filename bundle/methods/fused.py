"""Fusion: the maps of several methods, each in units of its own healthy distribution, averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from ..scoring.calibration import read_calibration
from .base import SliceMethod

__all__ = ["Fused"]


class Fused(SliceMethod):
    """Weighted mean of −log10 of the healthy tail probabilities of several methods.

    Every method is smoothed and sharpened in plane before its calibration, as where it was calibrated on its own.

    Args:
        methods: name in the calibration file → method.
        calibration: that file.
        shares: name → weight; equal by default.
        networks: name → part of a `FusedNetwork` that the method asks; by default all ask the network as it is.
        weights: weights files to check the entries against; none skips the check.
        kwargs: of `SliceMethod`.

    Raises:
        WeightsError: when an entry is missing, or is not for ``weights``.
    """

    def __init__(
        self,
        methods: Mapping[str, SliceMethod],
        calibration: str | Path,
        shares: Mapping[str, float] | None = None,
        networks: Mapping[str, str] | None = None,
        weights: Sequence[str | Path] = (),
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.methods, self.networks = dict(methods), dict(networks or {})
        shares = dict(shares or dict.fromkeys(self.methods, 1.0))
        self.shares = {name: shares[name] / sum(shares.values()) for name in self.methods}
        self.calibrations = {name: read_calibration(calibration, name, weights) for name in self.methods}

    def score(self, slices: torch.Tensor, numbers: torch.Tensor, network: nn.Module) -> torch.Tensor:
        total = torch.zeros_like(slices[:, :1], dtype=torch.float32)
        for name, method in self.methods.items():
            asked = network.parts[self.networks[name]] if name in self.networks else network
            raw = method.finished(method.score(slices, numbers, asked).float(), slices)
            values = self.calibrations[name](raw.cpu().numpy())
            total += self.shares[name] * torch.from_numpy(values).to(total.device)
        return total
