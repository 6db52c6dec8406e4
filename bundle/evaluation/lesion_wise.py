# SPDX-License-Identifier: Apache-2.0
"""Figures of whole lesions and whole findings: F1 by two rules of the field, FROC, findings a scan.

- ISLES'22 (Hernandez Petzsche et al. 2022, its `eval_utils.py`): lesions and findings are components of 26 neighbours,
  one common voxel is a hit; F1 = TP / (TP + (FP + FN) / 2) a scan, 1 where there is nothing to find and nothing found.
- MSSEG'16 (Commowick et al. 2018, Anima's `animaSegPerfApp`): components of 6 neighbours of at least 3 mm³. A lesion
  is detected if findings cover at least 10 % of it and those that make up 65 % of what is covered lie at most 70 %
  outside all lesions; a finding is right by the same rule the other way about. F1 of both shares.
- FROC (MONAI's `metrics.froc`): lesions hit at so many false findings a scan, findings by their odds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from monai.metrics import compute_froc_curve_data, compute_froc_score
from scipy import ndimage

from .lesion_figures import SIZES_ML

__all__ = ["FALSE_FINDINGS", "LesionWise", "ScanFigures", "anima_f1", "isles_f1", "scan_figures"]

#: False findings a scan at which FROC is read.
FALSE_FINDINGS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
#: Odds that are promised, and held against what healthy people have.
PROMISED = (1.0, 0.1, 0.01)
CORNERS, FACES = np.ones((3, 3, 3), bool), ndimage.generate_binary_structure(3, 1)
LEAST_MM3, COVERED, EXPLAINED, OUTSIDE = 3.0, 0.10, 0.65, 0.70  # of Anima's rule


def isles_f1(found: np.ndarray, lesion: np.ndarray) -> float:
    """F1 of components by the rule of ISLES'22.

    Args:
        found, lesion: bool (X, Y, Z).
    """
    lesions, count = ndimage.label(lesion, CORNERS)
    findings, number = ndimage.label(found, CORNERS)
    both = lesion & found
    hits, right = len(np.unique(lesions[both])), len(np.unique(findings[both]))
    missed, wrong = count - hits, number - right
    return 1.0 if not count and not number else hits / (hits + (wrong + missed) / 2)


def anima_f1(found: np.ndarray, lesion: np.ndarray, voxel_mm3: float) -> float:
    """F1 of components by the rule of MSSEG'16.

    Args:
        found, lesion: bool (X, Y, Z).
        voxel_mm3: volume of a voxel.
    """
    lesions, count = _parts(lesion, voxel_mm3)
    findings, number = _parts(found, voxel_mm3)
    if not count and not number:
        return 1.0
    if not count or not number:
        return 0.0
    pairs = np.zeros((count + 1, number + 1))
    np.add.at(pairs, (lesions.ravel(), findings.ravel()), 1)
    sensitivity, precision = _detected(pairs).mean(), _detected(pairs.T).mean()
    return float(2 * sensitivity * precision / max(sensitivity + precision, 1e-9))


def _parts(mask: np.ndarray, voxel_mm3: float) -> tuple[np.ndarray, int]:
    """Components of 6 neighbours that are large enough, numbered from 1."""
    parts, _ = ndimage.label(mask, FACES)
    large = np.bincount(parts.ravel()) * voxel_mm3 >= LEAST_MM3
    large[0] = False
    return (np.cumsum(large) * large)[parts], int(large.sum())


def _detected(pairs: np.ndarray) -> np.ndarray:
    """Which of the parts 1 … n of the rows are detected; pairs[i, j] voxels are in i and j, 0 is what is in none."""
    sizes, others = pairs.sum(1), pairs.sum(0)
    answers = []
    for row, size in zip(pairs[1:], sizes[1:], strict=True):
        order = 1 + np.argsort(-row[1:], kind="stable")
        covered = row[order].sum()
        needed = order[: 1 + int(np.searchsorted(np.cumsum(row[order]), EXPLAINED * covered))]
        outside = pairs[0, needed] / others[needed]
        answers.append(covered >= COVERED * size and covered > 0 and bool((outside <= OUTSIDE).all()))
    return np.array(answers)


@dataclass(frozen=True)
class ScanFigures:
    """What one scan says.

    Attributes:
        lesions_ml: volume of each lesion.
        hit, hit_by_any: whether a kept finding, and whether any finding, has a voxel of it.
        odds: of every finding, expected number in a healthy scan.
        true: whether each finding has a voxel of a lesion.
        kept: whether it is kept.
        isles, anima: F1 of the findings that are kept.
        reached: of each lesion, the least odds of a finding that has a voxel of it; infinite without one.
    """

    lesions_ml: np.ndarray
    hit: np.ndarray
    hit_by_any: np.ndarray
    odds: np.ndarray
    true: np.ndarray
    kept: np.ndarray
    isles: float
    anima: float
    reached: np.ndarray


def scan_figures(
    ranks: np.ndarray, odds: Sequence[float], lesion: np.ndarray, voxel_ml: float, most: float = 1.0
) -> ScanFigures:
    """Hold the findings of a scan against its lesions.

    Args:
        ranks: (X, Y, Z) integers, the number of the finding that a voxel is in, from 1; 0 in none.
        odds: of findings 1 … n: expected number of findings at least as extreme in a healthy scan.
        lesion: bool, the same shape.
        voxel_ml: volume of a voxel.
        most: findings of greater odds are not kept.
    """
    expected = np.asarray(odds, dtype=float)
    parts, count = ndimage.label(lesion, CORNERS)
    both = (ranks > 0) & lesion
    touching = np.unique(np.stack([parts[both], ranks[both]]), axis=1)
    reached = np.full(count + 1, np.inf)
    np.minimum.at(reached, touching[0], expected[touching[1] - 1])
    true = np.zeros(len(expected), bool)
    true[touching[1] - 1] = True
    keep = expected <= most
    found = np.concatenate([[False], keep])[ranks]
    return ScanFigures(
        lesions_ml=np.bincount(parts.ravel(), minlength=count + 1)[1:] * voxel_ml,
        hit=reached[1:] <= most,
        hit_by_any=np.isfinite(reached[1:]),
        odds=expected,
        true=true,
        kept=keep,
        isles=isles_f1(found, lesion),
        anima=anima_f1(found, lesion, 1000 * voxel_ml),
        reached=reached[1:],
    )


@dataclass
class LesionWise:
    """Of one method over the scans of a set."""

    scans: list[ScanFigures] = field(default_factory=list)

    def add(self, scan: ScanFigures) -> None:
        """Count a scan."""
        self.scans.append(scan)

    def figures(self, draws: int = 1000) -> dict[str, object]:
        """Means over scans, with 95 % intervals over scans drawn with replacement where the key ends in ``_interval``.

        ``findings``: kept ones a scan, median; ``findings_mean``; ``true``: share of all kept findings that hit a
        lesion; ``lesions_hit``: share of lesions; ``lesions_hit_of_any``: of those that any finding hits; ``_small``
        and the like by size; ``isles_f1``, ``anima_f1``; ``froc``: mean over `FALSE_FINDINGS` and ``froc_at_N``.
        """
        if not self.scans:
            return {}
        row: dict[str, object] = self._pooled(self.scans)
        if len(self.scans) > 1:
            rng, count = np.random.RandomState(0), len(self.scans)
            drawn = [self._pooled([self.scans[n] for n in rng.randint(count, size=count)], False) for _ in range(draws)]
            for key in ("isles_f1", "lesions_hit", "true"):
                known = [float(str(one[key])) for one in drawn if one[key] != ""]
                row[f"{key}_interval"] = tuple(np.percentile(known, [2.5, 97.5]).round(4).tolist()) if known else ""
        return row

    @staticmethod
    def _pooled(scans: Sequence[ScanFigures], froc: bool = True) -> dict[str, object]:
        kept = [int(one.kept.sum()) for one in scans]
        true = [int((one.kept & one.true).sum()) for one in scans]
        hit, known = (np.concatenate([getattr(one, key) for one in scans]) for key in ("hit", "hit_by_any"))
        sizes = np.concatenate([one.lesions_ml for one in scans])
        row: dict[str, object] = {
            "findings": float(np.median(kept)),
            "findings_mean": float(np.mean(kept)),
            "findings_all": float(np.median([len(one.kept) for one in scans])),
            "true": sum(true) / sum(kept) if sum(kept) and len(sizes) else "",
            "lesions_hit": float(hit.mean()) if len(sizes) else "",
            "lesions_hit_of_any": float(hit.sum() / max(known.sum(), 1)) if len(sizes) else "",
        }
        diseased = [one for one in scans if len(one.lesions_ml)]
        for key in ("isles", "anima"):
            row[f"{key}_f1"] = float(np.mean([getattr(one, key) for one in diseased])) if diseased else ""
        for name, (least, most) in SIZES_ML.items():
            there = (sizes >= least) & (sizes < most)
            row[f"lesions_hit_{name}"] = float(hit[there].mean()) if there.any() else ""
        return {**row, **(_froc(scans) if froc else {})}


def _froc(scans: Sequence[ScanFigures]) -> dict[str, object]:
    """By MONAI: findings by −log10 of their odds, a lesion by the best finding that has a voxel of it."""
    lesions = sum(len(one.lesions_ml) for one in scans)
    if not lesions:
        return {"froc": "", **{f"froc_at_{n:g}": "" for n in FALSE_FINDINGS}}
    least = 1e-300
    false = np.concatenate([-np.log10(np.maximum(one.odds[~one.true], least)) for one in scans])
    true = np.concatenate([-np.log10(np.maximum(one.reached[np.isfinite(one.reached)], least)) for one in scans])
    if not len(false) or not len(true):
        share = len(true) / lesions
        return {"froc": share, **{f"froc_at_{n:g}": share for n in FALSE_FINDINGS}}
    per_scan, sensitivity = compute_froc_curve_data(false, true, lesions, len(scans))
    at = {f"froc_at_{n:g}": compute_froc_score(per_scan, sensitivity, (n,)) for n in FALSE_FINDINGS}
    return {"froc": compute_froc_score(per_scan, sensitivity, FALSE_FINDINGS), **at}
