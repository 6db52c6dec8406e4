# SPDX-License-Identifier: Apache-2.0
"""Slices of several data sets in chosen shares, so that few scans of one place count beside many of another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from ..synthesis.seeded_dataset import SeededDataset

__all__ = ["MixedSlices"]


class SizedDataset(Protocol):
    """Items by number, and how many there are."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict: ...


class MixedSlices(SeededDataset):
    """Random slices of random data sets; donors for synthetic anomalies come from any of them.

    An item is what `bundle.training.slices.SliceDataset` gives.

    Args:
        datasets: of such items, without transforms of their own.
        shares: how often each is taken, in any unit.
        length: items an epoch.
        transform: random transforms of an item.
    """

    def __init__(
        self, datasets: Sequence[SizedDataset], shares: Sequence[float], length: int, transform: Callable | None = None
    ) -> None:
        if len(datasets) != len(shares):
            raise ValueError(f"{len(datasets)} data sets and {len(shares)} shares")
        self.datasets, self.length, self.transform = list(datasets), length, transform
        self.shares = np.asarray(shares, dtype=float) / np.sum(shares)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < self.length:
            raise IndexError(index)
        item, other = self._draw(), self._draw()
        item["donor"] = other["image"]
        return self.transform(item) if self.transform is not None else item

    def _draw(self) -> dict:
        dataset = self.datasets[self.R.choice(len(self.datasets), p=self.shares)]
        return dataset[int(self.R.randint(len(dataset)))]
