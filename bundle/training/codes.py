# SPDX-License-Identifier: Apache-2.0
"""Training of a binary autoencoder whose bits are all used."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from monai.inferers import Inferer
from torch import nn

from ..networks.binary_autoencoder import BinaryAutoencoder, straight_through_bernoulli
from ..precision import autocast

__all__ = ["CodeLoss", "CodeTraining"]

AIR = 0.02  # intensity below which a place is air, whose bits say nothing


class CodeTraining(Inferer):
    """One training step of a binary autoencoder: the reconstruction, and how probable each bit is.

    Args:
        precision: see `bundle.precision.autocast`.
    """

    def __init__(self, precision: str = "auto") -> None:
        self.precision = precision

    def __call__(  # type: ignore[override]  # more than one tensor: what `CodeLoss` takes
        self, inputs: torch.Tensor, network: nn.Module, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Args:
            inputs: images (B, C, H, W), intensities in [0, 1].
            network: a `BinaryAutoencoder`, or a wrapper around one that forwards ``encoder`` and ``decode``.

        Returns:
            reconstructions (B, C, H, W), probabilities of a one (B, code_channels, h, w), and which places of the code
            are not air (B, 1, h, w).
        """
        autoencoder = cast(BinaryAutoencoder, getattr(network, "module", network))
        with autocast(inputs.device, self.precision):
            probability = torch.sigmoid(autoencoder.encoder(inputs).float())
            reconstruction = autoencoder.decode(straight_through_bernoulli(probability))
        places = F.interpolate(inputs.amax(1, keepdim=True), size=probability.shape[2:], mode="area") > AIR
        return reconstruction.float(), probability, places


class CodeLoss(nn.Module):
    """L1 of the reconstruction, less the entropy of each bit over a batch, so that no bit dies.

    The entropy is that of lookup-free quantisation (Yu et al., arXiv 2310.05737, eq. 4; Zhao et al., arXiv 2406.07548):
    a bit is sure of a place and uncertain over all places, Σ_k H(E[p_k]) − E[H(p_k)], in bits.

    Args:
        entropy: weight of that term, the mean over the bits of a place.
    """

    def __init__(self, entropy: float = 0.01) -> None:
        super().__init__()
        self.entropy = entropy

    def forward(
        self, prediction: tuple[torch.Tensor, torch.Tensor, torch.Tensor], target: torch.Tensor
    ) -> torch.Tensor:
        reconstruction, probability, places = prediction
        inside = probability.movedim(1, -1)[places[:, 0]]  # (places that are not air, code_channels)
        each = binary_entropy(inside).mean()
        over_all = binary_entropy(inside.mean(0)).mean()
        return F.l1_loss(reconstruction, target) + self.entropy * (each - over_all)


def binary_entropy(probability: torch.Tensor) -> torch.Tensor:
    """Of Bernoulli variables, in bits; shape of ``probability``."""
    p = probability.clamp(1e-6, 1 - 1e-6)
    return -(p * p.log2() + (1 - p) * (1 - p).log2())
