# SPDX-License-Identifier: Apache-2.0
"""The protocol: every method on the same test patients, thresholds from healthy slices of other patients.

- pooled over all test scans, healthy slices included: over all head voxels with the map as the method makes it; over
  the same voxels with the map as it is saved, zero outside the brain mask; and over the voxels of the brain mask alone;
- the best Dice is an upper bound, named so; the Dice that counts is at a threshold that healthy slices set;
- the false-positive rate that those thresholds reach is measured on tumour-free slices of the test patients, slices
  next to a tumour left aside;
- intervals are 95 %, by drawing patients.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from monai.inferers import Inferer
from scipy import ndimage
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from .metrics import Pooled, bootstrap_interval
from .scores import Prepared, prepare, score_case

__all__ = ["RATES", "RAW", "RAW_SMOOTHED", "SIZES", "MethodScores", "dice", "evaluate", "healthy_scores", "run_methods"]

logger = logging.getLogger(__name__)

#: False-positive rates that thresholds are set to, on the voxels of healthy brain.
RATES = (0.01, 0.001)
#: The scan's own values as a map: plain thresholding, without any network or resampling.
RAW = "raw intensity"
#: The same, smoothed as far as the smoothed intensity on the model's grid.
RAW_SMOOTHED = "raw intensity, smoothed"
SMOOTHED_MM, SMOOTHED_ACROSS = 3.75, 0.7  # sigma in plane, and across slices in slices
#: Thirds of the patients, by the volume of their lesion.
SIZES = ("small", "medium", "large")


@dataclass
class MethodScores:
    """What is kept of a method over the test patients, one entry a patient, head voxels flat.

    Attributes:
        scores, lesions, brain: head voxels.
        healthy: scores of brain voxels in tumour-free slices (`bundle.transforms.head.free_slices`).
        depths: of the same voxels below the brain's surface, mm.
        slices: (slice score, whether it has lesion), one pair a slice with brain.
        seconds: a scan.
        lesion_ml: volume of the lesion.
        names: of the cases.
    """

    scores: list = field(default_factory=list)
    lesions: list = field(default_factory=list)
    brain: list = field(default_factory=list)
    healthy: list = field(default_factory=list)
    depths: list = field(default_factory=list)
    slices: list = field(default_factory=list)
    seconds: list = field(default_factory=list)
    lesion_ml: list = field(default_factory=list)
    names: list = field(default_factory=list)

    def add(self, case: Prepared, scores: np.ndarray, seconds: float) -> None:
        self.scores.append(scores[case.head].astype(np.float32))
        self.lesions.append(case.lesion[case.head])
        self.brain.append(case.brain[case.head])
        healthy = case.brain & case.healthy[None, None]
        self.healthy.append(scores[healthy].astype(np.float32))
        self.depths.append(case.depth[healthy])
        for z in np.flatnonzero(case.brain.sum((0, 1)) > 100):
            self.slices.append((np.percentile(scores[..., z][case.brain[..., z]], 99), bool(case.lesion[..., z].any())))
        self.seconds.append(seconds)
        self.lesion_ml.append(float(case.lesion.sum()) * case.voxel_ml)
        self.names.append(case.name)

    def masked(self) -> list[np.ndarray]:
        """Scores of the map as it is saved: zero outside the brain."""
        return [np.where(brain, scores, 0) for scores, brain in zip(self.scores, self.brain, strict=True)]


def run_methods(
    cases: Sequence[dict],
    methods: Mapping[str, Inferer],
    network: torch.nn.Module,
    preprocessing: Callable,
    device: torch.device,
    others: Mapping[str, torch.nn.Module] | None = None,
) -> dict[str, MethodScores]:
    """Every method, and the raw intensity, on every case; ``others``: methods that ask a network of their own."""
    others = others or {}
    kept = {name: MethodScores() for name in (RAW, RAW_SMOOTHED, *methods)}
    for one in tqdm(cases, desc="cases", disable=None):
        case = prepare(one, preprocessing)
        kept[RAW].add(case, case.intensity, 0.0)
        sigma = [SMOOTHED_MM / case.spacing[0], SMOOTHED_MM / case.spacing[1], SMOOTHED_ACROSS]
        kept[RAW_SMOOTHED].add(case, ndimage.gaussian_filter(case.intensity, sigma), 0.0)
        for name, method in methods.items():
            result = score_case(case, method, others.get(name, network), preprocessing, device)
            kept[name].add(case, result.scores, result.seconds)
        logger.info("%s scored by %d methods", case.name, len(methods))
    return kept


def healthy_scores(kept: MethodScores) -> np.ndarray:
    """Scores of all brain voxels in tumour-free slices."""
    return np.concatenate(kept.healthy)


def evaluate(kept: MethodScores, thresholds: Mapping[float, float]) -> dict[str, object]:
    """A row of the table.

    Args:
        kept: of one method over the test patients.
        thresholds: false-positive rate → score, from healthy slices of other patients.

    Returns:
        figures by name; intervals as pairs.
    """
    masked = kept.masked()
    brain = ([a[b] for a, b in zip(arrays, kept.brain, strict=True)] for arrays in (kept.scores, kept.lesions))
    places = {
        "head": Pooled.of(kept.scores, kept.lesions),
        "masked": Pooled.of(masked, kept.lesions),
        "brain": Pooled.of(*brain),
    }
    row: dict[str, object] = {}
    for place, pooled in places.items():
        figures, intervals = pooled.figures(), bootstrap_interval(pooled)
        for key, value in figures.items():
            row[f"{key}_{place}"], row[f"{key}_{place}_interval"] = value, intervals[key]
    for rate, threshold in thresholds.items():
        each = np.array([dice(s >= threshold, m) for s, m in zip(masked, kept.lesions, strict=True)])
        pooled_dice = dice(np.concatenate(masked) >= threshold, np.concatenate(kept.lesions))
        row[f"dice_at_{rate:g}"] = pooled_dice
        row[f"volume_dice_at_{rate:g}_mean"], row[f"volume_dice_at_{rate:g}_sd"] = each.mean(), each.std()
        row[f"reached_rate_{rate:g}"] = float((healthy_scores(kept) >= threshold).mean())
        for size, group in zip(SIZES, np.array_split(np.argsort(kept.lesion_ml), len(SIZES)), strict=True):
            row[f"volume_dice_at_{rate:g}_{size}"] = each[group].mean() if len(group) else float("nan")
    scores, diseased = zip(*kept.slices, strict=True)
    row["slice_auroc"] = roc_auc_score(diseased, scores) if 0 < sum(diseased) < len(diseased) else float("nan")
    row["seconds"] = float(np.mean(kept.seconds))
    return row


def dice(found: np.ndarray, lesion: np.ndarray) -> float:
    """Dice coefficient of two masks; 1 when both are empty."""
    total = int(found.sum()) + int(lesion.sum())
    return 2 * int((found & lesion).sum()) / total if total else 1.0
