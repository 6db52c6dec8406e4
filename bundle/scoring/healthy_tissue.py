# SPDX-License-Identifier: Apache-2.0
"""What healthy tissue has in findings, scan by scan and by sets of scans: what odds of findings are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .rates import CELLS

__all__ = ["HealthyScan", "HealthyTissue"]


@dataclass(frozen=True)
class HealthyScan:
    """Findings of healthy tissue of one scan.

    Attributes:
        extreme: `bundle.scoring.odds.extremeness` of each, (findings,).
        organ_ml: volume of the healthy tissue that was looked at.
        source: the set of scans that it is of; sets count alike.
        places: of the findings in the box around the brain (`bundle.scoring.rates.BrainBox`), (findings, 3); None where
            there is no whole brain.
        volume, raised: healthy tissue in each cell of that box, and how much of it is at the threshold or above, ml.
    """

    extreme: np.ndarray
    organ_ml: float
    source: str = ""
    places: np.ndarray | None = None
    volume: np.ndarray | None = None
    raised: np.ndarray | None = None


@dataclass(frozen=True)
class HealthyTissue:
    """What one set of scans has in findings of healthy tissue.

    Attributes:
        organ_ml: of each scan.
        scan: of each finding, which scan it is in.
        extreme: `extremeness` of each finding.
        places: of each finding in the box around the brain; empty where a scan of the set has no whole brain.
        volume, raised: see `HealthyScan`, sums over scans; empty likewise.
    """

    organ_ml: Sequence[float]
    scan: Sequence[int]
    extreme: Sequence[float]
    places: Sequence[Sequence[float]] = field(default_factory=list)
    volume: Sequence[float] = field(default_factory=list)
    raised: Sequence[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not len(self.organ_ml) or not min(self.organ_ml) > 0:
            raise ValueError("healthy tissue of no volume")
        if len(self.scan) != len(self.extreme) or not set(self.scan) <= set(range(len(self.organ_ml))):
            raise ValueError(f"{len(self.scan)} scans for {len(self.extreme)} findings")
        if not np.isfinite(np.asarray(self.extreme, float)).all():
            raise ValueError("findings that are not finite")
        if self.volume and not (len(self.volume) == len(self.raised) == CELLS and len(self.places) == len(self.scan)):
            raise ValueError("places that do not fit the findings")

    @classmethod
    def of(cls, scans: Sequence[HealthyScan]) -> HealthyTissue:
        """That of a set of scans."""
        number = np.repeat(np.arange(len(scans)), [len(scan.extreme) for scan in scans]).tolist()
        extreme = np.round(np.concatenate([scan.extreme for scan in scans]), 3).tolist()
        organ_ml = _three_digits([scan.organ_ml for scan in scans])
        placed = [(s.places, s.volume, s.raised) for s in scans if s.places is not None and s.volume is not None]
        if len(placed) < len(scans):
            return cls(organ_ml, number, extreme)
        places, volume, raised = zip(*placed, strict=True)
        sums = (_three_digits(np.sum(cells, axis=0)) for cells in (volume, raised))
        return cls(organ_ml, number, extreme, np.round(np.concatenate(places), 3).tolist(), *sums)


def _three_digits(values: Sequence[float] | np.ndarray) -> list[float]:
    return [float(f"{value:.3g}") or 0 for value in values]  # a short zero: most cells have nothing
