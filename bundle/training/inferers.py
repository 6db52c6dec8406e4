"""What a training step computes, as MONAI inferers, so that SupervisedTrainer drives it."""

from __future__ import annotations

import torch
from monai.inferers import Inferer

from ..precision import autocast

__all__ = ["AutocastInferer", "prepare_reconstruction"]


class AutocastInferer(Inferer):
    """``network(inputs)`` under autocast, on CPU and GPU alike.

    Args:
        precision: see `bundle.precision.autocast`.
    """

    def __init__(self, precision: str = "auto") -> None:
        self.precision = precision

    def __call__(self, inputs: torch.Tensor, network: torch.nn.Module, *args, **kwargs) -> torch.Tensor:
        with autocast(inputs.device, self.precision):
            return network(inputs, *args, **kwargs).float()


def prepare_reconstruction(batch: dict, device: torch.device, non_blocking: bool = False, **_) -> tuple:
    """MONAI ``prepare_batch`` of an autoencoder: the image is its own target."""
    image = batch["image"].as_tensor() if hasattr(batch["image"], "as_tensor") else batch["image"]
    image = image.to(device, non_blocking=non_blocking)
    return image, image
