# SPDX-License-Identifier: Apache-2.0
"""Slices of several contrasts, to learn which is which."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from .mixed import SizedDataset
from .seeded import SeededDataset

__all__ = ["ContrastSlices", "contrast_answers"]


class ContrastSlices(SeededDataset):
    """Random slices of random contrasts, every contrast as often; ``label`` is the number of the contrast.

    Args:
        sources: contrast → data sets of its slices (`bundle.training.slices.SliceDataset`), each as often.
        length: items an epoch.
        transform: random transforms of an item.
        seed: makes every item draw its own reproducible randomness (for validation); None draws anew each time.
    """

    def __init__(
        self,
        sources: Mapping[str, Sequence[SizedDataset]],
        length: int,
        transform: Callable | None = None,
        seed: int | None = None,
    ) -> None:
        self.sources, self.length, self.transform, self.seed = list(sources.values()), length, transform, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < self.length:
            raise IndexError(index)
        self.seed_item(index)
        label = int(self.R.randint(len(self.sources)))
        dataset = self.sources[label][int(self.R.randint(len(self.sources[label])))]
        item = {**dataset[int(self.R.randint(len(dataset)))], "label": label}
        return self.transform(item) if self.transform is not None else item


def contrast_answers(output: Sequence[Mapping[str, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """What MONAI's engine gives, as ignite's metrics of classes take it: logits (N, classes) and labels (N,)."""
    logits = torch.stack([torch.as_tensor(one["pred"]) for one in output])
    return logits, torch.tensor([int(one["label"]) for one in output])
