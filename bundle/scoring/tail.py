"""Tables of the healthy tail: raw score → −log10 P(a healthy score is as high), from the scores of few patients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["Table", "tail_table", "values_of"]

POINTS = 121  # of a table, evenly spread over the logarithm of the tail
DRAWS = 2000  # of patients, for the bound of the tail

#: Raw scores, and −log10 of the healthy tail probability at each; both rise.
Table = tuple[tuple[float, ...], tuple[float, ...]]


def tail_table(healthy: Sequence[np.ndarray], confidence: float | None = None) -> Table:
    """Make a table. It ends where ten voxels are left.

    Args:
        healthy: raw scores of healthy voxels, an array of any shape a patient.
        confidence: share of draws of as many patients (bootstrap) whose tail may at most be as heavy as the table
            says; None, or a single patient, takes the pooled tail.

    Raises:
        ValueError: when no voxel is given, or ``confidence`` is not between 0 and 1.
    """
    if confidence is not None and not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")
    patients = [np.sort(np.asarray(one, dtype=np.float64).ravel()) for one in healthy if np.size(one)]
    if not patients:
        raise ValueError("no healthy voxel to calibrate on")
    pooled = np.concatenate(patients)
    value = np.linspace(0, np.log10(max(len(pooled) / 10, 10)), POINTS)
    score = np.quantile(pooled, 1 - 10.0**-value)
    score, first = np.unique(score, return_index=True)  # equal scores: the lowest value, so that ties are healthy
    value = value[first]
    if confidence is not None and len(patients) > 1:
        value = np.minimum(value, -np.log10(_tail_bound(patients, score, confidence)))
    return tuple(score.tolist()), tuple(value.tolist())


def values_of(table: Table, score: np.ndarray) -> np.ndarray:
    """Raw scores of any shape → float32 values: 0 for a score of 0; beyond the table, the slope of its last decade."""
    known_score, known_value = map(np.asarray, table)
    # The slope of the last decade: between the last two points it hangs on a handful of voxels.
    decade = min(int(np.searchsorted(known_value, known_value[-1] - 1)), len(known_value) - 2)
    slope = (known_value[-1] - known_value[decade]) / (known_score[-1] - known_score[decade])
    score = np.asarray(score)
    above = score[score > 0]  # most of a map is 0 and stays so
    beyond = np.clip(above - known_score[-1], 0, None) * slope
    value = np.zeros(score.shape, np.float32)
    value[score > 0] = np.interp(above, known_score, known_value) + beyond
    return value


def _tail_bound(patients: Sequence[np.ndarray], score: np.ndarray, confidence: float) -> np.ndarray:
    """P(healthy score ≥ score) that ``confidence`` of the draws of as many patients stay below; falls with the score.

    Args:
        patients: rising scores of each.
        score: (points,).
    """
    above = np.array([len(one) - np.searchsorted(one, score, side="left") for one in patients])
    voxels = np.array([len(one) for one in patients])
    draws = np.random.RandomState(0).multinomial(len(patients), np.full(len(patients), 1 / len(patients)), DRAWS)
    tails = (draws @ above) / (draws @ voxels)[:, None]
    # A draw may have left out the few patients that reach so high: then the pooled tail, which is never zero, counts.
    return np.maximum(np.quantile(tails, confidence, axis=0), above.sum(0) / voxels.sum())
