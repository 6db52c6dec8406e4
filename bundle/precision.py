# SPDX-License-Identifier: Apache-2.0
"""Where and in what precision a network runs: CUDA when there, else the CPU; bfloat16 where the hardware has it."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager

import torch

__all__ = ["PRECISIONS", "autocast", "best_device", "device_of_rank", "supports_bfloat16"]

PRECISIONS = ("auto", "bfloat16", "float32")


def best_device(name: str = "auto") -> torch.device:
    """``cuda`` when a CUDA device is there, else ``cpu``; any name other than ``auto`` is taken as it is."""
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_of_rank() -> torch.device:
    """The device of a process that torchrun has started: the CUDA device of its local rank, or the CPU where there is
    none.
    """
    return torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")


def supports_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is native on ``device``; on a CPU without it, emulation is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def autocast(device: torch.device, precision: str = "auto") -> AbstractContextManager:
    """Autocast to bfloat16 on ``device`` as ``precision`` asks.

    MONAI's engines autocast on CUDA only, so the inferers do it themselves, alike on every device.

    Args:
        device: where the tensors are.
        precision: ``auto`` (bfloat16 where it is native), ``bfloat16`` or ``float32``.

    Raises:
        ValueError: on any other ``precision``.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    wanted = precision == "bfloat16" or (precision == "auto" and supports_bfloat16(device))
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=wanted)
