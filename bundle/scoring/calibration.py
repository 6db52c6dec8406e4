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
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from ..errors import WeightsError
from ..io.files import whole_file
from .tail import Table, tail_table, values_of

__all__ = ["Calibrated", "Calibration", "read_calibration", "weights_hash", "write_calibration"]

#: Bounds of the layers of the brain that have a table of their own, mm below its surface.
DEPTHS_MM = (0.0, 4.0, 8.0, 13.0, 20.0, 32.0)
LEAST_VOXELS = 5000  # a layer that has fewer takes the table of all


@dataclass(frozen=True)
class Calibration:
    """Table of raw score → −log10 of the healthy tail probability, both rising; for all of the organ, or by depth.

    Attributes:
        score: raw scores.
        value: −log10 P(healthy score ≥ score), of the upper bound of P where there is a ``confidence``.
        voxels: healthy head voxels that the table was made of.
        weights: hash of the weights (`weights_hash`).
        settings: of the method.
        confidence: of the bound; None where the tail is that of the voxels as they are.
        layers: a table for each layer of `DEPTHS_MM`, where scores were calibrated by depth too.
    """

    score: tuple[float, ...] = field(repr=False)
    value: tuple[float, ...] = field(repr=False)
    voxels: int
    weights: str
    settings: dict = field(default_factory=dict)
    confidence: float | None = None
    layers: tuple[Table, ...] = field(default=(), repr=False)

    @classmethod
    def fit(
        cls,
        healthy: Sequence[np.ndarray],
        weights: str = "",
        settings: dict | None = None,
        confidence: float | None = None,
        depths: Sequence[np.ndarray] | None = None,
    ) -> Calibration:
        """Make the table. It ends where ten voxels are left; higher scores go on along the slope of its last decade.

        Args:
            healthy: raw scores of healthy voxels, an array of any shape a patient.
            weights, settings: to keep with it.
            confidence: share of draws of as many patients (bootstrap) whose tail may at most be as heavy as the
                table says; None, or a single patient, takes the pooled tail.
            depths: of the same voxels below the surface of the organ, mm; adds the tables of the layers.

        Raises:
            ValueError: when no voxel is given, or ``confidence`` is not between 0 and 1.
        """
        table, layers = tail_table(healthy, confidence), []
        for nearest, deepest in zip(DEPTHS_MM, (*DEPTHS_MM[1:], np.inf), strict=True) if depths is not None else ():
            pairs = zip(healthy, depths, strict=True)
            layer = [scores[(depth >= nearest) & (depth < deepest)] for scores, depth in pairs]
            layers.append(tail_table(layer, confidence) if sum(map(len, layer)) >= LEAST_VOXELS else table)
        return cls(*table, sum(map(np.size, healthy)), weights, settings or {}, confidence, tuple(layers))

    def threshold(self, rate: float) -> float:
        """The raw score that this share of healthy voxels reaches (0 < ``rate`` < 1), at most at the table's end."""
        return float(np.interp(-np.log10(rate), self.value, self.score))

    def __call__(self, score: np.ndarray, depth: np.ndarray | None = None) -> np.ndarray:
        """Raw scores of any shape → values; 0 for a score of 0, strictly rising above the table.

        ``depth`` of the same voxels, mm, asks the tables of the layers, between whose middles values are interpolated;
        without it, or without layers, one table is for all.
        """
        if depth is None or not self.layers:
            return values_of((self.score, self.value), score)
        middles = [*(np.mean(pair) for pair in pairwise(DEPTHS_MM)), DEPTHS_MM[-1]]
        place = np.interp(depth, middles, np.arange(len(middles)))
        value = np.zeros(np.shape(score), np.float32)
        for number, table in enumerate(self.layers):
            share = np.clip(1 - np.abs(place - number), 0, 1)
            near = share > 0
            value[near] += share[near] * values_of(table, np.asarray(score)[near])
        return value


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
    entry = {key: _rounded(value) for key, value in asdict(calibration).items() if value != ()}
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps({**entries, method: entry}) + "\n")


def _rounded(value: object) -> object:
    """Numbers in tuples, however deep, to seven digits after the point."""
    return [round(v, 7) if isinstance(v, float) else _rounded(v) for v in value] if isinstance(value, tuple) else value
