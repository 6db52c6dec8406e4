# SPDX-License-Identifier: Apache-2.0
"""What a training or validation step computes, as MONAI inferers, so that MONAI's engines drive it."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from monai.inferers import DiffusionInferer, Inferer
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import Scheduler
from torch import nn

from ..diffusion.bernoulli import BernoulliScheduler
from ..methods.base import SliceMethod
from ..methods.disyre import SEVERITIES
from ..networks.anomaly_network import STRUCTURED, AnomalyNetwork
from ..networks.binary_autoencoder import BinaryAutoencoder
from ..precision import autocast

__all__ = [
    "AutocastInferer",
    "FlipLoss",
    "FlipTraining",
    "GaussianTraining",
    "LesionLoss",
    "LesionTraining",
    "RestorationTraining",
    "SliceScore",
    "prepare_lesions",
    "prepare_reconstruction",
    "prepare_restoration",
    "prepare_twins",
    "prepare_with_region",
]


class AutocastInferer(Inferer):
    """``network(inputs)`` under autocast, on CPU and GPU alike.

    Args:
        precision: see `bundle.precision.autocast`.
    """

    def __init__(self, precision: str = "auto") -> None:
        self.precision = precision

    def __call__(self, inputs: torch.Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        with autocast(inputs.device, self.precision):
            return network(inputs, *args, **kwargs).float()


class FlipTraining(Inferer):
    """One training step of the denoiser, both kinds of flips in one batch.

    Structured flips, timestep 0: the code of the anomalous twin goes in, its flips against the code of the healthy
    slice are to be found. Random flips, timestep t uniform in 1 … T: the healthy code with noise goes in, the noise is
    to be found (arXiv 2403.11667, section 2.2).

    Args:
        autoencoder: trained and frozen.
        scheduler: of the random flips.
        random_share: part of a batch that gets random flips.
        precision: see `bundle.precision.autocast`.
    """

    def __init__(
        self,
        autoencoder: BinaryAutoencoder,
        scheduler: BernoulliScheduler,
        random_share: float = 0.25,
        precision: str = "auto",
    ) -> None:
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.scheduler, self.random_share, self.precision = scheduler, random_share, precision

    def __call__(
        self, inputs: torch.Tensor, network: nn.Module, healthy: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Args:
            inputs: anomalous twins (B, C, H, W).
            network: the denoiser.
            healthy: the healthy slices, same shape.

        Returns:
            logits and flips, each (B, code_channels, h, w), and the timesteps (B,).
        """
        with autocast(inputs.device, self.precision):
            with torch.no_grad():
                code, clean = self.autoencoder.encode(torch.cat([inputs, healthy])).chunk(2)
            timesteps = torch.full((len(code),), STRUCTURED, device=code.device)
            count = round(self.random_share * len(code))
            timesteps[:count] = torch.randint(1, self.scheduler.num_train_timesteps + 1, (count,), device=code.device)
            code[:count] = self.scheduler.add_noise(clean[:count], torch.rand_like(clean[:count]), timesteps[:count])
            logits = network(code, timesteps)
        return logits.float(), (code - clean).abs(), timesteps


class GaussianTraining(DiffusionInferer):
    """One training step of the Gaussian prior of MDPS under autocast: MONAI's DiffusionInferer on images in [−1, 1].

    Args:
        scheduler: MONAI's DDPMScheduler.
        precision: see `bundle.precision.autocast`.
    """

    def __init__(self, scheduler: Scheduler, precision: str = "auto") -> None:
        super().__init__(scheduler)
        self.precision = precision

    def __call__(self, inputs: torch.Tensor, network: nn.Module, **kwargs: Any) -> torch.Tensor:
        with autocast(inputs.device, self.precision):
            return super().__call__(2 * inputs - 1, cast(DiffusionModelUNet, network), **kwargs).float()


class FlipLoss(nn.Module):
    """Binary cross-entropy of the flips; takes what `FlipTraining` returns.

    Args:
        balance: power to which the share of flipped bits of a slice, plus 0.01, divides its weight among the slices
            with structured flips: 0 counts every bit alike, so that slices with large anomalies rule; at 0.5 one with
            0.5 % of its bits flipped counts 2.7 times as much as one with 10 %. Slices with random flips, half of whose
            bits may be flipped, always count once: weighed alike, they would hardly count at all.
    """

    def __init__(self, balance: float = 0.0) -> None:
        super().__init__()
        self.balance = balance

    def forward(
        self, prediction: tuple[torch.Tensor, torch.Tensor, torch.Tensor], target: torch.Tensor | None
    ) -> torch.Tensor:
        logits, flips, timesteps = prediction
        each = F.binary_cross_entropy_with_logits(logits, flips, reduction="none").flatten(1).mean(1)
        weights = torch.ones_like(each)
        structured = timesteps == STRUCTURED
        if structured.any():
            uneven = (flips[structured].flatten(1).mean(1) + 0.01) ** -self.balance
            weights[structured] = uneven / uneven.mean()
        return (each * weights).mean()


