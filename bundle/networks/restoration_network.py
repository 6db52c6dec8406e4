"""The network of DISYRE: what a slice would be without its anomalies of a given severity."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.networks.nets import DiffusionModelUNet
from torch import nn

__all__ = ["RestorationNetwork"]


class RestorationNetwork(nn.Module):
    """P(x_t, t) → x_0, a time-conditioned UNet (Naval Marimont et al., arXiv 2311.15453, section 2.3).

    It works on blocks of ``fold`` x ``fold`` pixels as channels, which costs a CPU a quarter of the time at ``fold`` 2
    and loses nothing, and it predicts the change, so that a healthy slice is its own restoration to begin with.

    Args:
        in_channels: contrasts of an image.
        channels: features a level.
        attention: whether each level attends over all places.
        num_res_blocks: residual blocks a level.
        num_head_channels: features of an attention head.
        norm_num_groups: groups of the group normalisation.
        fold: side of a block.
    """

    def __init__(
        self,
        in_channels: int = 1,
        channels: Sequence[int] = (32, 64, 128),
        attention: Sequence[bool] = (False, False, True),
        num_res_blocks: int = 1,
        num_head_channels: int = 32,
        norm_num_groups: int = 16,
        fold: int = 2,
    ) -> None:
        super().__init__()
        self.fold = fold
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

    def forward(self, image: torch.Tensor, severity: torch.Tensor) -> torch.Tensor:
        """Restore.

        Args:
            image: x_t (B, C, H, W), intensities in [0, 1]; H and W multiples of ``multiple``.
            severity: t of each image (B,), 0 … 100.

        Returns:
            x_0, the shape of ``image``.
        """
        change = self.unet(F.pixel_unshuffle(image, self.fold), severity)
        return image + F.pixel_shuffle(change, self.fold).to(image.dtype)
