# SPDX-License-Identifier: Apache-2.0
"""From raw scores to units that mean something: minus the decimal logarithm of the healthy tail probability.

A map of value 2 marks voxels as high as 1 % of the voxels of healthy brains, 3 marks 0.1 %. The table is made once, on
held-out healthy slices, for one set of weights, one preprocessing and one method with its settings, and is refused for
any other; it is the same for every scan, so values compare across scans, and across methods. A table knows no tail
rarer than its voxels: it ends there, and so do the values.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from ..errors import WeightsError
from ..io.files import whole_file
from .description import describe, differences_between
from .tail import Table, check_table, tail_table, values_of

__all__ = [
    "RARER",
    "RAW_UNITS",
    "UNCALIBRATED",
    "UNITS",
    "Calibrated",
    "Calibration",
    "Rarer",
    "is_uncalibrated",
    "read_calibration",
    "weights_hash",
    "write_calibration",
]

UNITS = "-log10 of the healthy tail probability"
RAW_UNITS = "raw score of the method, not calibrated"
RARER = "rarer"  # key of what a map says beyond the end of its table
UNCALIBRATED = "none"  # in place of a calibration file: raw scores are asked for
#: Bounds of the layers of the brain that have a table of their own, mm below its surface.
DEPTHS_MM = (0.0, 4.0, 8.0, 13.0, 20.0, 32.0)
LEAST_VOXELS = 5000  # a layer that has fewer takes the table of all
ANEW = (
    "Make it anew (flipmap calibrate --dataset_dir DATA, --help says more), go back to those settings, or set "
    "calibration=none for raw scores"
)


def is_uncalibrated(calibration: str | Path | None) -> bool:
    """Whether raw scores are asked for in place of a calibration file."""
    return calibration is None or str(calibration).lower() == UNCALIBRATED


@dataclass(frozen=True)
class Calibration:
    """Table of raw score → −log10 of the healthy tail probability, both rising; for all of the organ, or by depth.

    Attributes:
        score: raw scores.
        value: −log10 P(healthy score ≥ score), of the bootstrap percentile of P where there is a ``percentile``.
        voxels: healthy voxels that the table was made of.
        weights: hash of the weights (`weights_hash`).
        made_with: settings of preprocessing and method (`bundle.scoring.description.describe`).
        percentile: of the bootstrap over patients; None where the tail is that of the voxels as they are.
        patients: that the voxels are of.
        layers: a table for each layer of `DEPTHS_MM`, where scores were calibrated by depth too.
    """

    score: tuple[float, ...] = field(repr=False)
    value: tuple[float, ...] = field(repr=False)
    voxels: int
    weights: str = field(default="", compare=False)
    made_with: dict = field(default_factory=dict, repr=False, compare=False)
    percentile: float | None = None
    patients: int = 1
    layers: tuple[Table, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        for table in ((self.score, self.value), *self.layers):
            check_table(table)

    @classmethod
    def fit(
        cls,
        healthy: Sequence[np.ndarray],
        weights: str = "",
        made_with: Mapping | None = None,
        percentile: float | None = None,
        depths: Sequence[np.ndarray] | None = None,
        alike: bool = False,
    ) -> Calibration:
        """Make the table. It ends where ten voxels are left.

        Args:
            healthy: raw scores of healthy voxels, an array of any shape a patient.
            weights: their hash, to keep with it.
            made_with: the settings, to keep with it.
            percentile: of the bootstrap over patients, see `bundle.scoring.tail.tail_table`. It speaks of the mean
                over as many patients as calibrated, not of a single one.
            depths: of the same voxels below the surface of the organ, mm; adds the tables of the layers.
            alike: see `bundle.scoring.tail.tail_table`.

        Raises:
            ValueError: when no voxel is given, all scores are equal, or ``percentile`` is not between 0 and 1.
        """
        table, layers = tail_table(healthy, percentile, alike), []
        pairs = [] if depths is None else list(zip(healthy, depths, strict=True))
        for nearest, deepest in zip(DEPTHS_MM, (*DEPTHS_MM[1:], np.inf), strict=True) if pairs else ():
            layer = [scores[(depth >= nearest) & (depth < deepest)] for scores, depth in pairs]
            layers.append(tail_table(layer, percentile, alike) if sum(map(len, layer)) >= LEAST_VOXELS else table)
        voxels, patients = sum(map(np.size, healthy)), sum(np.size(one) > 0 for one in healthy)
        return cls(*table, voxels, weights, dict(made_with or {}), percentile, patients, tuple(layers))

    @property
    def end(self) -> float:
        """The highest value that the table knows; a voxel of this value is at least as rare."""
        return float(self.value[-1])

    @property
    def hash(self) -> str:
        """Of its tables and of what they were made with, first 16 digits of a SHA-256."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True, default=str).encode()).hexdigest()[:16]

    def threshold(self, rate: float) -> float:
        """The raw score that this share of healthy voxels reaches (0 < ``rate`` < 1), at most at the table's end."""
        return float(np.interp(-np.log10(rate), self.value, self.score))

    def __call__(self, score: np.ndarray, depth: np.ndarray | None = None, capped: bool = True) -> np.ndarray:
        """Raw scores of any shape → values; 0 for a score of 0.

        Args:
            score: raw scores.
            depth: of the same voxels, mm: asks the tables of the layers, between whose middles values are
                interpolated; without it, or without layers, one table is for all.
            capped: see `bundle.scoring.tail.values_of`.
        """
        if depth is None or not self.layers:
            return values_of((self.score, self.value), score, capped)
        middles = [*(sum(pair) / 2 for pair in pairwise(DEPTHS_MM)), DEPTHS_MM[-1]]
        place = np.interp(depth, middles, np.arange(len(middles)))
        value = np.zeros(np.shape(score), np.float32)
        for number, table in enumerate(self.layers):
            share = np.clip(1 - np.abs(place - number), 0, 1)
            near = share > 0
            value[near] += share[near] * values_of(table, np.asarray(score)[near], capped)
        return value


