# SPDX-License-Identifier: Apache-2.0
"""Anomaly scores from images: how an image differs from what it would be if it were healthy."""

from __future__ import annotations

from collections.abc import Callable

import torch

__all__ = ["DIFFERENCES", "difference"]


def squared(observed: torch.Tensor, healthy: torch.Tensor) -> torch.Tensor:
    """Σ_c (x_c − x̂_c)², the anomaly map of arXiv 2403.11667."""
    return (observed - healthy).square().sum(1, keepdim=True)


def absolute(observed: torch.Tensor, healthy: torch.Tensor) -> torch.Tensor:
    """Mean over channels of |x_c − x̂_c|: brighter and darker than healthy alike."""
    return (observed - healthy).abs().mean(1, keepdim=True)


def brighter(observed: torch.Tensor, healthy: torch.Tensor) -> torch.Tensor:
    """Mean over channels of the positive part of x_c − x̂_c: brighter than healthy only."""
    return (observed - healthy).clamp(min=0).mean(1, keepdim=True)


def darker(observed: torch.Tensor, healthy: torch.Tensor) -> torch.Tensor:
    """Mean over channels of the positive part of x̂_c − x_c: darker than healthy only."""
    return (healthy - observed).clamp(min=0).mean(1, keepdim=True)


DIFFERENCES: dict[str, Callable] = {"squared": squared, "absolute": absolute, "brighter": brighter, "darker": darker}


def difference(name: str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The difference of that name: (observed, healthy), each (N, C, H, W) → (N, 1, H, W).

    Raises:
        ValueError: on an unknown name.
    """
    if name not in DIFFERENCES:
        raise ValueError(f"difference {name!r} is not one of {', '.join(DIFFERENCES)}")
    return DIFFERENCES[name]
