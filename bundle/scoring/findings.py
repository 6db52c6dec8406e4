# SPDX-License-Identifier: Apache-2.0
"""From a map to a list that a person can go through: where, how large, how unusual. No verdict is given."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from scipy import ndimage

from ..transforms.head import box_of

__all__ = [
    "FindFindingsd",
    "Finding",
    "RemoveSmalld",
    "SmoothMapd",
    "case_score",
    "find_findings",
    "label_findings",
    "voxel_millilitres",
    "voxel_sizes",
]

CORNERS = np.ones((3, 3, 3), bool)  # voxels that touch at a corner belong together
SCORED_ML = 1.0  # of a head


@dataclass(frozen=True)
class Finding:
    """One connected component of the mask.

    Attributes:
        rank: 1 for the largest ``excess``.
        volume_ml: of the component.
        peak, mean: of the map within it.
        excess: volume times what the map has above the threshold, ml: large and high come first.
        centre_mm: centre weighted by the map, world coordinates (RAS+), mm.
        peak_mm: where the map is highest, same coordinates.
        extent_mm: size of the box around it along the scan's axes.
        centre_voxel: the voxel of the component nearest to its centre, on the scan's grid.
    """

    rank: int
    volume_ml: float
    peak: float
    mean: float
    excess: float
    centre_mm: tuple[float, float, float]
    peak_mm: tuple[float, float, float]
    extent_mm: tuple[float, float, float]
    centre_voxel: tuple[int, int, int]


def voxel_sizes(affine: np.ndarray) -> np.ndarray:
    """Lengths of the voxel's edges, mm, from a 4 x 4 affine; shears and rotations allowed."""
    return np.linalg.norm(np.asarray(affine, dtype=float)[:3, :3], axis=0)


def voxel_millilitres(affine: np.ndarray) -> float:
    """Volume of a voxel, ml, from a 4 x 4 affine in mm; sheared or not."""
    return float(abs(np.linalg.det(np.asarray(affine, dtype=float)[:3, :3]))) / 1000


def find_findings(anomaly: np.ndarray, mask: np.ndarray, affine: np.ndarray, threshold: float) -> list[Finding]:
    """The components of a mask, described, the largest excess first.

    Args:
        anomaly: calibrated map (X, Y, Z).
        mask: what counts, same shape.
        affine: voxel → world (RAS+), 4 x 4, mm.
        threshold: that made the mask, in units of the map.
    """
    if not np.asarray(mask).any():
        return []
    whole = box_of(np.asarray(mask) > 0)
    labels, count = ndimage.label(mask[whole], structure=CORNERS)
    voxel_ml, first = voxel_millilitres(affine), np.array([axis.start for axis in whole])
    described = [
        _describe(anomaly[whole], labels, number + 1, box, first, affine, voxel_ml, threshold)
        for number, box in enumerate(ndimage.find_objects(labels, count))
    ]
    described.sort(key=lambda item: (-item["excess"], item["centre_voxel"]))
    return [Finding(rank=rank, **item) for rank, item in enumerate(described, 1)]


def _describe(
    anomaly: np.ndarray,
    labels: np.ndarray,
    number: int,
    box: tuple[slice, ...],
    first: np.ndarray,
    affine: np.ndarray,
    voxel_ml: float,
    threshold: float,
) -> dict:
    """One component, looked at within its ``box``, of a part of the volume that begins at ``first``."""
    inside = labels[box] == number
    voxels = np.argwhere(inside) + first + [axis.start for axis in box]
    values = anomaly[box][inside].astype(np.float64)
    weights = np.maximum(values, 1e-6)
    centre = (voxels * weights[:, None]).sum(0) / weights.sum()
    nearest = voxels[((voxels - centre) ** 2).sum(1).argmin()]
    return {
        "volume_ml": _significant(len(values) * voxel_ml),
        "peak": round(float(values.max()), 3),
        "mean": round(float(values.mean()), 3),
        "excess": _significant((values - threshold).clip(0).sum() * voxel_ml),
        "centre_mm": _world(affine, centre),
        "peak_mm": _world(affine, voxels[values.argmax()]),
        "extent_mm": tuple(round(float(e), 3) for e in np.array(inside.shape) * voxel_sizes(affine)),
        "centre_voxel": tuple(int(i) for i in nearest),
    }


def label_findings(mask: np.ndarray, findings: Sequence[Mapping]) -> np.ndarray:
    """Ranks of findings, voxel by voxel, 0 where there is none.

    Args:
        mask: that the findings are the components of, (X, Y, Z).
        findings: with ``rank`` and ``centre_voxel``, which lies within.
    """
    labels, count = ndimage.label(np.asarray(mask) > 0, structure=CORNERS)
    ranks = np.zeros(count + 1, np.int32)
    for one in findings:
        ranks[labels[tuple(one["centre_voxel"])]] = one["rank"]
    ranks[0] = 0
    return ranks[labels]


