# SPDX-License-Identifier: Apache-2.0
"""Figures of merit over voxels, from counts a patient, so that patients can be drawn again (bootstrap)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ignite.metrics import Metric
from sklearn.metrics import average_precision_score

__all__ = ["Pooled", "VoxelAveragePrecision", "average_precision", "best_dice", "bin_edges", "bootstrap_interval"]

BINS = 4096


def bin_edges(scores: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Edges that hold equal shares of the scores, and ever smaller ones towards the top, where thresholds lie."""
    tail = np.concatenate([np.linspace(1, 0.02, bins // 2), np.geomspace(0.02, 1e-6, bins // 2)])
    return np.unique(np.quantile(scores, 1 - tail))


@dataclass
class Pooled:
    """Histograms a patient, over rising score bins.

    Attributes:
        lesion: (patients, bins) voxels of lesions.
        healthy: (patients, bins) all others.
    """

    lesion: np.ndarray
    healthy: np.ndarray

    @classmethod
    def of(cls, scores: Sequence[np.ndarray], lesions: Sequence[np.ndarray]) -> Pooled:
        """Count. ``scores`` and ``lesions``: one flat array a patient."""
        edges = bin_edges(np.concatenate(list(scores)))
        counts = [
            [
                np.bincount(np.searchsorted(edges, s[m], side="right"), minlength=len(edges) + 1)
                for m in (lesion, ~lesion)
            ]
            for s, lesion in zip(scores, lesions, strict=True)
        ]
        return cls(np.array([c[0] for c in counts]), np.array([c[1] for c in counts]))

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Recall and precision of the pooled voxels at every threshold, recall rising."""
        positive, negative = (np.cumsum(counts.sum(0)[::-1]) for counts in (self.lesion, self.healthy))
        return positive / max(positive[-1], 1), positive / np.maximum(positive + negative, 1)

    def figures(self, weights: np.ndarray | None = None) -> dict[str, float]:
        """AUPRC and best Dice of the pooled voxels; ``weights``: how often each patient counts."""
        weights = np.ones(len(self.lesion)) if weights is None else weights
        lesion, healthy = weights @ self.lesion, weights @ self.healthy
        return {"auprc": average_precision(lesion, healthy), "best_dice": best_dice(lesion, healthy)}


def average_precision(lesion: np.ndarray, healthy: np.ndarray) -> float:
    """Average precision Σ (R_n − R_{n−1}) P_n from counts over rising score bins (a bin is one threshold)."""
    positive, negative = lesion[::-1].cumsum(), healthy[::-1].cumsum()
    precision = positive / np.maximum(positive + negative, 1)
    return float((lesion[::-1] * precision).sum() / max(positive[-1], 1))


def best_dice(lesion: np.ndarray, healthy: np.ndarray) -> float:
    """The best Dice that any one threshold reaches: an upper bound, since it is chosen on the labels."""
    positive, negative = lesion[::-1].cumsum(), healthy[::-1].cumsum()
    return float((2 * positive / np.maximum(positive[-1] + positive + negative, 1)).max())


def bootstrap_interval(pooled: Pooled, draws: int = 1000, seed: int = 0) -> dict[str, tuple[float, float]]:
    """95 % intervals of `Pooled.figures` when patients are drawn with replacement."""
    rng, count = np.random.RandomState(seed), len(pooled.lesion)
    figures = [pooled.figures(np.bincount(rng.randint(count, size=count), minlength=count)) for _ in range(draws)]
    return {key: tuple(np.percentile([f[key] for f in figures], [2.5, 97.5])) for key in figures[0]}


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
