# SPDX-License-Identifier: Apache-2.0
"""MDPS: masked diffusion posterior sampling (Wu et al., IJCAI 2024, arXiv 2404.17900).

The prior is a denoising diffusion model ε of healthy images x_0. The scan y is observed as x_0 plus noise outside the
anomaly, of which the mask M (1 where healthy) is a guess. Samples of p(x_0 | y) are drawn with

    x̂_0(x_t) = (x_t − √(1−ᾱ_t) ε(x_t, t)) / √ᾱ_t
    g = ∇_{x_t} ‖M ⊙ (x̂_0 − y)‖₂                            a norm an image, never over a batch
    ε̃ = ε + w √(1−ᾱ_t) g                                     then a DDIM step with ε̃, η = 1

in two stages: first with M = 1 everywhere; then with M from a threshold on the first map, fixed on healthy data, and
with the noised y kept where M = 1 after every step. The map is the distance of y to a sample, over features of the
binary autoencoder's encoder (1 − cosine; the reference's are ImageNet's) and over pixels, averaged over samples.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from monai.networks.schedulers import DDIMScheduler

from ..networks.anomaly_network import AnomalyNetwork
from ..networks.binary_autoencoder import BinaryAutoencoder
from ..networks.fused_network import FusedNetwork
from .base import SliceMethod
from .differences import difference
from .masked_bernoulli import SliceNoise

__all__ = ["Mdps", "feature_distance", "guided_noise", "posterior_sample"]


def guided_noise(
    sample: torch.Tensor,
    observed: torch.Tensor,
    healthy: torch.Tensor,
    alpha_bar: float,
    noise_of: Callable[[torch.Tensor], torch.Tensor],
    weight: float,
) -> torch.Tensor:
    """ε̃, the noise that also explains the observation.

    Args:
        sample: x_t (N, C, H, W).
        observed: y.
        healthy: M (N, 1, H, W).
        alpha_bar: ᾱ_t.
        noise_of: x_t → ε(x_t, t).
        weight: w; 0 for the prior alone.

    Returns:
        the shape of ``sample``, without a graph.
    """
    with torch.enable_grad():
        sample = sample.detach().requires_grad_(weight > 0)
        noise = noise_of(sample)
        if weight > 0:
            clean = (sample - (1 - alpha_bar) ** 0.5 * noise) / alpha_bar**0.5
            distance = (healthy * (clean - observed)).flatten(1).norm(dim=1).sum()  # a sum: each image its own gradient
            gradient = torch.autograd.grad(distance, sample)[0]
            noise = noise + weight * (1 - alpha_bar) ** 0.5 * gradient
    return noise.detach()


def _at(prior: Callable[[torch.Tensor, int], torch.Tensor], t: int, sample: torch.Tensor) -> torch.Tensor:
    return prior(sample, t)


def posterior_sample(
    observed: torch.Tensor,
    healthy: torch.Tensor,
    scheduler: DDIMScheduler,
    timesteps: list[int],
    prior: Callable[[torch.Tensor, int], torch.Tensor],
    weight: float,
    noise: Callable[[torch.Tensor], torch.Tensor],
    keep: bool,
) -> torch.Tensor:
    """One sample of p(x_0 | y), from y noised to the first timestep.

    Args:
        observed: y (N, C, H, W), in [−1, 1].
        healthy: M (N, 1, H, W).
        scheduler: gives ᾱ_t.
        timesteps: falling.
        prior: (x_t, t) → ε.
        weight: of the observation.
        noise: gives Gaussian noise like a tensor.
        keep: put the noised y back where M = 1 after every step.

    Returns:
        x_0, the shape of ``observed``.
    """

    def noised(alpha_bar: float) -> torch.Tensor:
        return alpha_bar**0.5 * observed + (1 - alpha_bar) ** 0.5 * noise(observed)

    bars = [float(scheduler.alphas_cumprod[t]) for t in timesteps] + [1.0]
    sample = noised(bars[0])
    for t, bar, following in zip(timesteps, bars, bars[1:], strict=False):
        epsilon = guided_noise(sample, observed, healthy, bar, functools.partial(_at, prior, t), weight)
        clean = ((sample - (1 - bar) ** 0.5 * epsilon) / bar**0.5).clamp(-1, 1)
        sigma = ((1 - following) / (1 - bar) * (1 - bar / following)) ** 0.5  # DDIM (arXiv 2010.02502, eq. 16), η = 1
        sample = following**0.5 * clean + max(1 - following - sigma**2, 0) ** 0.5 * epsilon
        if following < 1:
            sample = sample + sigma * noise(sample)
        if keep:
            sample = healthy * noised(following) + (1 - healthy) * sample
    return sample


def feature_distance(autoencoder: BinaryAutoencoder, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Mean over the levels of the encoder of 1 − cosine of the features at a place.

    Args:
        autoencoder: whose encoder gives the features.
        first, second: images (N, C, H, W) in [0, 1].

    Returns:
        (N, 1, H, W), in [0, 2].
    """
    size, total, levels = first.shape[2:], torch.zeros_like(first[:, :1]), 0
    both = torch.cat([first, second])
    for block in autoencoder.encoder.blocks[:-1]:
        both = block(both)
        if type(block).__name__ == "AEKLResBlock":
            one, other = both.chunk(2)
            distance = 1 - F.cosine_similarity(one.float(), other.float(), dim=1)[:, None]
            total = total + F.interpolate(distance, size=size, mode="bilinear", align_corners=False)
            levels += 1
    return total / levels