def _significant(value: float) -> float:
    """Five digits: a head's findings are millilitres, a retina's are microlitres."""
    return float(f"{float(value):.5g}")


def _world(affine: np.ndarray, voxel: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (round(float(c), 3) for c in (np.asarray(affine, dtype=float) @ [*voxel, 1.0])[:3])
    return x, y, z


def case_score(anomaly: np.ndarray, affine: np.ndarray, scored_ml: float = SCORED_ML) -> float:
    """The highest value that a volume of the scan reaches: the same whatever the voxel size, deaf to lone voxels.

    Args:
        anomaly: calibrated map (X, Y, Z).
        affine: 4 x 4, mm.
        scored_ml: the volume.
    """
    voxels = max(1, round(scored_ml / voxel_millilitres(affine)))
    flat = np.asarray(anomaly, dtype=np.float32).ravel()
    if voxels >= flat.size:
        return round(float(flat.min()), 3)
    # Most of a map is 0, and picking out of so many equals is slow.
    positive = flat[flat > 0]
    return round(float(np.partition(positive, -voxels)[-voxels]), 3) if voxels <= positive.size else 0.0


class SmoothMapd(MapTransform):
    """Gaussian smoothing of maps (1, X, Y, Z) in three dimensions, by millimetres.

    Args:
        keys: keys of maps.
        sigma_mm: of the Gaussian; 0 leaves the map as it is.
    """

    def __init__(self, keys: KeysCollection, sigma_mm: float = 0.0) -> None:
        super().__init__(keys)
        self.sigma_mm = sigma_mm

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        d = dict(data)
        for key in self.key_iterator(d):
            if self.sigma_mm > 0:
                sigma = self.sigma_mm / voxel_sizes(d[key].affine.numpy())
                smooth = ndimage.gaussian_filter(d[key].cpu().numpy(), [0, *sigma])
                d[key] = MetaTensor(torch.from_numpy(smooth), meta=d[key].meta)
        return d


class RemoveSmalld(MapTransform):
    """Take components of less than a volume out of masks (1, X, Y, Z).

    Args:
        keys: keys of masks.
        min_ml: least volume that stays, ml; 0 leaves the mask as it is.
    """

    def __init__(self, keys: KeysCollection, min_ml: float = 0.0) -> None:
        super().__init__(keys)
        self.min_ml = min_ml

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        d = dict(data)
        for key in self.key_iterator(d):
            if self.min_ml > 0:
                voxel_ml = voxel_millilitres(d[key].affine.numpy())
                labels, _ = ndimage.label(d[key][0].cpu().numpy(), structure=CORNERS)
                large = np.bincount(labels.ravel()) * voxel_ml >= self.min_ml
                large[0] = False
                kept = torch.from_numpy(large[labels][None]).to(d[key].dtype)
                d[key] = MetaTensor(kept, meta=d[key].meta)
        return d


class FindFindingsd(MapTransform):
    """Add the findings of a map as a dictionary that goes into JSON as it is.

    Args:
        keys: the one key of the map (1, X, Y, Z), on the scan's own grid.
        mask_key: its mask.
        threshold: that made the mask.
        findings_key: where they go.
        region_key: mask of the organ on the same grid, whose volume is told when it is there.
        scored_ml: the volume whose lowest value is the score of the case.
        method: name of the method, told too.
        units_key, end_key: where `bundle.scoring.calibration.Calibrated` has left units and end of the table; a peak
            or case score that is equal to the end is at least that.
    """

    def __init__(
        self,
        keys: KeysCollection,
        threshold: float,
        mask_key: str = "mask",
        findings_key: str = "findings",
        region_key: str = "brain",
        scored_ml: float = SCORED_ML,
        method: str = "",
        units_key: str = "units",
        end_key: str = "table_end",
    ) -> None:
        super().__init__(keys)
        self.units_key, self.end_key = units_key, end_key
        self.threshold, self.mask_key, self.findings_key = threshold, mask_key, findings_key
        self.region_key, self.scored_ml, self.method = region_key, scored_ml, method

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        d = dict(data)
        for key in self.key_iterator(d):
            anomaly, mask = (d[k].cpu().numpy()[0] for k in (key, self.mask_key))
            affine = np.asarray(d[key].affine.cpu(), dtype=float)
            findings = find_findings(anomaly, mask > 0, affine, self.threshold)
            voxel_ml = voxel_millilitres(affine)
            d[self.findings_key] = {
                "units": d.get(self.units_key, ""),
                **({"table_end": round(d[self.end_key], 3)} if self.end_key in d else {}),
                "world": "RAS+, mm",
                "method": self.method,
                "threshold": self.threshold,
                "case_score": case_score(anomaly, affine, self.scored_ml),
                "anomalous_ml": _significant((mask > 0).sum() * voxel_ml),
                **(
                    {f"{self.region_key}_ml": float(f"{float((d[self.region_key] > 0).sum()) * voxel_ml:.5g}")}
                    if self.region_key in d
                    else {}
                ),
                "findings": [asdict(finding) for finding in findings],
            }
        return d
