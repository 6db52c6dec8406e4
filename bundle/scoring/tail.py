# SPDX-License-Identifier: Apache-2.0
"""Tables of the healthy tail: raw score → −log10 P(a healthy score is as high), from the scores of few patients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["Table", "check_table", "tail_table", "values_of"]

POINTS = 121  # of a table, evenly spread over the logarithm of the tail
DRAWS = 2000  # of patients, for the bootstrap

#: Raw scores, and −log10 of the healthy tail probability at each; both rise.
Table = tuple[tuple[float, ...], tuple[float, ...]]


def tail_table(healthy: Sequence[np.ndarray], percentile: float | None = None, alike: bool = False) -> Table:
    """Make a table. It ends where ten voxels are left.

    Args:
        healthy: raw scores of healthy voxels, an array of any shape a patient.
        percentile: in (0, 1), of a bootstrap over patients: the table holds this percentile of the bootstrapped tail
            probabilities. None, or a single patient, takes the tail of all.
        alike: every patient counts alike, however many voxels there are of him: the tail is the mean of the patients'.
            By default every voxel does.

    Raises:
        ValueError: when no voxel is given, all scores are equal, or ``percentile`` is not between 0 and 1.
    """
    if percentile is not None and not 0 < percentile < 1:
        raise ValueError(f"percentile {percentile} is not between 0 and 1")
    patients = [np.sort(np.asarray(one, dtype=np.float64).ravel()) for one in healthy if np.size(one)]
    if not patients:
        raise ValueError("no healthy voxel to calibrate on")
    pooled = np.concatenate(patients)
    value = np.linspace(0, np.log10(max(len(pooled) / 10, 10)), POINTS)
    score = np.quantile(pooled, 1 - 10.0**-value)
    score, first = np.unique(score, return_index=True)  # equal scores: the lowest value, so that ties are healthy
    value = value[first]
    if len(score) < 2:
        raise ValueError(f"all healthy scores are {score[0]:g}: nothing to tell them apart by")
    above = np.array([len(one) - np.searchsorted(one, score, side="left") for one in patients])
    voxels = np.array([len(one) for one in patients])
    if alike:
        above, voxels = above / voxels[:, None], np.ones(len(patients))
        value = -np.log10(above.mean(0))
    if percentile is not None and len(patients) > 1:
        value = np.minimum(value, -np.log10(_tail_percentile(above, voxels, percentile)))
    return tuple(score.tolist()), tuple(value.tolist())


def check_table(table: Table) -> None:
    """See that a table can be asked.

    Raises:
        ValueError: when it is empty, has one point, is not finite, or does not rise.
    """
    score, value = (np.asarray(column, dtype=float) for column in table)
    if score.shape != value.shape or score.ndim != 1 or score.size < 2:
        raise ValueError(f"a table of {score.size} scores and {value.size} values, at least two of each needed")
    if not (np.isfinite(score).all() and np.isfinite(value).all()):
        raise ValueError("a table with values that are not finite")
    if (np.diff(score) < 0).any() or score[-1] <= score[0] or (np.diff(value) < 0).any() or value[-1] <= value[0]:
        raise ValueError("a table that does not rise")


def values_of(table: Table, score: np.ndarray, capped: bool = True) -> np.ndarray:
    """Raw scores of any shape → float32 values; 0 for a score of 0.

    Args:
        table: raw score → value.
        score: raw scores.
        capped: end at the table's last value, since nothing is known of rarer scores. Without it scores beyond the
            table go on along the slope of its last decade: a number to rank by, no probability.
    """
    known_score, known_value = map(np.asarray, table)
    score = np.asarray(score)
    above = score[score > 0]  # most of a map is 0 and stays so
    value = np.zeros(score.shape, np.float32)
    found = np.interp(above, known_score, known_value)
    if not capped:
        # The slope of the last decade: between the last two points it rests on a handful of voxels.
        decade = min(int(np.searchsorted(known_value, known_value[-1] - 1)), len(known_value) - 2)
        slope = (known_value[-1] - known_value[decade]) / (known_score[-1] - known_score[decade])
        found = found + np.clip(above - known_score[-1], 0, None) * slope
    value[score > 0] = found
    return value


def _tail_percentile(above: np.ndarray, voxels: np.ndarray, percentile: float) -> np.ndarray:
    """P(healthy score ≥ score) at a percentile of the draws of as many patients; falls with the score.

    Args:
        above: voxels of each patient that reach each score (patients, points).
        voxels: of each patient. Where patients count alike, their shares of voxels are in ``above`` and ones here.
        percentile: in (0, 1).
    """
    draws = np.random.RandomState(0).multinomial(len(above), np.full(len(above), 1 / len(above)), DRAWS)
    tails = (draws @ above) / (draws @ voxels)[:, None]
    # A draw may have left out the few patients that reach so high: then the tail of all, never zero, counts.
    return np.maximum(np.quantile(tails, percentile, axis=0), above.sum(0) / voxels.sum())
