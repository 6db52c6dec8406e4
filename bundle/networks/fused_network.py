# SPDX-License-Identifier: Apache-2.0
"""Several networks under one state dict, for a method that asks them all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from torch import nn

from .protocol import SliceNetwork
from .weights import load_weights

__all__ = ["FusedNetwork", "load_parts"]


class FusedNetwork(nn.Module):
    """Networks by name.

    Args:
        parts: name → network; the first also answers `forward`.
    """

    def __init__(self, parts: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)

    @property
    def multiple(self) -> int:
        """Every spatial size of an image is a multiple of this."""
        return math.lcm(*(cast(SliceNetwork, part).multiple for part in self.parts.values()))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """What the first of the networks makes of an image."""
        return next(iter(self.parts.values()))(image)


def load_parts(network: FusedNetwork, paths: Mapping[str, str | Path]) -> FusedNetwork:
    """Load the weights of each part from its own file.

    Raises:
        WeightsError: as `load_weights`.
    """
    for name, path in paths.items():
        load_weights(network.parts[name], path)
    return network
