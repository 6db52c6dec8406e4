# SPDX-License-Identifier: Apache-2.0
"""From a map to a list that a person can go through: where, how large, how rare in healthy people. It is no verdict."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from scipy import ndimage

from ..errors import FlipmapError
from ..transforms.brain_depth import brain_depth
from ..transforms.head import box_of
from .calibration import RARER, Rarer, is_uncalibrated, read_calibration
from .geometry import voxel_millilitres, voxel_sizes
from .odds import FindingOdds, extremeness, read_odds
from .rates import BrainBox
from .where import BrainPlaces, ventricle_points

__all__ = [
    "ALL",
    "ODDS_OF_MAP",
    "FindFindingsd",
    "Finding",
    "RemoveSmalld",
    "SmoothMapd",
    "find_findings",
    "fitting_odds",
    "highest_value",
    "kept",
    "label_findings",
    "voxel_millilitres",
    "voxel_sizes",
]

CORNERS = np.ones((3, 3, 3), bool)  # voxels that touch at a corner belong together
SCORED_ML = 1.0  # of a head
ODDS_OF_MAP = "odds_of_map"  # key of the odds of a map that is not the job's own; None for one that has none
ALL = "all"  # findings are kept, whatever their odds


@dataclass(frozen=True)
class Finding:
    """One connected component of the mask.

    Attributes:
        rank: 1 for the rarest, or, without odds, for the most extreme.
        extreme: see `bundle.scoring.odds.extremeness`; with odds that know places, adjusted by them.
        expected: findings at least as extreme that a healthy scan has on average; None without odds.
        beyond: whether ``expected`` is more extreme than anything in the healthy scans that were counted, so that a
            fitted law says it.
        depth_mm: mean depth below the surface of the organ; None where no organ is known.
        where: side, and what it lies next to (`bundle.scoring.where`); empty where no brain is known.
        volume_ml: of the component.
        peak, mean: of the map within it.
        excess: volume times what the map has above the threshold, ml: large and high come first.
        centre_mm: centre weighted by the map, world coordinates (RAS+), mm.
        peak_mm: where the map is highest, same coordinates.
        extent_mm: size of the box around it along the scan's axes.
        centre_voxel: the voxel of the component nearest to its centre, on the scan's grid.
    """

    rank: int
    extreme: float
    expected: float | None
    beyond: bool
    depth_mm: float | None
    where: str
    volume_ml: float
    peak: float
    mean: float
    excess: float
    centre_mm: tuple[float, float, float]
    peak_mm: tuple[float, float, float]
    extent_mm: tuple[float, float, float]
    centre_voxel: tuple[int, int, int]


def find_findings(
    anomaly: np.ndarray,
    mask: np.ndarray,
    affine: np.ndarray,
    threshold: float,
    organ: np.ndarray | None = None,
    odds: FindingOdds | None = None,
    rarer: Rarer | None = None,
    places: BrainPlaces | None = None,
) -> list[Finding]:
    """The components of a mask, described, the rarest first; without odds the most extreme.

    Args:
        anomaly: calibrated map (X, Y, Z).
        mask: what counts, same shape.
        affine: voxel → world (RAS+), 4 x 4, mm.
        threshold: that made the mask, in units of the map.
        organ: its mask, same shape.
        odds: of findings of healthy tissue; they need ``organ``.
        rarer: what the map says beyond the end of its table.
        places: names where findings lie.
    """
    if not np.asarray(mask).any():
        return []
    whole = box_of(np.asarray(mask) > 0)
    labels, count = ndimage.label(mask[whole], structure=CORNERS)
    heights = (anomaly if rarer is None else rarer.lay_over(anomaly))[whole]
    depth, first = None if organ is None else CoarseDepth(organ, affine), np.array([axis.start for axis in whole])
    described = [
        _describe(anomaly[whole], heights, labels, number, box, first, affine, threshold, depth)
        for number, box in enumerate(ndimage.find_objects(labels, count), 1)
    ]
    odds = fitting_odds(odds, organ, affine)
    if odds is not None and odds.rates is not None and organ is not None:
        _take_place_into_account(described, odds, BrainBox(organ, affine))
    described.sort(key=lambda item: (-item["extreme"], item["centre_voxel"]))
    organ_ml = 0.0 if organ is None else float(np.count_nonzero(organ)) * voxel_millilitres(affine)
    expected, beyond = (
        (None, None)
        if odds is None or not organ_ml
        else odds.expected(np.array([item["extreme"] for item in described]), organ_ml)
    )
    return [
        Finding(
            rank=rank,
            expected=None if expected is None else float(f"{expected[rank - 1]:.3g}"),
            beyond=False if beyond is None else bool(beyond[rank - 1]),
            where="" if places is None else places.name(np.array(item["centre_mm"]), item["depth_mm"] or 0.0),
            **item,
        )
        for rank, item in enumerate(described, 1)
    ]


def fitting_odds(odds: FindingOdds | None, organ: np.ndarray | None, affine: np.ndarray) -> FindingOdds | None:
    """The odds that a scan can be held against: those without places where it does not show a whole brain."""
    if odds is None or odds.rates is None or (organ is not None and BrainBox(organ, affine).whole):
        return odds
    return odds.without_places


def _take_place_into_account(described: Sequence[dict], odds: FindingOdds, box: BrainBox) -> None:
    """A finding is less extreme where healthy tissue lights up often."""
    adjusted = odds.adjusted(
        [item["extreme"] for item in described], box.at_mm([item["centre_mm"] for item in described])
    )
    for item, extreme in zip(described, adjusted, strict=True):
        item["extreme"] = round(float(extreme), 4)


class CoarseDepth:
    """How deep in an organ voxels lie, in three dimensions, on a grid of some 2.5 mm: quick, and fine enough.

    Args:
        organ: its mask (X, Y, Z).
        affine: 4 x 4, mm.
    """

    STEP_MM = 2.5

    def __init__(self, organ: np.ndarray, affine: np.ndarray) -> None:
        spacing = voxel_sizes(affine)
        self.step = np.maximum(np.round(self.STEP_MM / spacing), 1).astype(int)
        x, y, z = self.step
        # A frame of nothing around it: an organ that the field of view cuts off ends there.
        framed = np.pad(np.asarray(organ)[::x, ::y, ::z] > 0, 1)
        self.depth = ndimage.distance_transform_edt(framed, sampling=spacing * self.step)[1:-1, 1:-1, 1:-1]

    def mean(self, voxels: np.ndarray) -> float:
        """Of voxels (N, 3), mm."""
        places = np.minimum(voxels // self.step, np.array(self.depth.shape) - 1)
        return float(self.depth[tuple(places.T)].mean())


def _describe(
    anomaly: np.ndarray,
    heights: np.ndarray,
    labels: np.ndarray,
    number: int,
    box: tuple[slice, ...],
    first: np.ndarray,
    affine: np.ndarray,
    threshold: float,
    depth: CoarseDepth | None,
) -> dict:
    """One component, looked at within its ``box``, of a part of the volume that begins at ``first``."""
    inside, voxel_ml = labels[box] == number, voxel_millilitres(affine)
    voxels = np.argwhere(inside) + first + [axis.start for axis in box]
    values = anomaly[box][inside].astype(np.float64)
    weights = np.maximum(values, 1e-6)
    centre = (voxels * weights[:, None]).sum(0) / weights.sum()
    nearest = voxels[((voxels - centre) ** 2).sum(1).argmin()]
    deep = None if depth is None else depth.mean(voxels)
    return {
        "extreme": round(extremeness(heights[box][inside], voxel_ml, deep or 0.0, threshold), 4),
        "depth_mm": None if deep is None else round(deep, 2),
        "volume_ml": _significant(len(values) * voxel_ml),
        "peak": round(float(values.max()), 3),
        "mean": round(float(values.mean()), 3),
        "excess": _significant((values - threshold).clip(0).sum() * voxel_ml),
        "centre_mm": _world(affine, centre),
        "peak_mm": _world(affine, voxels[values.argmax()]),
        "extent_mm": tuple(round(float(e), 3) for e in np.array(inside.shape) * voxel_sizes(affine)),
        "centre_voxel": tuple(int(i) for i in nearest),
    }


def kept(findings: Sequence[Finding], most: float | str) -> list[Finding]:
    """The findings that a person is shown.

    Args:
        findings: of a scan.
        most: false ones that a healthy scan may have on average; `ALL` keeps all, and so do findings without odds.
    """
    if str(most).lower() == ALL:
        return list(findings)
    return [one for one in findings if one.expected is None or one.expected <= float(most)]


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


def highest_value(anomaly: np.ndarray, affine: np.ndarray, scored_ml: float = SCORED_ML) -> float:
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
    """Add the findings of a map as a dictionary that goes into JSON as it is; the mask becomes that of the kept ones.

    Args:
        keys: the one key of the map (1, X, Y, Z), on the scan's own grid.
        mask_key: its mask.
        threshold: that made the mask.
        findings_key: where they go.
        region_key: mask of the organ on the same grid, which odds are for.
        scored_ml: the volume whose lowest value is ``highest_value``.
        method: name of the method, whose odds are asked.
        odds: file of the odds; where it is missing, or made with another calibration or threshold, findings have none,
            and all of them are kept.
        calibration: file of the calibration of the map.
        false_findings: see `kept`.
        places: say where in the brain each finding lies.
        bright_fluid: whether the contrast shows fluid bright.
        image_key: the scan, in which ventricles are looked for.
        units_key, end_key: where `bundle.scoring.calibration.Calibrated` has left units and end of the table; a peak
            that is equal to the end is at least that.
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
        odds: str | Path | None = None,
        calibration: str | Path | None = None,
        false_findings: float | str = 1.0,
        places: bool = False,
        bright_fluid: bool = False,
        image_key: str = "image",
        units_key: str = "units",
        end_key: str = "table_end",
    ) -> None:
        super().__init__(keys)
        self.units_key, self.end_key = units_key, end_key
        self.places, self.bright_fluid, self.image_key = places, bright_fluid, image_key
        self.threshold, self.mask_key, self.findings_key = float(threshold), mask_key, findings_key
        self.region_key, self.scored_ml, self.method = region_key, scored_ml, method
        self.false_findings = check_false_findings(false_findings)
        self.odds = None
        if odds is not None and calibration is not None and not is_uncalibrated(calibration):
            self.odds = read_odds(odds, method, read_calibration(calibration, method).hash, self.threshold)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        d = dict(data)
        for key in self.key_iterator(d):
            anomaly, mask = (d[k].cpu().numpy()[0] for k in (key, self.mask_key))
            affine = np.asarray(d[key].affine.cpu(), dtype=float)
            organ = d[self.region_key].cpu().numpy()[0] > 0 if self.region_key in d else None
            odds = fitting_odds(d.get(ODDS_OF_MAP, self.odds), organ, affine)
            places = self._places(d, organ, affine)
            every = find_findings(anomaly, mask > 0, affine, self.threshold, organ, odds, d.get(RARER), places)
            findings = kept(every, self.false_findings)
            if len(findings) < len(every):
                shown = label_findings(mask, [asdict(one) for one in findings]) > 0
                values = torch.from_numpy(shown[None]).to(d[self.mask_key].dtype)
                d[self.mask_key] = MetaTensor(values, meta=d[self.mask_key].meta)
            organ_ml = 0.0 if organ is None else float(organ.sum()) * voxel_millilitres(affine)
            d[self.findings_key] = {
                "units": d.get(self.units_key, ""),
                **({"table_end": round(d[self.end_key], 3)} if self.end_key in d else {}),
                "world": "RAS+, mm",
                "method": self.method,
                "threshold": self.threshold,
                "false_findings": self.false_findings if odds else ALL,
                **_scored(every, odds, organ_ml),
                "highest_value": highest_value(anomaly, affine, self.scored_ml),
                "anomalous_ml": _significant(sum(one.volume_ml for one in findings)),
                **({} if organ is None else {f"{self.region_key}_ml": _significant(organ_ml)}),
                "left_out": len(every) - len(findings),
                "findings": [asdict(finding) for finding in findings],
            }
        return d

    def _places(self, data: Mapping[Hashable, Any], organ: np.ndarray | None, affine: np.ndarray) -> BrainPlaces | None:
        """Of a brain; its ventricles are looked for where the scan has come with its depth (`BrainDepthd`)."""
        if organ is None or not self.places:
            return None
        image, fluid = data.get(self.image_key), None
        if image is not None and (depth := brain_depth(image)) is not None:
            where = np.asarray(image.affine.cpu(), dtype=float)
            fluid = ventricle_points(image.cpu().numpy()[0], depth[0], where, self.bright_fluid)
        return BrainPlaces(organ, affine, fluid)


def _scored(findings: Sequence[Finding], odds: FindingOdds | None, organ_ml: float) -> dict:
    """The case score; None where there are no odds."""
    if odds is None:
        return {"case_score": None}
    score, beyond = odds.score([one.extreme for one in findings], organ_ml)
    return {"case_score": round(score, 3), "case_score_beyond": beyond}


def check_false_findings(most: float | str) -> float | str:
    """A number above 0, or `ALL`.

    Raises:
        FlipmapError: when it is neither.
    """
    if str(most).lower() == ALL:
        return ALL
    try:
        number = float(most)
    except ValueError:
        number = float("nan")
    if not number > 0:
        raise FlipmapError(f"false_findings {most}", "no number above 0", f"Give 1, 0.1 or {ALL}, for instance")
    return number
