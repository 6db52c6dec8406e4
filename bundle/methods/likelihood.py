# SPDX-License-Identifier: Apache-2.0
"""Likelihood of the bits of a code: the obvious score, kept as the negative result that it is (docs/choices.md).

With noise on the code, the denoiser tells how probable each bit of z_org is: −log P(z_org | z_t), averaged over noise
levels and over the bits at a place. On real codes neighbouring bits give a lesion away as plausible texture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ..diffusion.bernoulli import BernoulliScheduler
from ..networks.anomaly_network import AnomalyNetwork
from .base import SliceMethod
from .masked_bernoulli import SliceNoise

__all__ = ["BitLikelihood"]


class BitLikelihood(SliceMethod[AnomalyNetwork]):
    """Negative log-likelihood of the bits under random flips.

    Args:
        noise_levels: timesteps t that are averaged, each in 1 … T.
        seed: of the noise.
        kwargs: of `SliceMethod`.
    """

    def __init__(self, noise_levels: Sequence[int] = (50, 150, 300), seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.noise_levels, self.seed = tuple(noise_levels), seed
        self.scheduler = BernoulliScheduler()

    def score(self, slices: torch.Tensor, numbers: torch.Tensor, network: AnomalyNetwork) -> torch.Tensor:
        code = self.encode(slices, network)
        noise = SliceNoise(self.seed, numbers)
        surprise = torch.zeros_like(code)
        for level in self.noise_levels:
            noisy = self.scheduler.add_noise(code, noise(code), torch.full((len(code),), level))
            flips = network.flip_probability(noisy, level)
            likelihood = torch.where(noisy == code, 1 - flips, flips)  # that the bit was z_org's
            surprise -= likelihood.clamp(min=1e-6).log() / len(self.noise_levels)
        surprise = surprise.mean(1, keepdim=True)
        return F.interpolate(surprise, size=slices.shape[2:], mode="bilinear", align_corners=False)
