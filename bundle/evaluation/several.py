# SPDX-License-Identifier: Apache-2.0
"""Several contrasts of one head: which share each has, the calibration of their map, and how good it is.

Shares are chosen on people of several places, the calibration is made of validation patients' lesion-free slices, and
the table is of test patients.
"""

from __future__ import annotations

import csv
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from monai.data import MetaTensor

from ..errors import DatasetError
from ..io.files import whole_file
from ..io.nifti import read_scan
from ..modalities import DEFAULT, MODALITIES
from ..model_files import made_models_dir, own_file, refuse_shipped
from ..pipeline.job import Job
from ..pipeline.several import MapOfContrast, Several, fused_scores, read_shares
from ..scoring.calibration import RARER, Calibration, write_calibration
from ..scoring.findings import find_findings, fitting_odds, label_findings
from ..scoring.geometry import voxel_millilitres
from ..scoring.healthy_tissue import HealthyScan
from ..scoring.odds import FindingOdds, odds_beside, write_odds
from ..transforms.head import free_slices
from ..transforms.mri import to_axial
from .calibrate import PERCENTILE, rates_left_out
from .healthy_findings import THRESHOLDS, healthy_scan
from .lesion_wise import LesionWise, scan_figures
from .metrics import Pooled
from .untrained import Scans

__all__ = ["calibrate_several", "choose_shares", "evaluate_several", "odds_of_several"]

logger = logging.getLogger(__name__)


class Place(NamedTuple):
    """A data set whose people have several contrasts, and which parts of its split take part in what.

    Attributes:
        odds: parts whose healthy tissue makes the odds of findings.
        slices_alone: only slices without lesion are healthy.
    """

    folder: str
    split: str
    chooses: tuple[str, ...]
    calibrates: tuple[str, ...]
    evaluates: tuple[str, ...]
    odds: tuple[str, ...]
    slices_alone: bool = False


PLACES = (
    Place("brain_lgg", "lgg_flair", ("validation",), ("validation",), ("test",), ("validation",), slices_alone=True),
    Place("brain_wml10", "small_lesions", ("training", "test"), (), ("test",), ("test",)),
)
STEP = 0.05  # of the shares that are tried
THRESHOLD = 2.0  # of the findings that are evaluated: the default
FINDINGS = ("findings", "true", "lesions_hit", "lesions_hit_of_any", "isles_f1")
MOST = 0.5  # of a contrast beside the first
LOSS = 0.02  # of the mean over scans that no place may lose


class Head(NamedTuple):
    """One head: its maps, and where it is ill; arrays (X, Y, Z) on the grid of the first contrast."""

    place: str
    maps: Mapping[str, MapOfContrast]
    lesion: np.ndarray
    free: np.ndarray


@dataclass(frozen=True)
class Measured:
    """Scores and lesions of the brain voxels of one place's heads."""

    scores: Sequence[np.ndarray]
    lesions: Sequence[np.ndarray]

    def figures(self) -> tuple[float, float]:
        """AUPRC, pooled over voxels, and the mean over scans."""
        ill = [(s, m) for s, m in zip(self.scores, self.lesions, strict=True) if m.any()]
        each = [Pooled.of([s], [m]).figures()["auprc"] for s, m in ill]
        return float(Pooled.of(*map(list, zip(*ill, strict=True))).figures()["auprc"]), float(np.mean(each))


def choose_shares(data: Path, output: Path, models_dir: Path | None = None) -> dict[str, float]:
    """Try shares, write a row a set of them, and say the best: the highest mean over places of log(AUPRC / AUPRC of the
    first contrast alone), pooled and by scans together, that loses no more than `LOSS` at any place.

    Args:
        data: folder of the sets.
        output: table to write, CSV.
        models_dir: see `calibrate_several`.

    Returns:
        contrast → share.
    """
    contrasts = list(read_shares(models_dir)[0])
    heads = list(_heads(data, contrasts, [one.chooses for one in PLACES], models_dir))
    alone = {place: _measured(heads, place, {contrasts[0]: 1.0}).figures() for place in _places(heads)}
    rows, best, highest = [], {contrasts[0]: 1.0}, 0.0
    for others in itertools.product(np.arange(0, MOST + STEP / 2, STEP), repeat=len(contrasts) - 1):
        if sum(others) > MOST + STEP / 2:
            continue
        shares = {contrasts[0]: 1 - sum(others), **dict(zip(contrasts[1:], others, strict=True))}
        shares = {contrast: round(float(share), 4) for contrast, share in shares.items()}
        row, gains, allowed = {f"share_{key}": value for key, value in shares.items()}, [], True
        for place, before in alone.items():
            now = _measured(heads, place, shares).figures()
            row |= {f"{place}_pooled": round(now[0], 4), f"{place}_mean": round(now[1], 4)}
            gains += [np.log(one / base) for one, base in zip(now, before, strict=True)]
            allowed &= now[1] >= before[1] - LOSS
        row["gain"] = round(float(np.mean(gains)), 4)
        rows.append(row)
        logger.info("%s", row)
        if allowed and row["gain"] > highest:
            best, highest = shares, row["gain"]
    _write(output, rows)
    return best


