"""From raw scores to units that mean something: minus the decimal logarithm of the healthy tail probability.

A map of value 2 marks voxels as high as 1 % of the voxels of healthy heads, 3 marks 0.1 %. The table is made once, on
held-out healthy slices, for a method with its settings and one set of weights; it is the same for every scan, so
values compare across scans, and across methods. Patients differ more than voxels do, and a table is made of few of
them, so the tail can be taken at the upper end of what other patients like them would give.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from ..errors import WeightsError
from ..io.files import whole_file

__all__ = ["Calibrated", "Calibration", "read_calibration", "weights_hash", "write_calibration"]

POINTS = 121  # of the table, evenly spread over the logarithm of the tail
DRAWS = 2000  # of patients, for the bound of the tail


@dataclass(frozen=True)
class Calibration:
    """Table of raw score → −log10 of the healthy tail probability, both rising.

    Attributes:
        score: raw scores.
        value: −log10 P(healthy score ≥ score), of the upper bound of P where there is a ``confidence``.
        voxels: healthy head voxels that the table was made of.
        weights: hash of the weights (`weights_hash`).
        settings: of the method.
        confidence: of the bound; None where the tail is that of the voxels as they are.
    """

    score: tuple[float, ...] = field(repr=False)
    value: tuple[float, ...] = field(repr=False)
    voxels: int
    weights: str
    settings: dict = field(default_factory=dict)
    confidence: float | None = None

    @classmethod
    def fit(
        cls,
        healthy: Sequence[np.ndarray],
        weights: str = "",
        settings: dict | None = None,
        confidence: float | None = None,
    ) -> Calibration:
        """Make the table. It ends where ten voxels are left; higher scores go on along the slope of its last decade.

        Args:
            healthy: raw scores of healthy voxels, an array of any shape a patient.
            weights, settings: to keep with it.
            confidence: share of draws of as many patients (bootstrap) whose tail may at most be as heavy as the
                table says; None, or a single patient, takes the pooled tail.

        Raises:
            ValueError: when no voxel is given, or ``confidence`` is not between 0 and 1.
        """
        if confidence is not None and not 0 < confidence < 1:
            raise ValueError(f"confidence {confidence} is not between 0 and 1")
        patients = [np.sort(np.asarray(one, dtype=np.float64).ravel()) for one in healthy if np.size(one)]
        if not patients:
            raise ValueError("no healthy voxel to calibrate on")
        pooled = np.concatenate(patients)
        deepest = np.log10(max(len(pooled) / 10, 10))
        value = np.linspace(0, deepest, POINTS)
        score = np.quantile(pooled, 1 - 10.0**-value)
        score, first = np.unique(score, return_index=True)  # equal scores: the lowest value, so that ties are healthy
        value = value[first]
        if confidence is not None and len(patients) > 1:
            value = np.minimum(value, -np.log10(_tail_bound(patients, score, confidence)))
        return cls(tuple(score.tolist()), tuple(value.tolist()), len(pooled), weights, settings or {}, confidence)

    def threshold(self, rate: float) -> float:
        """The raw score that this share of healthy voxels reaches (0 < ``rate`` < 1), at most at the table's end."""
        return float(np.interp(-np.log10(rate), self.value, self.score))

    def __call__(self, score: np.ndarray) -> np.ndarray:
        """Raw scores of any shape → values; 0 for a score of 0, strictly rising above the table."""
        known_score, known_value = np.array(self.score), np.array(self.value)
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


class Calibrated(MapTransform):
    """Apply the calibration of a method to maps of raw scores.

    Args:
        keys: keys of raw maps (1, X, Y, Z).
        path: the calibration file.
        method: name of its entry.
        weights: weights files to check the entry against; none skips the check.
    """

    def __init__(self, keys: KeysCollection, path: str | Path, method: str, weights: Sequence[str | Path] = ()) -> None:
        super().__init__(keys)
        self.calibration = read_calibration(path, method, weights)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict:
        d = dict(data)
        for key in self.key_iterator(d):
            values = torch.from_numpy(self.calibration(d[key].cpu().numpy()))
            d[key] = type(d[key])(values, meta=d[key].meta) if hasattr(d[key], "meta") else values
        return d


def weights_hash(*paths: str | Path) -> str:
    """SHA-256 of weights files one after the other, first 16 digits.

    Raises:
        WeightsError: when one cannot be read.
    """
    stamps = []
    for path in map(Path, paths):
        try:
            known = path.stat()
        except OSError as error:
            raise WeightsError(path, f"cannot be read ({error.strerror})", "Give the path of the weights") from error
        stamps.append((str(path), known.st_mtime_ns, known.st_size))
    return _hash_of(tuple(stamps))


@lru_cache(maxsize=8)
def _hash_of(stamps: tuple[tuple[str, int, int], ...]) -> str:
    """Read once as long as no file changes: a server asks for every request."""
    digest = hashlib.sha256()
    for path, _, _ in stamps:
        try:
            digest.update(Path(path).read_bytes())
        except OSError as error:
            raise WeightsError(path, f"cannot be read ({error.strerror})", "Give the path of the weights") from error
    return digest.hexdigest()[:16]


def read_calibration(path: str | Path, method: str, weights: Sequence[str | Path] = ()) -> Calibration:
    """The entry of a method.

    Args:
        path: the calibration file.
        method: name of the entry.
        weights: weights files that it must have been made with; none skips the check.

    Raises:
        WeightsError: when file or entry is missing or broken, or made with other weights.
    """
    try:
        entries = json.loads(Path(path).read_text())
        calibration = Calibration(**entries[method])
    except KeyError as error:
        known = ", ".join(entries)
        raise WeightsError(
            path, f"no entry {method!r}, only {known}", "Calibrate the method: docs/training.md"
        ) from error
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(path, f"no calibration ({error})", "Take the file that came with the weights") from error
    if weights and weights_hash(*weights) != calibration.weights:
        files = ", ".join(map(str, weights))
        raise WeightsError(path, f"its entry {method!r} is not for {files}", "Calibrate anew: docs/training.md")
    return calibration


def write_calibration(path: str | Path, method: str, calibration: Calibration) -> None:
    """Add or replace the entry of a method; the file is replaced whole."""
    path = Path(path)
    entries = json.loads(path.read_text()) if path.exists() else {}
    rounded = {
        key: [round(v, 7) for v in values] if isinstance(values, tuple) else values
        for key, values in asdict(calibration).items()
    }
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps({**entries, method: rounded}) + "\n")
