# SPDX-License-Identifier: Apache-2.0
"""A time-conditioned UNet on slices, for the methods that work on images: DISYRE and MDPS."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.networks.nets import DiffusionModelUNet
from torch import nn

__all__ = ["SliceUNet"]


class SliceUNet(nn.Module):
    """MONAI's DiffusionModelUNet on blocks of ``fold`` x ``fold`` pixels as channels: a quarter of the time at 2.

    Args:
        in_channels: contrasts of an image.
        channels: features a level.
        attention: whether each level attends over all places.
        num_res_blocks: residual blocks a level.
        num_head_channels: features of an attention head.
        norm_num_groups: groups of the group normalisation.
        fold: side of a block.
        residual: add the image to what the UNet says, so that to begin with an image is its own restoration (DISYRE);
            otherwise what it says is the answer (the noise of MDPS).
    """

    def __init__(
        self,
        in_channels: int = 1,
        channels: Sequence[int] = (24, 48, 96),
        attention: Sequence[bool] = (False, False, True),
        num_res_blocks: int = 1,
        num_head_channels: int = 24,
        norm_num_groups: int = 8,
        fold: int = 2,
        residual: bool = True,
    ) -> None:
        super().__init__()
        self.fold, self.residual = fold, residual
        self.unet = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=in_channels * fold**2,
            out_channels=in_channels * fold**2,
            num_res_blocks=num_res_blocks,
            channels=tuple(channels),
            attention_levels=tuple(attention),
            norm_num_groups=norm_num_groups,
            num_head_channels=num_head_channels,
        )

    @property
    def multiple(self) -> int:
        """Every spatial size of an image is a multiple of this."""
        return self.fold * 2 ** (len(self.unet.block_out_channels) - 1)

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        """What is asked of an image at a time.

        Args:
            x: (B, C, H, W); H and W multiples of ``multiple``.
            timesteps: of each image (B,): severity t of DISYRE, noise step of MDPS.
            context: not used; MONAI's DiffusionInferer passes it.

        Returns:
            the shape of ``x``.
        """
        answer = F.pixel_shuffle(self.unet(F.pixel_unshuffle(x, self.fold), timesteps), self.fold)
        return x + answer.to(x.dtype) if self.residual else answer
