# SPDX-License-Identifier: Apache-2.0
"""Masked Bernoulli diffusion (Wolleb et al., arXiv 2403.11667, section 2.2): noise the code, keep what is healthy.

    z_org = E(x);  z ~ q(z_L | z_org);  M = 0
    for t = L … 1:   M ← M ∨ [f(z, t) > P]                bits that look flipped are free, all others are held
                     ẑ = |z − f|·M + z_org·(1 − M)
                     z ~ q(z_s | z, ẑ)                     s the next timestep
    the last step is hard: its ẑ is rounded, so that z_0 holds bits, equal to z_org outside M

Unlike the public reference, every slice of a batch has its mask, noise flips both ways, and the code is deterministic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..diffusion.bernoulli import BernoulliScheduler, flip_bits
from ..networks.anomaly_network import AnomalyNetwork
from .base import SliceMethod
from .differences import difference

__all__ = ["MaskedBernoulli", "SliceNoise", "restore_masked"]


class SliceNoise:
    """Noise, reproducible a slice: the same however slices are batched, and on every device.

    Args:
        seed: of all slices.
        numbers: number of each slice in its volume.
        draw: ``torch.rand`` for uniform noise in [0, 1), ``torch.randn`` for Gaussian.
    """

    def __init__(self, seed: int, numbers: torch.Tensor, draw: Callable = torch.rand) -> None:
        self.generators = [torch.Generator().manual_seed(seed * 100_003 + int(number)) for number in numbers]
        self.draw = draw

    def __call__(self, like: torch.Tensor) -> torch.Tensor:
        """Noise of the shape and device of ``like``, its first axis the slices."""
        return torch.stack([self.draw(like.shape[1:], generator=g) for g in self.generators]).to(like.device)


def restore_masked(
    code: torch.Tensor,
    flips: Callable[[torch.Tensor, int], torch.Tensor],
    scheduler: BernoulliScheduler,
    threshold: float,
    noise: Callable[[torch.Tensor], torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """The masked chain from ``code`` down the scheduler's timesteps.

    Args:
        code: z_org, bits (N, C, *grid).
        flips: (z_t, t) → f, the probability of each bit that it was flipped.
        scheduler: with its timesteps set; without any, the code comes back as it is.
        threshold: P.
        noise: gives uniform noise like a tensor.

    Returns:
        z_0, bits, and the mask M, both of the shape of ``code``.
    """
    mask = torch.zeros_like(code)
    if not len(scheduler.timesteps):
        return code, mask
    start = scheduler.timesteps[:1].expand(len(code))
    sample = scheduler.add_noise(code, noise(code), start)
    for t in scheduler.timesteps.tolist():
        probability = flips(sample, t)
        mask = torch.maximum(mask, (probability > threshold).to(code.dtype))
        clean = flip_bits(sample, probability) * mask + code * (1 - mask)
        if scheduler.previous(t) == 0:
            return (clean > 0.5).to(code.dtype), mask
        sample = scheduler.step(clean, t, sample, noise(code))
    raise AssertionError("the last timestep leads to 0")


class MaskedBernoulli(SliceMethod[AnomalyNetwork]):
    """The paper's method as a MONAI inferer.

    Args:
        noise_level: L, in 0 … T; at 0 nothing is restored.
        threshold: P, the flip probability above which a bit is free.
        num_steps: reverse steps from L to 0.
        compare_with: ``code`` for D(z_org) − D(z_0), in which reconstruction errors cancel, or ``image`` for the
            paper's x − D(z_0).
        score_with: a name from `bundle.methods.differences.DIFFERENCES`.
        seed: of the noise.
        kwargs: of `SliceMethod`.
    """

    def __init__(
        self,
        noise_level: int = 200,
        threshold: float = 0.5,
        num_steps: int = 10,
        compare_with: str = "code",
        score_with: str = "squared",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold {threshold} is not a probability")
        if compare_with not in ("code", "image"):
            raise ValueError(f"compare_with {compare_with!r} is neither 'code' nor 'image'")
        self.noise_level, self.threshold, self.num_steps, self.seed = noise_level, threshold, num_steps, seed
        self.compare_with, self.difference = compare_with, difference(score_with)
        self._scheduler()  # a wrong level or number of steps fails now, not at the first scan

    def _scheduler(self) -> BernoulliScheduler:
        scheduler = BernoulliScheduler()
        scheduler.set_timesteps(self.num_steps, noise_level=self.noise_level)
        return scheduler

    def score(self, slices: torch.Tensor, numbers: torch.Tensor, network: AnomalyNetwork) -> torch.Tensor:
        code = self.encode(slices, network)
        noise = SliceNoise(self.seed, numbers)
        restored, _ = restore_masked(code, network.flip_probability, self._scheduler(), self.threshold, noise)
        observed = network.decode(code) if self.compare_with == "code" else slices
        return self.difference(observed.float(), network.decode(restored).float())
