"""Figures of merit over voxels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ignite.metrics import Metric
from sklearn.metrics import average_precision_score

__all__ = ["VoxelAveragePrecision"]


class VoxelAveragePrecision(Metric):
    """Area under the precision-recall curve (as average precision) pooled over the voxels of all items.

    Takes pairs of lists: scores and masks, each item (1, *spatial).
    """

    def reset(self) -> None:
        self.scores: list[np.ndarray] = []
        self.masks: list[np.ndarray] = []

    def update(self, output: tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]) -> None:
        for store, items in zip((self.scores, self.masks), output, strict=True):
            store.extend(torch.as_tensor(item).detach().cpu().numpy().ravel() for item in items)

    def compute(self) -> float:
        masks = np.concatenate(self.masks) > 0.5
        return float(average_precision_score(masks, np.concatenate(self.scores))) if masks.any() else float("nan")
