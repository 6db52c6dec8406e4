# SPDX-License-Identifier: Apache-2.0
"""Bernoulli diffusion: bits that are flipped, and flipped back.

Wolleb et al., arXiv 2403.11667, section 2.1, after Sohl-Dickstein et al., arXiv 1503.03585. With β_t the schedule,
α_t = 1 − β_t and ᾱ_t = ∏ α:

    q(z_t | z_{t−1}) = B(α_t z_{t−1} + (1 − α_t)/2)                                            (1)
    q(z_t | z_0)     = B(ᾱ_t z_0 + (1 − ᾱ_t)/2)            a bit is flipped with (1 − ᾱ_t)/2     (2)
    q(z_s | z_t, z_0) = B(θ2 / (θ1 + θ2))                                                        (3)
      θ2 = (α_{t|s} z_t + (1 − α_{t|s})/2) (ᾱ_s z_0 + (1 − ᾱ_s)/2)
      θ1 = (α_{t|s} (1 − z_t) + (1 − α_{t|s})/2) (ᾱ_s (1 − z_0) + (1 − ᾱ_s)/2)

The paper has (3) for s = t − 1. The chain is closed under composition, so with α_{t|s} = ᾱ_t / ᾱ_s it holds for any
s < t, and the same weights run on any list of steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from monai.networks.schedulers import Scheduler

__all__ = ["BernoulliScheduler", "flip_bits"]


def flip_bits(bits: torch.Tensor, flips: torch.Tensor) -> torch.Tensor:
    """|z − f|: bits z with the flips f undone, exactly where f is 0 or 1, in expectation where it is between."""
    return (bits - flips).abs()


class BernoulliScheduler(Scheduler):
    """Noise schedule, forward noise and reverse steps of Bernoulli diffusion.

    Timesteps run from 0 (the code itself, no noise) to ``num_train_timesteps``. Flips are symmetric, 0 → 1 as likely
    as 1 → 0.

    Args:
        num_train_timesteps: T.
        schedule: name in MONAI's NoiseSchedules.
        schedule_args: of that schedule.
    """

    def __init__(self, num_train_timesteps: int = 1000, schedule: str = "linear_beta", **schedule_args: Any) -> None:
        super().__init__(num_train_timesteps, schedule, **schedule_args)
        # In double precision, and with ᾱ_0 = 1, so that alpha_bar[t] is the ᾱ_t of the paper.
        alphas = self.alphas.double()
        self.alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(alphas, 0)])
        self.set_timesteps(num_train_timesteps)

    def flip_rate(self, timesteps: torch.Tensor | int) -> torch.Tensor:
        """(1 − ᾱ_t)/2, the probability that a bit of z_0 is flipped in z_t; shape of ``timesteps``."""
        return (1 - self.alpha_bar[torch.as_tensor(timesteps).cpu()]) / 2

    def add_noise(self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """z_t ~ q(z_t | z_0), eq. (2).

        Args:
            original_samples: z_0, bits (B, …).
            noise: uniform in [0, 1), the same shape: a bit is flipped where it lies below the flip rate.
            timesteps: (B,) integers in 0 … T; at 0 nothing is flipped.

        Returns:
            bits (B, …), dtype of ``original_samples``.
        """
        rate = self.flip_rate(timesteps).to(noise.device, noise.dtype)
        rate = rate.view(-1, *(1,) * (original_samples.ndim - 1))
        return flip_bits(original_samples, (noise < rate).to(original_samples.dtype))

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        noise_level: int | None = None,
        timesteps: Sequence[int] | None = None,
    ) -> None:
        """Choose the reverse steps.

        Args:
            num_inference_steps: how many, evenly spread; every timestep by default.
            noise_level: where they begin, L in the paper; T by default. At 0 there are none.
            timesteps: the list itself, falling, each in 1 … T, instead of the two above.

        Raises:
            ValueError: when the list is not strictly falling or leaves 1 … T.
        """
        top = self.num_train_timesteps
        if timesteps is None:
            start = top if noise_level is None else noise_level
            if not 0 <= start <= top:
                raise ValueError(f"noise_level {start} is not in 0 … {top}")
            count = min(start if num_inference_steps is None else num_inference_steps, start)
            if start and count < 1:
                raise ValueError(f"num_inference_steps {num_inference_steps} is less than 1")
            timesteps = [start - (start * i) // count for i in range(count)] if start else []
        steps = [int(t) for t in timesteps]
        if any(not 1 <= t <= top for t in steps) or any(s >= t for t, s in pairwise(steps)):
            raise ValueError(f"timesteps {steps} must fall strictly and lie in 1 … {top}")
        self.timesteps = torch.tensor(steps, dtype=torch.long)
        self.num_inference_steps = len(steps)

    def previous(self, timestep: int) -> int:
        """The timestep after ``timestep`` on the way down; 0 after the last."""
        index = self.timesteps.tolist().index(int(timestep))
        return int(self.timesteps[index + 1]) if index + 1 < len(self.timesteps) else 0

    def posterior(self, sample: torch.Tensor, clean: torch.Tensor, timestep: int, previous: int) -> torch.Tensor:
        """P(z_s = 1 | z_t, z_0), eq. (3), for any s < t.

        Where z_0 is known in probability only, as from a denoiser, (3) is averaged over its two values (Austin et al.,
        arXiv 2107.03006, eq. 4). The paper puts the probability into (3) itself, which is not a posterior of anything;
        for bits the two are the same.

        Args:
            sample: z_t, bits.
            clean: z_0, bits or the probability of a one; the same shape.
            timestep: t.
            previous: s.

        Returns:
            probabilities of the same shape; at s = 0 exactly ``clean``.
        """
        alpha_bar_s = float(self.alpha_bar[previous])
        alpha_ts = float(self.alpha_bar[timestep]) / alpha_bar_s
        to_one, to_zero = (alpha_ts * z + (1 - alpha_ts) / 2 for z in (sample, 1 - sample))
        kept, flipped = (1 + alpha_bar_s) / 2, (1 - alpha_bar_s) / 2
        if_one = to_one * kept / (to_one * kept + to_zero * flipped)
        if_zero = to_one * flipped / (to_one * flipped + to_zero * kept)
        return clean * if_one + (1 - clean) * if_zero

    def step(
        self,
        clean: torch.Tensor,
        timestep: int,
        sample: torch.Tensor,
        noise: torch.Tensor,
    ) -> torch.Tensor:
        """One reverse step of the list set by `set_timesteps`: z_s ~ q(z_s | z_t, ẑ_0).

        Args:
            clean: ẑ_0, the estimate of the code without noise, in [0, 1].
            timestep: t, a member of the list.
            sample: z_t, bits.
            noise: uniform in [0, 1), the same shape.

        Returns:
            bits z_s.
        """
        probability = self.posterior(sample, clean, int(timestep), self.previous(int(timestep)))
        return (noise < probability).to(sample.dtype)