class Mdps(SliceMethod[FusedNetwork]):
    """Both stages as a MONAI inferer. Its network is a `FusedNetwork` of ``prior`` and ``flips`` (for the features).

    Args:
        noise_level: t that y is noised to.
        stride: between timesteps.
        weight: w, of the observation.
        threshold: on the first map, fixed on healthy data; above it nothing counts as observed.
        samples: drawn in each stage and averaged.
        score_with: name from `bundle.methods.differences.DIFFERENCES` for the pixels; ``absolute`` is the paper's.
        feature_weight: of the feature distance beside that difference.
        seed: of the noise.
        kwargs: of `SliceMethod`.
    """

    def __init__(
        self,
        noise_level: int = 200,
        stride: int = 20,
        weight: float = 1.0,
        threshold: float = 0.1,
        samples: int = 1,
        score_with: str = "absolute",
        feature_weight: float = 0.3,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 1 <= noise_level < 1000 or stride < 1 or samples < 1:
            raise ValueError(f"noise_level {noise_level} (1 … 999), stride {stride} or samples {samples} (1 or more)")
        self.noise_level, self.stride, self.weight, self.threshold = noise_level, stride, weight, threshold
        self.samples, self.feature_weight, self.seed = samples, feature_weight, seed
        self.score_with, self.difference = score_with, difference(score_with)
        self.scheduler = DDIMScheduler(num_train_timesteps=1000)

    def score(self, slices: torch.Tensor, numbers: torch.Tensor, network: FusedNetwork) -> torch.Tensor:
        slices = slices.float()
        everywhere = torch.ones_like(slices[:, :1])
        first = self._stage(slices, everywhere, numbers, network, keep=False)
        healthy = (first <= self.threshold).float()
        return self._stage(slices, healthy, numbers, network, keep=True)

    def _stage(
        self, slices: torch.Tensor, healthy: torch.Tensor, numbers: torch.Tensor, network: FusedNetwork, keep: bool
    ) -> torch.Tensor:
        """Map of one stage, averaged over samples."""
        prior, autoencoder = network.parts["prior"], cast(AnomalyNetwork, network.parts["flips"]).autoencoder

        def epsilon(sample: torch.Tensor, t: int) -> torch.Tensor:
            return prior(sample, torch.full((len(sample),), t, device=sample.device)).float()

        timesteps = list(range(self.noise_level, 0, -self.stride))
        total = torch.zeros_like(slices[:, :1])
        for number in range(self.samples):
            noise = SliceNoise(self.seed + 7919 * number, numbers, torch.randn)
            sample = posterior_sample(
                2 * slices - 1, healthy, self.scheduler, timesteps, epsilon, self.weight, noise, keep
            )
            restored = ((sample + 1) / 2).clamp(0, 1)
            total += self.difference(slices, restored)
            if self.feature_weight:
                total += self.feature_weight * feature_distance(autoencoder, slices, restored)
        return total / self.samples
