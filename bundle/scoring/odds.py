# SPDX-License-Identifier: Apache-2.0
"""Odds of findings: how many findings at least as extreme a healthy scan has on average, as BLAST counts sequences
(Karlin & Altschul 1990) and neuroimaging counts clusters (Friston et al. 1994).

How extreme a finding is, is one number. The table says how many findings of healthy tissue reach it, by litre of the
organ; beyond its end a law that is fitted to its last part goes on, and what comes from there is marked. Tables are
made of people who trained nothing, and each place counts alike. They are bound to calibration and threshold of the map.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from ..errors import WeightsError
from ..io.files import whole_file

__all__ = [
    "ODDS",
    "FindingOdds",
    "HealthyScan",
    "extremeness",
    "in_words",
    "odds_beside",
    "read_odds",
    "share_of_healthy",
    "write_odds",
]

logger = logging.getLogger(__name__)

ODDS = "odds.json"  # beside the calibration that it is made with
#: Weights of `extremeness`, chosen on the places together: docs/decisions/0014-odds-of-findings.md.
HEIGHT_WEIGHT, DEEP_MM = 0.5, 10.0
LEAST_EXCESS = 1e-3  # of a voxel that lies at the threshold: a logarithm is taken
POINTS = 61  # of a table
LEAST = 3  # findings that the last point of a table rests on
TAIL = 30  # findings, or a third of all if that is less, that the law beyond the table is fitted to
LITRE = 1000.0  # ml


def extremeness(values: np.ndarray, voxel_ml: float, depth_mm: float, threshold: float) -> float:
    """How extreme a finding is: decimal logarithm of its mass, plus half its height, plus 1 where it lies deep.

    The mass is volume times what the map has above the threshold, as cluster mass in neuroimaging (Bullmore et al.
    1999), so that a lone voxel counts by its size. The height is the highest value. Depth counts up to 10 mm, since
    partial volume at the surface lights up in many healthy people.

    Args:
        values: of the map in the finding, not cut off where the table of the map ends.
        voxel_ml: volume of a voxel.
        depth_mm: mean depth of the finding below the surface of the organ.
        threshold: that made the finding.
    """
    values = np.asarray(values, dtype=np.float64)
    mass = (values - threshold).clip(LEAST_EXCESS).sum() * voxel_ml
    return float(np.log10(mass) + HEIGHT_WEIGHT * values.max() + min(1.0, depth_mm / DEEP_MM))


@dataclass(frozen=True)
class HealthyScan:
    """Findings of healthy tissue of one scan.

    Attributes:
        extreme: `extremeness` of each, (findings,).
        organ_ml: volume of the healthy tissue that was looked at.
        place: where the scan is from; places count alike.
    """

    extreme: np.ndarray
    organ_ml: float
    place: str = ""


@dataclass(frozen=True)
class FindingOdds:
    """Findings by litre of healthy tissue that are at least as extreme.

    Attributes:
        extreme: rising.
        places: place → number of findings that reach each ``extreme``, by litre; falling.
        slope: decades that the number falls by unit of ``extreme`` beyond the last point.
        scans: that it was made of.
        threshold: of the map, that made the findings.
        calibration: hash of the calibration of the map.
        healthy_scores: case scores of these scans, rising.
    """

    extreme: tuple[float, ...] = field(repr=False)
    places: Mapping[str, Sequence[float]] = field(repr=False)
    slope: float
    scans: int
    threshold: float = 2.0
    calibration: str = ""
    healthy_scores: tuple[float, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        points, number = np.asarray(self.extreme, float), self.per_litre
        if points.ndim != 1 or points.size < 2 or number.shape != points.shape:
            raise ValueError(f"odds of {points.size} points and {number.size} numbers, at least two of each needed")
        if not (np.isfinite(points).all() and np.isfinite(number).all() and (number > 0).all()):
            raise ValueError("odds that are not finite and positive")
        if (np.diff(points) <= 0).any() or (np.diff(number) > 0).any() or not self.slope > 0:
            raise ValueError("odds that do not fall")

    @classmethod
    def fit(cls, scans: Sequence[HealthyScan], threshold: float, calibration: str = "") -> FindingOdds:
        """Make the table; case scores of the scans come from the others' places where there are any.

        Args:
            scans: of healthy tissue.
            threshold: of the map.
            calibration: hash, to keep with it.

        Raises:
            ValueError: when there are fewer than ten findings in all.
        """
        known = [scan for scan in scans if scan.organ_ml > 0]
        found = np.sort(np.concatenate([scan.extreme for scan in known])) if known else np.zeros(0)
        if len(found) < 10:
            raise ValueError(f"{len(found)} findings of healthy tissue, at least ten needed")
        last = found[-LEAST]
        points = np.unique(np.quantile(found, np.linspace(0, 1, POINTS)))
        points = np.append(points[points < last], last)
        places = {}
        for place in dict.fromkeys(scan.place for scan in known):
            own = [scan for scan in known if scan.place == place]
            there = np.sort(np.concatenate([scan.extreme for scan in own]))
            litres = sum(scan.organ_ml for scan in own) / LITRE
            places[place] = tuple((len(there) - np.searchsorted(there, points)) / litres)
        odds = cls(tuple(points.tolist()), places, _slope(found), len(known), threshold, calibration)
        scores = sorted(odds.without(scan.place).score(scan.extreme, scan.organ_ml)[0] for scan in known)
        return replace(odds, healthy_scores=tuple(scores))

    @property
    def per_litre(self) -> np.ndarray:
        """Mean over places of the number of findings that reach each point, by litre."""
        return np.mean([np.asarray(one, float) for one in self.places.values()], axis=0)

    def without(self, place: str) -> FindingOdds:
        """The same without a place, for scans of that place; itself where no other is left, or too little is."""
        others = {name: one for name, one in self.places.items() if name != place}
        number = np.mean([np.asarray(one, float) for one in others.values()], axis=0) if others else np.zeros(1)
        points = int((number > 0).sum())
        if points < 2 or len(others) == len(self.places):
            return self
        cut = {name: tuple(one[:points]) for name, one in others.items()}
        return replace(self, extreme=self.extreme[:points], places=cut)

    def expected(self, extreme: np.ndarray | float, organ_ml: float) -> tuple[np.ndarray, np.ndarray]:
        """Expected number of findings at least as extreme in so much healthy tissue; whether the fitted law says so.

        Args:
            extreme: of findings, any shape.
            organ_ml: volume of the organ in the scan.

        Returns:
            numbers, and booleans, of the shape of ``extreme``.
        """
        asked, number = np.asarray(extreme, dtype=float), self.per_litre
        inside = 10 ** np.interp(asked, self.extreme, np.log10(number))
        beyond = asked > self.extreme[-1]
        law = number[-1] * 10 ** (-self.slope * (asked - self.extreme[-1]).clip(0))
        return np.where(beyond, law, inside) * organ_ml / LITRE, beyond

    def score(self, extreme: Sequence[float] | np.ndarray, organ_ml: float) -> tuple[float, bool]:
        """The case score: −log10 of the share of healthy scans that have anything as extreme as the most extreme of
        these findings; and whether the fitted law says so. 0 without a finding.
        """
        if not len(extreme):
            return 0.0, False
        expected, beyond = self.expected(float(np.max(extreme)), organ_ml)
        return -float(np.log10(max(share_of_healthy(float(expected)), 1e-300))) + 0.0, bool(beyond)


def share_of_healthy(expected: float) -> float:
    """Share of healthy scans that have at least one finding as extreme, where so many are expected a scan: 1 − exp(−E),
    as findings come independently (Karlin & Altschul 1990).
    """
    return float(-np.expm1(-expected))


def in_words(expected: float, beyond: bool) -> str:
    """The odds of a finding as a sentence without its end.

    Args:
        expected: findings at least as extreme that a healthy scan has on average.
        beyond: whether a fitted law says so.
    """
    if expected >= 1:
        return f"a healthy scan has {expected:.2g} like it on average"
    scans = float(f"{1 / max(share_of_healthy(expected), 1e-12):.2g}")
    most = f"{scans:,.0f}" if scans >= 10 else f"{scans:g}"
    return f"about one in {most} healthy scans has one like it" + (", by extrapolation" if beyond else "")


def odds_beside(tables: str | Path) -> Path:
    """The file of the odds that belong to a calibration file."""
    return Path(tables).with_name(ODDS)


def read_odds(path: str | Path, method: str, calibration: str, threshold: float) -> FindingOdds | None:
    """The odds of a method's findings; None, with a warning, where there are none for this calibration and threshold.

    Args:
        path: file of `write_odds`.
        method: name.
        calibration: hash of the calibration of the map.
        threshold: that makes the findings.

    Raises:
        WeightsError: when the file is broken.
    """
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8")).get(method, [])
        known = [FindingOdds(**entry) for entry in entries]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        reason = f"no odds of findings ({error})"
        raise WeightsError(path, reason, "Take the file that came with the weights") from error
    for one in known:
        if one.calibration == calibration and abs(one.threshold - threshold) < 1e-6:
            return one
    made = ", ".join(f"{one.threshold:g}" for one in known if one.calibration == calibration)
    reason = f"they are made for the thresholds {made}" if made else "none are made with this calibration"
    logger.warning("no odds of findings at threshold %g: %s; all findings are kept", threshold, reason)
    return None


def write_odds(path: str | Path, method: str, odds: Sequence[FindingOdds]) -> None:
    """Add or replace the odds of a method, one for each threshold; the file is replaced whole.

    Raises:
        OutputError: when it cannot be written.
    """
    path = Path(path)
    entries: dict = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    entries[method] = [_rounded(asdict(one)) for one in odds]
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(entries) + "\n", encoding="utf-8")


def _rounded(entry: Mapping) -> dict:
    def digits(values: Sequence[float]) -> list[float]:
        return [float(f"{value:.6g}") for value in values]

    places = {name: digits(one) for name, one in entry["places"].items()}
    columns = {key: digits(entry[key]) for key in ("extreme", "healthy_scores")}
    return {**entry, **columns, "places": places, "slope": float(f"{entry['slope']:.6g}")}


def _slope(found: np.ndarray) -> float:
    """Decades by unit that the number of findings falls in its last part: the maximum likelihood of an exponential law
    (of a power law of the mass: Hill 1975).
    """
    tail = found[-max(2, min(TAIL, len(found) // 3)) :]
    return float(np.log10(np.e) / max(float(np.mean(tail[1:] - tail[0])), 1e-3))