def calibrate_several(data: Path, models_dir: Path | None = None, overwrite: bool = False) -> Path:
    """Calibrate the map of the shares in configs/several.json on lesion-free slices; returns the file.

    Args:
        data: folder of the sets.
        models_dir: folder of weights and calibrations of one's own, which gets it (`bundle.model_files`).
        overwrite: replace the calibration that ships.

    Raises:
        OutputError: when it would replace that, and was not to.
    """
    shares, path = read_shares(models_dir if models_dir and models_dir.is_dir() else None)
    if models_dir:
        path = own_file(made_models_dir(models_dir), path)
    refuse_shipped(path, overwrite)
    healthy = []
    for head in _heads(data, list(shares), [one.calibrates for one in PLACES], models_dir):
        raw, brain = fused_scores(head.maps, shares)
        healthy.append(raw[brain & head.free])
    made_with = Several.made_with(
        shares, {contrast: _job(contrast, models_dir).calibration_hash for contrast in shares}
    )
    calibration = Calibration.fit(healthy, made_with=made_with, percentile=PERCENTILE)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_calibration(path, "+".join(shares), calibration)
    for number, rates in enumerate(rates_left_out(healthy, PERCENTILE), 1):
        logger.info("  without patient %d: there %s", number, {rate: round(got, 5) for rate, got in rates.items()})
    return path


def odds_of_several(data: Path, models_dir: Path | None = None, overwrite: bool = False) -> Path:
    """Make the odds of the findings of the map of several contrasts; returns the file.

    Args:
        data: folder of the sets.
        models_dir, overwrite: see `calibrate_several`.

    Raises:
        OutputError: when they would replace those that ship, and were not to.
        DatasetError: when there is nobody, or too little healthy tissue.
    """
    shares, _ = read_shares(models_dir)
    several = Several({contrast: _job(contrast, models_dir).calibration_hash for contrast in shares}, models_dir)
    path = odds_beside(several.tables)
    path = own_file(made_models_dir(models_dir), path) if models_dir else path
    refuse_shipped(path, overwrite)
    alone = {place.folder: place.slices_alone for place in PLACES}
    scans: dict[float, list[HealthyScan]] = {threshold: [] for threshold in THRESHOLDS}
    for head in _heads(data, list(shares), [one.odds for one in PLACES], models_dir):
        anomaly, brain, rarer = several.with_rarer(head.maps)
        affine = torch.as_tensor(next(iter(head.maps.values())).affine)
        made = {
            key: MetaTensor(torch.as_tensor(v[None]), affine=affine) for key, v in (("pred", anomaly), ("brain", brain))
        }
        for threshold, known in scans.items():
            item = {**made, RARER: rarer}
            known.append(healthy_scan(item, "brain", threshold, head.lesion, head.place, alone[head.place]))
    try:
        odds = [FindingOdds.fit(known, threshold, several.calibration.hash) for threshold, known in scans.items()]
    except ValueError as error:
        raise DatasetError(data, str(error), "Give more scans") from error
    write_odds(path, several.name, odds)
    return path


def evaluate_several(data: Path, output: Path, models_dir: Path | None = None) -> list[dict]:
    """AUPRC and the rates of healthy voxels of each contrast and of their map, on test patients; of their map, the
    findings that are kept by the odds of the other places (`bundle.evaluation.lesion_wise`). A CSV.

    Args:
        data: folder of the sets.
        output: table to write.
        models_dir: see `calibrate_several`.
    """
    shares, _ = read_shares(models_dir)
    several = Several({contrast: _job(contrast, models_dir).calibration_hash for contrast in shares}, models_dir)
    heads, rows = list(_heads(data, list(shares), [one.evaluates for one in PLACES], models_dir)), []
    for place in _places(heads):
        ours = [head for head in heads if head.place == place]
        for name in (*shares, several.name):
            maps = [several(h.maps) if name == several.name else fused_scores(h.maps, {name: 1.0}) for h in ours]
            brains = [_common(head) for head in ours]
            measured = Measured(
                [m[b] for (m, _), b in zip(maps, brains, strict=True)],
                [h.lesion[b] for h, b in zip(ours, brains, strict=True)],
            )
            free = np.concatenate([m[b & h.free] for (m, _), b, h in zip(maps, brains, ours, strict=True)])
            pooled, mean = measured.figures()
            rates = {f"rate_{value}": round(float((free >= value).mean()), 5) for value in (2, 3)}
            row = {"set": place, "map": name, "heads": len(ours), "pooled": pooled, "mean": mean, **rates}
            rows.append(row | (_findings(several, ours) if name == several.name else dict.fromkeys(FINDINGS, "")))
            logger.info("%s", rows[-1])
    _write(output, rows)
    return rows


