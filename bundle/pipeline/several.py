# SPDX-License-Identifier: Apache-2.0
"""Several contrasts of one head: one map of all their maps, on the grid of the first, calibrated.

Which contrasts, and what share each has, stands in configs/several.json; the shares were chosen on validation patients
(docs/contrasts.md).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..errors import ScanError, WeightsError
from ..model_files import model_file
from ..paths import bundle_root
from ..scoring.calibration import Calibration, Rarer, read_calibration
from ..scoring.odds import FindingOdds, odds_beside, read_odds
from ..transforms.rigid import Volume, onto, register_rigid

__all__ = ["CONFIG", "MapOfContrast", "Several", "fused_scores", "read_shares"]

CONFIG = "configs/several.json"
NEAR = 1e-4  # of affines, below which two grids are one


@dataclass(frozen=True)
class MapOfContrast:
    """A scan and its calibrated map, on its own grid.

    Attributes:
        scan, anomaly: (X, Y, Z).
        brain: bool, same shape.
        affine: voxel → world (RAS+), 4 x 4, mm.
        name: for messages.
    """

    scan: np.ndarray
    anomaly: np.ndarray
    brain: np.ndarray
    affine: np.ndarray
    name: str

    @property
    def volume(self) -> Volume:
        """For the registration."""
        return Volume(self.scan, self.affine, self.brain, self.name)


def read_shares(models_dir: str | Path | None = None) -> tuple[dict[str, float], Path]:
    """Contrast → its share, the one whose grid is taken first; and the calibration file.

    Args:
        models_dir: folder of weights and calibrations of one's own (`bundle.model_files`).

    Raises:
        WeightsError: when the file cannot be read.
    """
    path = Path(bundle_root()) / CONFIG
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        shares = {str(key): float(value) for key, value in said["shares"].items()}
        return shares, Path(model_file(models_dir, bundle_root(), said["tables"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(path, f"cannot be read ({error})", "Take the file that came with flipmap") from error


class Several:
    """The map of several contrasts.

    Args:
        calibrations: contrast → hash of the calibration of its own map (`Job.calibration_hash`).
        models_dir: see `read_shares`.

    Raises:
        WeightsError: when there is no calibration, or one of other shares or other maps.
    """

    def __init__(self, calibrations: Mapping[str, str], models_dir: str | Path | None = None) -> None:
        self.shares, self.tables = read_shares(models_dir)
        self.calibration: Calibration = read_calibration(
            self.tables, self.name, made_with=self.made_with(self.shares, calibrations)
        )

    @staticmethod
    def made_with(shares: Mapping[str, float], calibrations: Mapping[str, str]) -> dict[str, str | float]:
        """What a calibration holds for."""
        said: dict[str, str | float] = {f"shares.{contrast}": share for contrast, share in shares.items()}
        return said | {f"calibration.{contrast}": calibrations.get(contrast, "none") for contrast in shares}

    def odds(self, threshold: float) -> FindingOdds | None:
        """Of the findings of its map; None where there are none for its calibration and the threshold."""
        return read_odds(odds_beside(self.tables), self.name, self.calibration.hash, threshold)

    @property
    def contrasts(self) -> tuple[str, ...]:
        """The one whose grid is taken first."""
        return tuple(self.shares)

    @property
    def name(self) -> str:
        """Of its contrasts, FLAIR+T1w for instance."""
        return "+".join(self.shares)

    @property
    def fingerprint(self) -> str:
        """Of all that its map depends on beside those of its contrasts."""
        said = [self.shares, asdict(self.calibration)]
        odds = odds_beside(self.tables)
        digest = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode())
        digest.update(odds.read_bytes() if odds.exists() else b"")
        return digest.hexdigest()

    def __call__(self, maps: Mapping[str, MapOfContrast]) -> tuple[np.ndarray, np.ndarray]:
        """The map (X, Y, Z) on the grid of the first contrast, calibrated, and the brain.

        Args:
            maps: of each contrast.

        Raises:
            ScanError: when two of them do not come to lie over each other.
        """
        anomaly, brain, _ = self.with_rarer(maps)
        return anomaly, brain

    def with_rarer(self, maps: Mapping[str, MapOfContrast]) -> tuple[np.ndarray, np.ndarray, Rarer]:
        """The same, and what the map says beyond the end of its table."""
        raw, brain = fused_scores(maps, self.shares)
        open_ended = np.where(brain, self.calibration(raw, capped=False), 0).astype(np.float32)
        voxels = np.flatnonzero(open_ended > self.calibration.end)
        anomaly = np.minimum(open_ended, np.float32(self.calibration.end))
        return anomaly, brain, Rarer(voxels, open_ended.reshape(-1)[voxels])


def fused_scores(maps: Mapping[str, MapOfContrast], shares: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """The mean of calibrated maps by their shares, on the grid of the first; where a scan does not show the brain, of
    the others.

    Args:
        maps: of each contrast in ``shares``.
        shares: contrast → share; the one whose grid is taken first.

    Returns:
        raw scores (X, Y, Z), and the brain of the first.

    Raises:
        ScanError: when a contrast is missing, or does not come to lie over the first.
    """
    first, *others = shares
    if missing := [contrast for contrast in shares if contrast not in maps]:
        raise ScanError(maps[first].name, f"no scan of {', '.join(missing)}", "Give all contrasts of the head")
    base = maps[first]
    total = shares[first] * base.anomaly.astype(np.float64)
    weight = np.full(total.shape, shares[first])
    for contrast in others:
        anomaly, seen = _on(base, maps[contrast])
        total += shares[contrast] * anomaly
        weight += shares[contrast] * seen
    return np.where(base.brain, total / weight, 0).astype(np.float32), base.brain


def _on(base: MapOfContrast, other: MapOfContrast) -> tuple[np.ndarray, np.ndarray]:
    """Another map on the grid of the first, and where its brain is."""
    same = base.scan.shape == other.scan.shape and np.allclose(base.affine, other.affine, atol=NEAR)
    if same:  # brought into one space by whoever made them
        return other.anomaly * other.brain, other.brain.astype(np.float32)
    transform = register_rigid(base.volume, other.volume)
    anomaly, brain = (
        onto(values.astype(np.float32), other.affine, transform, base.affine, base.scan.shape)
        for values in (other.anomaly * other.brain, other.brain)
    )
    seen = brain > 0.5
    return np.where(seen, anomaly, 0), seen.astype(np.float32)
