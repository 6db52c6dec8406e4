# SPDX-License-Identifier: Apache-2.0
"""Binary autoencoder: an image becomes a grid of bits, and a grid of bits an image.

Wolleb et al., "Binary Noise for Binary Tasks: Masked Bernoulli Diffusion for Unsupervised Anomaly Detection",
MICCAI 2024, arXiv 2403.11667, section 2. Encoder and decoder are MONAI's autoencoder blocks; what stands here is the
Bernoulli code between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.nets.autoencoderkl import Decoder, Encoder
from torch import nn

__all__ = ["BinaryAutoencoder", "straight_through_bernoulli"]


def straight_through_bernoulli(probability: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Z ~ Bernoulli(p), with the gradient of p: z = sg(z) + p − sg(p).

    Args:
        probability: any shape, in [0, 1].
        generator: source of the random bits; torch's global one by default.

    Returns:
        bits of the same shape and dtype.
    """
    bits = torch.bernoulli(probability.detach(), generator=generator)
    return bits + probability - probability.detach()


class BinaryAutoencoder(nn.Module):
    """Images to bits and back.

    Training draws the bits (`straight_through_bernoulli`); evaluation rounds them, so that one image has one code.

    Args:
        spatial_dims: 2 or 3.
        in_channels: contrasts of an image.
        code_channels: bits at each place of the code.
        channels: features a level; each level after the first halves the grid.
        num_res_blocks: residual blocks a level.
        norm_num_groups: groups of the group normalisation; divides every entry of ``channels``.
        attention: whether the middle of encoder and decoder attends over all places, as in the paper. Without it a
            bit depends on its surroundings only, which keeps a local anomaly local.
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 1,
        code_channels: int = 32,
        channels: Sequence[int] = (16, 32, 64),
        num_res_blocks: int = 1,
        norm_num_groups: int = 8,
        attention: bool = False,
    ) -> None:
        super().__init__()
        shared: dict[str, Any] = {
            "spatial_dims": spatial_dims,
            "channels": tuple(channels),
            "num_res_blocks": (num_res_blocks,) * len(channels),
            "norm_num_groups": norm_num_groups,
            "norm_eps": 1e-6,
            "attention_levels": (False,) * len(channels),
            "with_nonlocal_attn": attention,
        }
        self.code_channels = code_channels
        self.downsampling = 2 ** (len(channels) - 1)
        self.encoder = Encoder(in_channels=in_channels, out_channels=code_channels, **shared)
        self.decoder = Decoder(in_channels=code_channels, out_channels=in_channels, **shared)

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """The most probable code of an image.

        Args:
            image: (B, C, *spatial), intensities in [0, 1]; every spatial size a multiple of ``downsampling``.

        Returns:
            float tensor of zeros and ones, (B, code_channels, *spatial / downsampling).
        """
        return (self.encoder(image) > 0).float()

    def decode(self, code: torch.Tensor) -> torch.Tensor:
        """The image of a code.

        Args:
            code: (B, code_channels, *grid), bits or probabilities in [0, 1].

        Returns:
            (B, C, *grid · downsampling), in units of the input.
        """
        return self.decoder(2 * code - 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Reconstruct an image through its code; shapes as in `encode` and `decode`."""
        if not self.training:
            return self.decode(self.encode(image))
        probability = torch.sigmoid(self.encoder(image).float())
        return self.decode(straight_through_bernoulli(probability))
