# SPDX-License-Identifier: Apache-2.0
"""The one module of ``models/model.pt``: all networks of the default method under one state dict.

One module, because MONAI Label loads one network and one file.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from monai.networks.nets import DiffusionModelUNet
from torch import nn

from .binary_autoencoder import BinaryAutoencoder
from .lesion_unet import LesionUNet
from .slice_unet import SliceUNet

__all__ = ["STRUCTURED", "AnomalyNetwork", "with_part"]

#: The timestep that means "no random flips": what is wrong with such a code was wrong with the image.
STRUCTURED = 0


class AnomalyNetwork(nn.Module):
    """Binary autoencoder with a time-conditioned denoiser of its codes.

    The denoiser f(z_t, t) gives the logit that a bit was flipped, p(z_t ⊕ z_0 = 1) (arXiv 2403.11667). Timesteps 1 …
    T stand for random flips. Timestep 0 stands for the flips that an anomaly in the image causes (structured flips).

    Args:
        spatial_dims: 2 or 3.
        in_channels: contrasts of an image.
        code_channels: bits at each place of the code.
        autoencoder: further arguments of `BinaryAutoencoder`.
        denoiser_channels: features a level of the denoiser.
        denoiser_attention: whether each of its levels attends over all places.
        denoiser_res_blocks: residual blocks a level.
        num_head_channels: features of an attention head.
        norm_num_groups: groups of the denoiser's group normalisation.
        restoration: arguments of a `SliceUNet` beside them, which restores images (DISYRE); None for none.
        lesions: arguments of a `LesionUNet` beside them, which marks synthetic lesions; None for none.
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 1,
        code_channels: int = 32,
        autoencoder: dict | None = None,
        denoiser_channels: Sequence[int] = (64, 128, 128),
        denoiser_attention: Sequence[bool] = (False, False, True),
        denoiser_res_blocks: int = 1,
        num_head_channels: int = 32,
        norm_num_groups: int = 32,
        restoration: dict | None = None,
        lesions: dict | None = None,
    ) -> None:
        super().__init__()
        self.autoencoder = BinaryAutoencoder(spatial_dims, in_channels, code_channels, **(autoencoder or {}))
        self.denoiser = DiffusionModelUNet(
            spatial_dims=spatial_dims,
            in_channels=code_channels,
            out_channels=code_channels,
            num_res_blocks=denoiser_res_blocks,
            channels=tuple(denoiser_channels),
            attention_levels=tuple(denoiser_attention),
            norm_num_groups=norm_num_groups,
            num_head_channels=num_head_channels,
        )
        self.restoration = None if restoration is None else SliceUNet(in_channels, **restoration)
        self.lesions = None if lesions is None else LesionUNet(in_channels, **lesions)

    @property
    def multiple(self) -> int:
        """Every spatial size of an image is a multiple of this."""
        codes = self.autoencoder.downsampling * 2 ** (len(self.denoiser.block_out_channels) - 1)
        return codes if self.lesions is None else math.lcm(codes, self.lesions.multiple)

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        """Image → bits, see `BinaryAutoencoder.encode`."""
        return self.autoencoder.encode(image)

    def decode(self, code: torch.Tensor) -> torch.Tensor:
        """Bits → image, see `BinaryAutoencoder.decode`."""
        return self.autoencoder.decode(code)

    def flip_probability(self, code: torch.Tensor, timestep: int = STRUCTURED) -> torch.Tensor:
        """f(z_t, t): the probability of each bit that it was flipped; shape of ``code``."""
        timesteps = torch.full((len(code),), timestep, dtype=torch.long, device=code.device)
        return torch.sigmoid(self.denoiser(code, timesteps).float())

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Restore an image in one pass: encode, undo the structured flips softly, decode.

        Args:
            image: (B, C, *spatial), intensities in [0, 1]; every spatial size a multiple of ``multiple``.

        Returns:
            D(|z − f(z, 0)|), the shape of ``image``: what the image would be without its anomalies.
        """
        code = self.encode(image)
        return self.decode((code - self.flip_probability(code)).abs())


def with_part(network: AnomalyNetwork, name: str, part: nn.Module) -> AnomalyNetwork:
    """The network with one of its parts replaced, sharing all the others (a moving average, for validation)."""
    twin = copy.copy(network)
    twin._modules = {**network._modules, name: part}
    return twin