class RestorationTraining(Inferer):
    """One training step of DISYRE: the anomalous twin and its severity go in, the healthy slice is to come out.

    A part of a batch is told a random severity instead of its own, so that every severity may be asked of a slice whose
    anomalies, if any, nobody knows.

    Args:
        random_share: that part.
        precision: see `bundle.precision.autocast`.
    """

    def __init__(self, random_share: float = 0.3, precision: str = "auto") -> None:
        self.random_share, self.precision = random_share, precision

    def __call__(
        self, inputs: torch.Tensor, network: nn.Module, severity: torch.Tensor, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """
        Args:
            inputs: anomalous twins (B, C, H, W).
            network: P(x, t).
            severity: of each twin (B,), in [0, 1].

        Returns:
            restored slices, the shape of ``inputs``.
        """
        steps = (severity * SEVERITIES).round().clamp(min=1).long()
        count = round(self.random_share * len(steps))
        steps[:count] = torch.randint(1, SEVERITIES + 1, (count,), device=steps.device)
        with autocast(inputs.device, self.precision):
            return network(inputs, steps).float()


class LesionTraining(Inferer):
    """One training step of the UNet of synthetic lesions: the twin and its brain go in, what has changed is to come
    out.

    Args:
        precision: see `bundle.precision.autocast`.
    """

    def __init__(self, precision: str = "auto") -> None:
        self.precision = precision

    def __call__(
        self, inputs: torch.Tensor, network: nn.Module, brain: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            inputs: twins (B, C, H, W).
            network: a `LesionUNet`.
            brain: masks (B, 1, H, W).

        Returns:
            logits (B, 2, H, W), and the masks.
        """
        with autocast(inputs.device, self.precision):
            return network(inputs, brain).float(), brain


class LesionLoss(nn.Module):
    """Binary cross-entropy within the brain, slices with little lesion counting more, and Dice over the batch.

    Args:
        balance: as of `FlipLoss`.
        dice: weight of the Dice loss.
    """

    LEAST_VOXELS = 200

    def __init__(self, balance: float = 0.5, dice: float = 0.3) -> None:
        super().__init__()
        self.balance, self.dice = balance, dice

    def forward(self, prediction: tuple[torch.Tensor, torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        logits, brain = prediction
        voxels = brain.sum((1, 2, 3)).clamp(min=self.LEAST_VOXELS)
        wrong = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * brain
        uneven = ((target * brain).sum((1, 2, 3)) / voxels + 0.01) ** -self.balance
        entropy = (wrong.sum((1, 2, 3)) / voxels * uneven / uneven.mean()).mean()
        found = torch.sigmoid(logits) * brain
        both, either = (found * target).sum((0, 2, 3)), (found + target * brain).sum((0, 2, 3))
        return entropy + self.dice * (1 - (2 * both + 1) / (either + 1)).mean()


class SliceScore(Inferer):
    """Lets a method of `bundle.methods` score a batch of slices (N, C, H, W); air scores 0.

    Args:
        method: to ask.
        masked: the last channel is the mask of the organ (`prepare_with_region`), outside of which the score is 0.
    """

    def __init__(self, method: SliceMethod, masked: bool = False) -> None:
        self.method, self.masked = method, masked

    def __call__(self, inputs: torch.Tensor, network: AnomalyNetwork, *args: Any, **kwargs: Any) -> torch.Tensor:
        with autocast(inputs.device, self.method.precision):
            scores = self.method.score(inputs, torch.arange(len(inputs)), network).float()
        return scores * ((inputs[:, -1:] if self.masked else inputs.amax(1, keepdim=True)) > 0)


def prepare_lesions(
    batch: dict, device: torch.device, non_blocking: bool = False, region: str = "brain", **_: Any
) -> tuple:
    """MONAI ``prepare_batch`` of synthetic lesions: the twin, what has changed, and the organ for `LesionTraining`."""
    twin, target, organ = (batch[key].to(device, non_blocking=non_blocking) for key in ("anomalous", "target", region))
    return twin, target, (organ,), {}


def prepare_with_region(
    batch: dict, device: torch.device, non_blocking: bool = False, region: str = "brain", **_: Any
) -> tuple:
    """The twin with its organ as a further channel, and the mask of the anomalies: for the validation of the same."""
    twin, mask, organ = (batch[key].to(device, non_blocking=non_blocking) for key in ("anomalous", "mask", region))
    return torch.cat([twin, organ], dim=1), mask


def prepare_reconstruction(batch: dict, device: torch.device, non_blocking: bool = False, **_: Any) -> tuple:
    """MONAI ``prepare_batch`` of an autoencoder: the image is its own target."""
    image = batch["image"].to(device, non_blocking=non_blocking)
    return image, image


def prepare_restoration(batch: dict, device: torch.device, non_blocking: bool = False, **_: Any) -> tuple:
    """MONAI ``prepare_batch`` of DISYRE: the twin, the healthy slice as target, and the severity."""
    twin, healthy, severity = (
        batch[key].to(device, non_blocking=non_blocking) for key in ("anomalous", "image", "severity")
    )
    return twin, healthy, (severity.float(),), {}


def prepare_twins(batch: dict, device: torch.device, non_blocking: bool = False, **_: Any) -> tuple:
    """MONAI ``prepare_batch`` of anomalous twins: the twin, the mask, and the healthy slice for `FlipTraining`."""
    twin, mask, healthy = (batch[key].to(device, non_blocking=non_blocking) for key in ("anomalous", "mask", "image"))
    return twin, mask, (healthy,), {}
