"""The protocol: every method on the same test patients, thresholds from healthy slices of other patients.

- pooled over all head voxels of all test scans, healthy slices included, and again inside the head;
- the best Dice is an upper bound, named so; the Dice that counts is at a threshold that healthy slices set;
- the false-positive rate that those thresholds reach is measured on tumour-free slices of the test patients;
- intervals are 95 %, by drawing patients.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from monai.inferers import Inferer
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from .metrics import Pooled, bootstrap_interval
from .scores import Prepared, prepare, score_case

__all__ = ["RATES", "SIZES", "MethodScores", "evaluate", "healthy_scores", "run_methods"]

logger = logging.getLogger(__name__)

#: False-positive rates that thresholds are set to, on healthy head voxels.
RATES = (0.01, 0.001)
#: The scan's own values as a map: plain thresholding, without any network or resampling.
RAW = "raw intensity"
#: Thirds of the patients, by the volume of their lesion.
SIZES = ("small", "medium", "large")


@dataclass
class MethodScores:
    """What is kept of a method over the test patients, one entry a patient, head voxels flat.

    Attributes:
        scores, lesions, inner: head voxels.
        healthy: scores of head voxels in tumour-free slices.
        slices: (slice score, whether it has lesion), one pair a slice with head.
        seconds: a scan.
        lesion_ml: volume of the lesion.
    """

    scores: list = field(default_factory=list)
    lesions: list = field(default_factory=list)
    inner: list = field(default_factory=list)
    healthy: list = field(default_factory=list)
    slices: list = field(default_factory=list)
    seconds: list = field(default_factory=list)
    lesion_ml: list = field(default_factory=list)

    def add(self, case: Prepared, scores: np.ndarray, seconds: float) -> None:
        self.scores.append(scores[case.head].astype(np.float32))
        self.lesions.append(case.lesion[case.head])
        self.inner.append(case.inner[case.head])
        in_slice = case.head & case.healthy[None, None]
        self.healthy.append(scores[in_slice].astype(np.float32))
        for z in np.flatnonzero(case.head.sum((0, 1)) > 100):
            self.slices.append((np.percentile(scores[..., z][case.head[..., z]], 99), not case.healthy[z]))
        self.seconds.append(seconds)
        self.lesion_ml.append(float(case.lesion.sum()) * case.voxel_ml)


def run_methods(
    cases: Sequence[dict],
    methods: Mapping[str, Inferer],
    network: torch.nn.Module,
    preprocessing: Callable,
    device: torch.device,
) -> dict[str, MethodScores]:
    """Every method, and the raw intensity, on every case."""
    kept = {name: MethodScores() for name in (RAW, *methods)}
    for one in tqdm(cases, desc="cases", disable=None):
        case = prepare(one, preprocessing)
        kept[RAW].add(case, case.intensity, 0.0)
        for name, method in methods.items():
            result = score_case(case, method, network, preprocessing, device)
            kept[name].add(case, result.scores, result.seconds)
        logger.info("%s scored by %d methods", case.name, len(methods))
    return kept


def healthy_scores(kept: MethodScores) -> np.ndarray:
    """Scores of all head voxels in tumour-free slices."""
    return np.concatenate(kept.healthy)


def evaluate(kept: MethodScores, thresholds: Mapping[float, float]) -> dict[str, object]:
    """A row of the table.

    Args:
        kept: of one method over the test patients.
        thresholds: false-positive rate → score, from healthy slices of other patients.

    Returns:
        figures by name; intervals as pairs.
    """
    whole = Pooled.of(kept.scores, kept.lesions)
    inner = Pooled.of(
        *([a[m] for a, m in zip(arrays, kept.inner, strict=True)] for arrays in (kept.scores, kept.lesions))
    )
    row: dict[str, object] = {}
    for place, pooled in (("head", whole), ("inner", inner)):
        figures, intervals = pooled.figures(), bootstrap_interval(pooled)
        for key, value in figures.items():
            row[f"{key}_{place}"], row[f"{key}_{place}_interval"] = value, intervals[key]
    for rate, threshold in thresholds.items():
        dice = np.array([_dice(s >= threshold, m) for s, m in zip(kept.scores, kept.lesions, strict=True)])
        pooled_dice = _dice(np.concatenate(kept.scores) >= threshold, np.concatenate(kept.lesions))
        row[f"dice_at_{rate:g}"] = pooled_dice
        row[f"volume_dice_at_{rate:g}_mean"], row[f"volume_dice_at_{rate:g}_sd"] = dice.mean(), dice.std()
        row[f"reached_rate_{rate:g}"] = float((healthy_scores(kept) >= threshold).mean())
        for size, group in zip(SIZES, np.array_split(np.argsort(kept.lesion_ml), len(SIZES)), strict=True):
            row[f"volume_dice_at_{rate:g}_{size}"] = dice[group].mean() if len(group) else float("nan")
    scores, ill = zip(*kept.slices, strict=True)
    row["slice_auroc"] = roc_auc_score(ill, scores) if 0 < sum(ill) < len(ill) else float("nan")
    row["seconds"] = float(np.mean(kept.seconds))
    return row


def _dice(found: np.ndarray, lesion: np.ndarray) -> float:
    total = int(found.sum()) + int(lesion.sum())
    return 2 * int((found & lesion).sum()) / total if total else 1.0
