# SPDX-License-Identifier: Apache-2.0
"""A UNet that marks what a synthetic lesion has changed in a slice: brighter, and darker, than it would be without."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.networks.nets import DynUNet
from torch import nn

__all__ = ["BRIGHTER", "DARKER", "LesionUNet"]

BRIGHTER, DARKER = 0, 1  # channels of the answer
AROUND = 2  # voxels around the brain that are seen
CENTRE = 0.3  # intensity that the UNet sees as 0: a third is the median of the brain


class LesionUNet(nn.Module):
    """MONAI's DynUNet on the inside of the brain, so that a scan looks the same with and without skull.

    Args:
        in_channels: contrasts of an image.
        filters: features a level; each level after the first halves the grid.
        norm_num_groups: groups of the group normalisation; divides every entry of ``filters``.
    """

    def __init__(
        self, in_channels: int = 1, filters: Sequence[int] = (16, 24, 48, 64, 96, 128), norm_num_groups: int = 8
    ) -> None:
        super().__init__()
        levels = len(filters)
        self.multiple = 2 ** (levels - 1)
        self.unet = DynUNet(
            spatial_dims=2,
            in_channels=in_channels + 1,
            out_channels=2,
            kernel_size=[3] * levels,
            strides=[1] + [2] * (levels - 1),
            upsample_kernel_size=[2] * (levels - 1),
            filters=list(filters),
            norm_name=("group", {"num_groups": norm_num_groups, "affine": True}),
        )

    def forward(self, image: torch.Tensor, brain: torch.Tensor) -> torch.Tensor:
        """Logits of how far a voxel is changed.

        Args:
            image: (B, C, H, W), intensities in [0, 1]; H and W multiples of ``multiple``.
            brain: its mask (B, 1, H, W).

        Returns:
            (B, 2, H, W): `BRIGHTER` and `DARKER`.
        """
        seen = image * _upsample(brain)
        return self.unet(torch.cat([2 * (seen - CENTRE), brain], dim=1))


def _upsample(mask: torch.Tensor) -> torch.Tensor:
    """By `AROUND` voxels, along one axis and then the other: the same as by a square."""
    for size, around in (((2 * AROUND + 1, 1), (AROUND, 0)), ((1, 2 * AROUND + 1), (0, AROUND))):
        mask = F.max_pool2d(mask, size, stride=1, padding=around)
    return mask
