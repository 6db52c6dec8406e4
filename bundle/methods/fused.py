"""Several methods at once: one of them on its part of a fused network, or all of them averaged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from monai.inferers import Inferer

from ..networks.fused_network import FusedNetwork
from ..scoring.calibration import read_calibration
from .base import SliceMethod

__all__ = ["Fused", "Part"]


class Part(Inferer):
    """A method on its part of a `FusedNetwork`, so that methods with different networks can be asked in one run.

    Args:
        method: the method.
        part: name of the network that it is for.
    """

    def __init__(self, method: SliceMethod, part: str) -> None:
        self.method, self.part = method, part

    def __call__(self, inputs: torch.Tensor, network: FusedNetwork, *args, **kwargs) -> torch.Tensor:
        return self.method(inputs, network.parts[self.part], *args, **kwargs)


class Fused(SliceMethod):
    """Mean of −log10 of the healthy tail probabilities of several methods.

    Every method has its smoothing done before its calibration, here as on its own.

    Args:
        methods: name in the calibration file → method.
        calibration: that file.
        networks: name → name of its part in the `FusedNetwork`; the same name by default.
        kwargs: of `SliceMethod`.
    """

    def __init__(
        self,
        methods: Mapping[str, SliceMethod],
        calibration: str | Path,
        networks: Mapping[str, str] | None = None,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.methods, self.networks = dict(methods), dict(networks or {})
        self.calibrations = {name: read_calibration(calibration, name) for name in self.methods}

    def score(self, slices: torch.Tensor, numbers: torch.Tensor, network: FusedNetwork) -> torch.Tensor:
        total = torch.zeros_like(slices[:, :1], dtype=torch.float32)
        for name, method in self.methods.items():
            raw = method.smoothed(method.score(slices, numbers, network.parts[self.networks.get(name, name)]).float())
            total += torch.from_numpy(self.calibrations[name](raw.cpu().numpy())).to(total.device)
        return total / len(self.methods)
