"""Synthetic lesions: a UNet that learned to mark lesions painted into healthy slices, asked of a scan.

The idea, that what restores or marks synthetic corruptions of healthy images finds real lesions, is DISYRE's (Naval
Marimont et al., arXiv 2311.15453); here the UNet says where, at the full resolution of the model's grid, and of which
sign.
"""

from __future__ import annotations

import torch
from monai.data import MetaTensor
from monai.utils import convert_to_dst_type

from ..networks.anomaly_network import AnomalyNetwork
from ..networks.lesion_unet import BRIGHTER, DARKER, LesionUNet
from ..transforms.brain_depth import brain_depth
from .base import SliceMethod

__all__ = ["SIGNS", "SyntheticLesions"]

#: What is asked for → channels of the answer, of which the higher one counts.
SIGNS = {"brighter": (BRIGHTER,), "darker": (DARKER,), "either": (BRIGHTER, DARKER)}


class SyntheticLesions(SliceMethod):
    """One pass as a MONAI inferer.

    Args:
        sign: ``brighter`` or ``darker`` than healthy, or ``either``.
        kwargs: of `SliceMethod`.

    Raises:
        ValueError: on another sign.
    """

    def __init__(self, sign: str = "either", **kwargs) -> None:
        super().__init__(**kwargs)
        if sign not in SIGNS:
            raise ValueError(f"sign {sign!r} is not one of {', '.join(SIGNS)}")
        self.sign = sign

    def __call__(self, inputs: torch.Tensor, network: AnomalyNetwork, *args, **kwargs) -> torch.Tensor:
        """Map volumes, see `SliceMethod`. The brain is where the preprocessing has noted a depth
        (`bundle.transforms.brain_depth`), or else all that is not zero.
        """
        volumes = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        depth = brain_depth(inputs)
        brain = volumes.amax(1, keepdim=True) > 0 if depth is None else torch.as_tensor(depth > 0).to(volumes.device)
        with_brain = torch.cat([volumes, brain.expand(len(volumes), 1, *volumes.shape[2:]).to(volumes.dtype)], dim=1)
        maps = super().__call__(with_brain, network)
        return convert_to_dst_type(maps, inputs)[0] if isinstance(inputs, MetaTensor) else maps

    def score(self, slices: torch.Tensor, numbers: torch.Tensor, network: AnomalyNetwork | LesionUNet) -> torch.Tensor:
        """Of slices with their brain as the last channel (N, C + 1, H, W)."""
        unet = getattr(network, "lesions", None) or network
        answer = torch.sigmoid(unet(slices[:, :-1], slices[:, -1:]).float())
        return answer[:, SIGNS[self.sign]].amax(1, keepdim=True)