class Rarer(NamedTuple):
    """What a map says beyond the end of its table, along the slope of its last decade: a number to rank by.

    Attributes:
        voxels: flat indices, of the voxels that end with the table.
        values: float32, of these voxels.
    """

    voxels: np.ndarray
    values: np.ndarray

    def lay_over(self, anomaly: np.ndarray) -> np.ndarray:
        """The map (X, Y, Z) with these values in the place of the end of the table; where it is 0 it stays so."""
        whole = anomaly.copy()
        flat = whole.reshape(-1)
        flat[self.voxels] = np.where(flat[self.voxels] > 0, self.values, 0)
        return whole


class Calibrated(MapTransform):
    """Apply the calibration of a method to maps of raw scores, and say in which units the maps are.

    Args:
        keys: keys of raw maps (1, X, Y, Z).
        path: the calibration file; ``none`` leaves the raw scores.
        method: name of its entry.
        weights: weights files that the entry must have been made with; none skips the check.
        parts: ``preprocessing`` and ``inferer`` of the job, whose settings must be those that the entry was made with;
            none skips the check.
        units_key: where the units go, `UNITS` or `RAW_UNITS`.
        end_key: where the highest value that the table knows goes; absent with raw scores.

    Raises:
        WeightsError: when the entry is missing, broken, or made with other weights or settings.
    """

    def __init__(
        self,
        keys: KeysCollection,
        path: str | Path,
        method: str,
        weights: Sequence[str | Path] = (),
        parts: Mapping[str, object] | None = None,
        units_key: str = "units",
        end_key: str = "table_end",
    ) -> None:
        super().__init__(keys)
        raw = is_uncalibrated(path)
        self.calibration = None if raw else read_calibration(path, method, weights, describe(**(parts or {})))
        self.units_key, self.end_key = units_key, end_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        d = dict(data)
        d[self.units_key] = UNITS if self.calibration else RAW_UNITS
        if self.calibration is None:
            return d
        d[self.end_key] = self.calibration.end
        for key in self.key_iterator(d):
            open_ended = self.calibration(d[key].cpu().numpy(), capped=False)
            voxels = np.flatnonzero(open_ended > self.calibration.end)
            d[RARER] = Rarer(voxels, open_ended.reshape(-1)[voxels])
            values = torch.from_numpy(np.minimum(open_ended, np.float32(self.calibration.end)))
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


def read_calibration(
    path: str | Path, method: str, weights: Sequence[str | Path] = (), made_with: Mapping | None = None
) -> Calibration:
    """The entry of a method.

    Args:
        path: the calibration file.
        method: name of the entry.
        weights: weights files that it must have been made with; none skips the check.
        made_with: settings that it must have been made with; none skips the check.

    Raises:
        WeightsError: when file or entry is missing or broken, or made with other weights or settings.
    """
    try:
        entries = json.loads(Path(path).read_text())
        calibration = Calibration(**entries[method])
    except KeyError as error:
        known = ", ".join(entries)
        raise WeightsError(path, f"no entry {method!r}, only {known}", ANEW) from error
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(path, f"no calibration ({error})", "Take the file that came with the weights") from error
    if weights and weights_hash(*weights) != calibration.weights:
        files = ", ".join(map(str, weights))
        raise WeightsError(path, f"its entry {method!r} is not for {files}", ANEW)
    if made_with and (differing := differences_between(calibration.made_with, made_with)):
        reason = f"its entry {method!r} is for other settings: {differing}"
        raise WeightsError(path, reason, ANEW)
    return calibration


def write_calibration(path: str | Path, method: str, calibration: Calibration) -> None:
    """Add or replace the entry of a method; the file is replaced whole."""
    path = Path(path)
    entries = json.loads(path.read_text()) if path.exists() else {}
    entry = {key: _round(value) for key, value in asdict(calibration).items() if value != ()}
    with whole_file(path) as temporary:
        temporary.write_text(_in_lines({**entries, method: entry}))


def _in_lines(entries: Mapping[str, Mapping]) -> str:
    """JSON with a line a column, so that a change of one entry is seen as such."""
    said = [
        f" {json.dumps(name)}: {{\n"
        + ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in entry.items())
        + "\n }"
        for name, entry in entries.items()
    ]
    return "{\n" + ",\n".join(said) + "\n}\n"


def _round(value: object) -> object:
    """Numbers in tuples, however deep, to eight digits: scores may be as small as a UNet is sure of nothing."""
    if isinstance(value, tuple):
        return [float(f"{v:.8g}") if isinstance(v, float) else _round(v) for v in value]
    return value
