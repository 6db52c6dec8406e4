# SPDX-License-Identifier: Apache-2.0
"""Odds of findings: how many findings at least as extreme a healthy scan has on average, as BLAST counts sequences
(Karlin & Altschul 1990) and neuroimaging counts clusters (Friston et al. 1994).

How extreme a finding is, is one number. The table says how many findings of healthy tissue reach it, by litre of the
organ; beyond its end a law that is fitted to its last part goes on, and what comes from there is marked. Where healthy
tissue of other people lights up often, a finding is less extreme (`bundle.scoring.rates`). Tables are made of people
who trained nothing, and each set of scans counts alike in them. They are bound to calibration and threshold of the map.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from ..errors import WeightsError
from ..io.files import whole_file
from .healthy_tissue import HealthyScan, HealthyTissue
from .rates import PlaceRates

__all__ = [
    "ODDS",
    "FindingOdds",
    "extremeness",
    "in_words",
    "odds_beside",
    "read_odds",
    "share_of_healthy",
    "write_odds",
]

logger = logging.getLogger(__name__)

ODDS = "odds.json"  # beside the calibration that it is made with
#: Weights, chosen on all sets of scans together: docs/decisions/0015-odds-of-findings.md.
HEIGHT_WEIGHT, DEPTH_WEIGHT, RATE_WEIGHT = 1.0, 2.5, 2.65
DEEP_MM = 12.0
LEAST_EXCESS = 1e-3  # of a voxel that lies at the threshold: a logarithm is taken
POINTS = 61  # of a table
TAIL = 30  # findings, or a third of all if that is less, that the law beyond the table is fitted to
LEAST_IN_ALL = 10  # findings that odds rest on
LITRE = 1000.0  # ml
MOST_SCANS = 10_000  # that words speak of: tables are made of dozens


def extremeness(values: np.ndarray, voxel_ml: float, depth_mm: float, threshold: float) -> float:
    """How extreme a finding is, its place left aside: decimal logarithm of its mass, plus its height, plus up to 2.5
    for its depth.

    The mass is volume times what the map has above the threshold, as cluster mass in neuroimaging (Bullmore et al.
    1999), so that a lone voxel counts by its size. The height is the highest value. Depth counts up to 12 mm, since
    partial volume at the surface lights up in many healthy people.

    Args:
        values: of the map in the finding, not cut off where the table of the map ends.
        voxel_ml: volume of a voxel.
        depth_mm: mean depth of the finding below the surface of the organ.
        threshold: that made the finding.
    """
    values = np.asarray(values, dtype=np.float64)
    mass = (values - threshold).clip(LEAST_EXCESS).sum() * voxel_ml
    return float(np.log10(mass) + HEIGHT_WEIGHT * values.max() + DEPTH_WEIGHT * min(1.0, depth_mm / DEEP_MM))


@dataclass(frozen=True)
class FindingOdds:
    """Findings by litre of healthy tissue that are at least as extreme.

    Attributes:
        tissue: set of scans → what their healthy tissue has.
        threshold: of the map, that made the findings.
        calibration: hash of the calibration of the map.
    """

    tissue: Mapping[str, HealthyTissue] = field(repr=False)
    threshold: float = 2.0
    calibration: str = ""

    def __post_init__(self) -> None:
        found = sum(len(one.extreme) for one in self.tissue.values())
        if found < LEAST_IN_ALL:
            raise ValueError(f"{found} findings of healthy tissue, at least {LEAST_IN_ALL} needed")

    @classmethod
    def fit(cls, scans: Sequence[HealthyScan], threshold: float, calibration: str = "") -> FindingOdds:
        """Those of scans.

        Args:
            scans: of healthy tissue.
            threshold: of the map.
            calibration: hash, to keep with it.

        Raises:
            ValueError: when there are fewer than ten findings in all.
        """
        known = [scan for scan in scans if scan.organ_ml > 0]
        sources = dict.fromkeys(scan.source for scan in known)
        tissue = {name: HealthyTissue.of([scan for scan in known if scan.source == name]) for name in sources}
        return cls(tissue, threshold, calibration)

    def without(self, source: str) -> FindingOdds:
        """The same without a set of scans, for scans of that set; itself where too little is left."""
        others = {name: one for name, one in self.tissue.items() if name != source}
        if len(others) == len(self.tissue) or sum(len(one.extreme) for one in others.values()) < LEAST_IN_ALL:
            return self
        return FindingOdds(others, self.threshold, self.calibration)

    @cached_property
    def without_places(self) -> FindingOdds:
        """The same for scans that do not show a whole brain: no place says anything."""
        bare = {name: HealthyTissue(one.organ_ml, one.scan, one.extreme) for name, one in self.tissue.items()}
        return self if self.rates is None else FindingOdds(bare, self.threshold, self.calibration)

    @cached_property
    def rates(self) -> PlaceRates | None:
        """By place, of all sets that know places; None where fewer than two do: one alone says nothing of others."""
        placed = [(np.asarray(one.volume), np.asarray(one.raised)) for one in self.tissue.values() if len(one.volume)]
        return PlaceRates(placed) if len(placed) > 1 else None

    def adjusted(self, extreme: Sequence[float] | np.ndarray, places: np.ndarray | None) -> np.ndarray:
        """`extremeness` of findings, less where healthy tissue lights up often.

        Args:
            extreme: (findings,).
            places: (findings, 3), of `bundle.scoring.rates.BrainBox`; None where there is no whole brain.
        """
        extreme = np.asarray(extreme, dtype=float)
        if self.rates is None or places is None or not len(extreme):
            return extreme
        return extreme - RATE_WEIGHT * self.rates.decades(places)

    @cached_property
    def _found(self) -> dict[str, np.ndarray]:
        """Set of scans → its findings, adjusted by the rates of the other sets; a rate of one's own would flatter."""
        return {name: self._adjusted_by_others(name) for name in self.tissue}

    def _adjusted_by_others(self, name: str) -> np.ndarray:
        one, others = self.tissue[name], {other: kept for other, kept in self.tissue.items() if other != name}
        placed = [(np.asarray(kept.volume), np.asarray(kept.raised)) for kept in others.values() if len(kept.volume)]
        if self.rates is None or not len(one.places):
            return np.asarray(one.extreme, dtype=float)
        return np.asarray(one.extreme) - RATE_WEIGHT * PlaceRates(placed).decades(np.asarray(one.places))

    @cached_property
    def extreme(self) -> np.ndarray:
        """Points of the table, rising."""
        found = np.sort(np.concatenate(list(self._found.values())))
        return np.unique(np.concatenate([np.quantile(found, np.linspace(0, 1, POINTS)), found[-TAIL:]]))

    @cached_property
    def per_litre(self) -> np.ndarray:
        """Mean over sets of the number of findings that reach each point, by litre; falling."""
        numbers = []
        for name, one in self.tissue.items():
            found = np.sort(self._found[name])
            numbers.append((len(found) - np.searchsorted(found, self.extreme)) / (sum(one.organ_ml) / LITRE))
        return np.mean(numbers, axis=0)

    @cached_property
    def slope(self) -> float:
        """Decades that the number falls by unit of ``extreme`` beyond the last point."""
        return _slope(np.sort(np.concatenate(list(self._found.values()))))

    @cached_property
    def healthy_scores(self) -> tuple[float, ...]:
        """Case scores of these scans, by the odds of the other sets where there are any, rising."""
        scores = []
        for name, one in self.tissue.items():
            others, number = self.without(name), np.asarray(one.scan)
            found = others.adjusted(one.extreme, np.asarray(one.places) if len(one.places) else None)
            for scan, organ_ml in enumerate(one.organ_ml):
                scores.append(others.score(found[number == scan], organ_ml)[0])
        return tuple(sorted(scores))

    def expected(self, extreme: np.ndarray | float, organ_ml: float) -> tuple[np.ndarray, np.ndarray]:
        """Expected number of findings at least as extreme in so much healthy tissue; whether the fitted law says so.

        Args:
            extreme: of findings, `adjusted`, any shape.
            organ_ml: volume of the organ in the scan.

        Returns:
            numbers, and booleans, of the shape of ``extreme``.
        """
        asked, number = np.asarray(extreme, dtype=float), self.per_litre
        if len(number) > 1:
            inside = 10 ** np.interp(asked, self.extreme, np.log10(number))
        else:
            inside = np.broadcast_to(number[0], asked.shape)
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
        return f"a healthy scan has on average {expected:.2g} findings as extreme"
    scans = float(f"{1 / max(share_of_healthy(expected), 1e-12):.2g}")
    if scans > MOST_SCANS:
        return f"fewer than one in {MOST_SCANS:,} healthy scans has one like it, by extrapolation"
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
        known = [_from_file(entry) for entry in entries]
    except FileNotFoundError:
        logger.warning("no odds of findings beside the calibration: all findings are kept. flipmap odds makes them")
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
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
    entries[method] = [asdict(one) for one in odds]
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(entries, separators=(",", ":")) + "\n", encoding="utf-8")


def _from_file(entry: Mapping) -> FindingOdds:
    tissue = {name: HealthyTissue(**one) for name, one in entry["tissue"].items()}
    return FindingOdds(tissue, entry["threshold"], entry["calibration"])


def _slope(found: np.ndarray) -> float:
    """Decades by unit that the number of findings falls in its last part: the maximum likelihood of an exponential law
    (of a power law of the mass: Hill 1975).
    """
    tail = found[-max(2, min(TAIL, len(found) // 3)) :]
    return float(np.log10(np.e) / max(float(np.mean(tail[1:] - tail[0])), 1e-3))
