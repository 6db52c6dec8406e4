# SPDX-License-Identifier: Apache-2.0
"""What methods ask of a network, whichever it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

from torch import nn

__all__ = ["SliceNetwork"]


@runtime_checkable
class SliceNetwork(Protocol):
    """A network of axial slices (N, C, H, W)."""

    @property
    def multiple(self) -> int:
        """H and W are multiples of this."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """As of `torch.nn.Module`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Its own answer."""
