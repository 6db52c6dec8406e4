# SPDX-License-Identifier: Apache-2.0
"""Synthetic lesions: a UNet that learned to mark lesions painted into healthy slices, asked of a scan.

The idea, that what restores or marks synthetic corruptions of healthy images finds real lesions, is DISYRE's (Naval
Marimont et al., arXiv 2311.15453); here the UNet says where, at the full resolution of the model's grid, and of which
sign.
"""

from __future__ import annotations

from typing import Any

import torch
from monai.data import MetaTensor
from monai.utils import convert_to_dst_type

from ..errors import WeightsError
from ..networks.anomaly_network import AnomalyNetwork
from ..networks.lesion_unet import BRIGHTER, DARKER, LesionUNet
from .base import SliceMethod, organ_of

__all__ = ["SIGNS", "SyntheticLesions"]

#: What is asked for → channels of the answer, of which the higher one counts.
SIGNS = {"brighter": (BRIGHTER,), "darker": (DARKER,), "either": (BRIGHTER, DARKER)}
MARGIN = 8  # voxels around the brain that the UNet is given


class SyntheticLesions(SliceMethod[AnomalyNetwork | LesionUNet]):
    """One pass as a MONAI inferer.

    Args:
        sign: ``brighter`` or ``darker`` than healthy, or ``either``.
        dark_share: what the probability of darker is multiplied by where either is asked: on FLAIR most of what
            matters is brighter, and more of what is darker is healthy.
        kwargs: of `SliceMethod`.

    Raises:
        ValueError: on another sign, or a share that is not between 0 and 1.
    """

    def __init__(self, sign: str = "either", dark_share: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if sign not in SIGNS:
            raise ValueError(f"sign {sign!r} is not one of {', '.join(SIGNS)}")
        if not 0 <= dark_share <= 1:
            raise ValueError(f"dark_share {dark_share} is not between 0 and 1")
        self.sign, self.dark_share = sign, dark_share

    def __call__(
        self, inputs: torch.Tensor, network: AnomalyNetwork | LesionUNet, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Map volumes, see `SliceMethod`; the brain is that of `organ_of`."""
        volumes = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        brain = organ_of(inputs)
        box, maps = _box_of(brain), torch.zeros_like(brain, dtype=torch.float32)
        # The UNet sees nothing outside: about half of the frame.
        maps[box] = super().__call__(torch.cat([volumes, brain], dim=1)[box], network)
        return convert_to_dst_type(maps, inputs)[0] if isinstance(inputs, MetaTensor) else maps

    def score(self, slices: torch.Tensor, numbers: torch.Tensor, network: AnomalyNetwork | LesionUNet) -> torch.Tensor:
        """Of slices with their brain as the last channel (N, C + 1, H, W)."""
        unet = network.lesions if isinstance(network, AnomalyNetwork) else network
        if unet is None:
            raise WeightsError("the network", "has no UNet of synthetic lesions", "Give weights with one")
        answer = torch.sigmoid(unet(slices[:, :-1], slices[:, -1:]).float())
        if self.sign == "either":
            answer[:, DARKER] *= self.dark_share
        return answer[:, SIGNS[self.sign]].amax(1, keepdim=True)


def _box_of(brain: torch.Tensor) -> tuple[slice, ...]:
    """Of masks (B, 1, X, Y, Z): all slices, in plane the box around them with a margin; all of it where they are
    empty.
    """
    box = [slice(None)] * 5
    for axis in (2, 3):
        inside = brain.amax([a for a in range(5) if a != axis]).nonzero()
        if len(inside):
            box[axis] = slice(max(int(inside[0]) - MARGIN, 0), int(inside[-1]) + MARGIN + 1)
    return tuple(box)