def _findings(several: Several, heads: Sequence[Head]) -> dict[str, object]:
    """`FINDINGS` of the map of several contrasts, where one false finding a scan is expected; empty without odds."""
    odds, lesions = several.odds(THRESHOLD), LesionWise()
    if odds is None:
        return dict.fromkeys(FINDINGS, "")
    for head in heads:
        anomaly, brain, rarer = several.with_rarer(head.maps)
        affine = next(iter(head.maps.values())).affine
        fitting = fitting_odds(odds.without(head.place), brain, affine)
        mask = anomaly >= THRESHOLD
        found = find_findings(anomaly, mask, affine, THRESHOLD, brain, fitting, rarer)
        ranks, expected = label_findings(mask, [vars(one) for one in found]), [one.expected or 0.0 for one in found]
        lesions.add(scan_figures(ranks, expected, head.lesion, voxel_millilitres(affine), 1.0))
    figures = lesions.figures()
    return {name: figures[name] for name in FINDINGS}


def _common(head: Head) -> np.ndarray:
    """The same voxels for every row: brain of the first contrast."""
    return next(iter(head.maps.values())).brain


def _places(heads: Sequence[Head]) -> list[str]:
    return list(dict.fromkeys(head.place for head in heads))


def _measured(heads: Sequence[Head], place: str, shares: Mapping[str, float]) -> Measured:
    ours = [head for head in heads if head.place == place]
    scores = [fused_scores(head.maps, shares)[0][_common(head)] for head in ours]
    return Measured(scores, [head.lesion[_common(head)] for head in ours])


def _job(contrast: str, models_dir: Path | None) -> Job:
    known = next(one for one in MODALITIES.values() if one.suffix == contrast)
    own = {"models_dir": str(models_dir)} if models_dir else {}
    return Job(known.configs(DEFAULT), check_contrast=False, precision="float32", **own)


def _heads(
    data: Path, contrasts: Sequence[str], parts: Sequence[tuple[str, ...]], models_dir: Path | None
) -> Iterator[Head]:
    """People of the named parts of `PLACES` who have every contrast.

    Raises:
        DatasetError: when there is none.
    """
    jobs, count = {contrast: _job(contrast, models_dir) for contrast in contrasts}, 0
    for place, part in zip(PLACES, parts, strict=True):
        if not part or not (data / place.folder).is_dir():
            continue
        cases = {
            contrast: {c["subject"]: c for c in Scans(place.folder, contrast, place.split, part).cases(data)}
            for contrast in contrasts
        }
        for subject in sorted(set.intersection(*map(set, cases.values()))):
            count += 1
            yield _head(place.folder, {contrast: cases[contrast][subject] for contrast in contrasts}, jobs)
    if not count:
        raise DatasetError(data, f"nobody with {' and '.join(contrasts)}", "Check the folder")


def _head(place: str, cases: Mapping[str, Mapping], jobs: Mapping[str, Job]) -> Head:
    maps = {}
    for contrast, case in cases.items():
        item = jobs[contrast]({"image": case["image"], "name": case["name"]})
        scan = read_scan(case["image"])
        anomaly, brain = (np.asarray(item[key].cpu())[0] for key in ("pred", "brain"))
        maps[contrast] = MapOfContrast(scan[0].numpy(), anomaly, brain > 0, scan.affine.numpy(), case["name"])
    label = read_scan(cases[next(iter(cases))]["label"], labels=True)
    axial = to_axial(label)
    axis = int(np.argmax(np.abs(np.asarray(label.affine)[2, :3])))  # the one that runs across axial slices
    free = free_slices(axial[0].numpy() > 0.5)
    if np.asarray(label.affine)[2, axis] < 0:
        free = free[::-1]
    shape = [1, 1, 1]
    shape[axis] = -1
    lesion = label[0].numpy() > 0.5
    return Head(place, maps, lesion, np.broadcast_to(free.reshape(shape), lesion.shape))


def _write(path: Path, rows: Sequence[Mapping]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
