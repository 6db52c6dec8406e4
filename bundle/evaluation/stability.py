# SPDX-License-Identifier: Apache-2.0
"""Whether the same head gives the same findings: in another pose, with more noise, at a coarser resolution, under the
shading of a coil, in another contrast. No labels are used.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import AdjustContrastd, Affined, Compose, RandBiasFieldd, RandRicianNoised, Spacingd

from ..errors import WeightsError
from ..io.nifti import read_scan, scan_from_array
from ..modalities import DEFAULT, modality_of
from ..pipeline.job import Job
from ..scoring.findings import label_findings
from ..scoring.geometry import voxel_sizes
from .findings_table import cases_of_place
from .patients import write_rows
from .rows import mapped

__all__ = ["CHANGES", "findings_again", "stability_table"]

logger = logging.getLogger(__name__)

BOTH = ("image", "findings")
COARSER = 1.5  # times the voxel size in plane
ANGLE, SHIFT_MM = float(np.deg2rad(5)), 4.0  # of another pose, in the plane of the slices
#: Name → transform of a scan in [0, 1] and, where voxels move, of the ranks of its findings.
CHANGES: dict[str, Compose] = {
    "pose: 5° and 4 mm each way": Compose([lambda item: _turned(item)]),
    "noise: 3 % of the brightest": Compose([RandRicianNoised("image", prob=1.0, std=0.03, sample_std=False)]),
    "voxels 1.5 times as wide": Compose([lambda item: _coarser(item)]),
    "shading: up to 30 %": Compose([RandBiasFieldd("image", prob=1.0, degree=2, coeff_range=(0.1, 0.1))]),
    "contrast: gamma 0.8": Compose([AdjustContrastd("image", gamma=0.8)]),
    "contrast: gamma 1.25": Compose([AdjustContrastd("image", gamma=1.25)]),
}


def _across(item: Mapping) -> tuple[np.ndarray, int]:
    """Voxel sizes, and the axis across the slices: the one with the longest."""
    sizes = voxel_sizes(item["image"].affine.numpy())
    return sizes, int(np.argmax(sizes)) if np.ptp(sizes) > 0.01 else 2


def _turned(item: Mapping) -> dict:
    sizes, slices = _across(item)
    angles = [ANGLE if axis == slices else 0.0 for axis in range(3)]
    shift = [0.0 if axis == slices else SHIFT_MM / size for axis, size in enumerate(sizes)]
    modes = ("bilinear", "nearest")
    turn = Affined(BOTH, rotate_params=angles, translate_params=shift, mode=modes, padding_mode="zeros")
    return dict(turn(item))


def _coarser(item: Mapping) -> dict:
    sizes, slices = _across(item)
    wanted = [float(size) if axis == slices else float(size) * COARSER for axis, size in enumerate(sizes)]
    return dict(Spacingd(BOTH, wanted, mode=("bilinear", "nearest"))(item))


@dataclass
class _Kept:
    """What one change did to the findings of some scans."""

    before: int = 0
    found: int = 0
    new: list[int] = field(default_factory=list)
    volumes: list[float] = field(default_factory=list)  # after, in parts of before, of those found again
    scores: list[float] = field(default_factory=list)  # change of the case score


def findings_again(ranks: np.ndarray, after: np.ndarray) -> tuple[int, int, list[float]]:
    """Findings that are found again, new ones, and the volume of each one found, in parts of its volume before.

    Args:
        ranks: of the findings before, 0 elsewhere, brought to the grid of the changed scan, (X, Y, Z).
        after: ranks of the findings of the changed scan, same shape.
    """
    known = [rank for rank in np.unique(ranks) if rank > 0]
    again, volumes = 0, []
    for rank in known:
        touching = [other for other in np.unique(after[ranks == rank]) if other > 0]
        if touching:
            again += 1
            volumes.append(float(np.isin(after, touching).sum() / (ranks == rank).sum()))
    new = sum(1 for other in np.unique(after) if other > 0 and not (ranks[after == other] > 0).any())
    return again, new, volumes


def stability_table(
    places: Mapping[str, Mapping],
    output_dir: str | Path,
    modality: str = "flair",
    method: str = DEFAULT,
    scans: int = 4,
    **settings: Any,
) -> list[dict]:
    """Map scans and their changed copies; write ``stability.csv`` and ``stability.md``.

    Args:
        places: as of `bundle.evaluation.findings_table.findings_table`.
        output_dir: folder of the table.
        modality, method: of the job.
        scans: most of a place.
        settings: ids of its config.

    Returns:
        a dictionary a change.

    Raises:
        WeightsError: when the method has no odds.
    """
    job = Job(modality_of(modality).configs(method), **settings)
    if job.odds is None:
        raise WeightsError(method, "no odds of findings for it", "Make them: flipmap odds DATA, --help says more")
    kept = {name: _Kept() for name in CHANGES}
    for place, where in places.items():
        for case in cases_of_place(modality_of(modality).suffix or "", where)[:scans]:
            _change(job, case, kept)
            logger.info("%s: %s", place, case.get("name"))
    table = [{"change": name, **_figures(one)} for name, one in kept.items()]
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "stability.csv", table)
    (folder / "stability.md").write_text(_markdown(table), encoding="utf-8")
    return table


def _ranks(item: Mapping) -> np.ndarray:
    mask = item["mask"].cpu().numpy()[0] > 0
    return label_findings(mask, item["findings"]["findings"])


def _change(job: Job, case: Mapping, kept: Mapping[str, _Kept]) -> None:
    whole = read_scan(case["image"])
    top = float(np.percentile(whole.numpy()[whole.numpy() > 0], 99.5))
    scan = MetaTensor(whole.as_tensor() / top, affine=whole.affine)
    plain = job({"image": scan.clone()})
    ranks = MetaTensor(torch.from_numpy(_ranks(plain)[None].astype(np.float32)), affine=scan.affine)
    for name, transform in CHANGES.items():
        changed = transform.set_random_state(0)({"image": scan.clone(), "findings": ranks.clone()})
        values, affine = changed["image"].numpy()[0], changed["image"].affine.numpy()
        after = mapped(job, {"image": scan_from_array(values.clip(0), affine)}, f"{case.get('name')}, {name}")
        if after is None:
            continue
        before = changed["findings"].numpy()[0].round().astype(int)
        again, new, volumes = findings_again(before, _ranks(after))
        one = kept[name]
        one.before, one.found = one.before + int((np.unique(before) > 0).sum()), one.found + again
        one.new.append(new)
        one.volumes += volumes
        one.scores.append(after["findings"]["case_score"] - plain["findings"]["case_score"])


def _figures(one: _Kept) -> dict[str, float | int]:
    return {
        "scans": len(one.new),
        "findings": one.before,
        "found_again": one.found / max(one.before, 1),
        "new_a_scan": float(np.mean(one.new)),
        "volume_ratio": float(np.median(one.volumes)) if one.volumes else float("nan"),
        "volume_change": float(np.median(np.abs(np.array(one.volumes) - 1))) if one.volumes else float("nan"),
        "case_score_change": float(np.median(np.abs(one.scores))),
    }


def _markdown(table: list[dict]) -> str:
    lines = [
        "Findings of a scan and of its changed copy: the share that is found again, new ones a scan, by how much the "
        "volume of those found again differs, and how far the case score moves (medians).",
        "",
        "| change | scans | findings | found again | new a scan | volume | case score |",
        "|---" * 7 + "|",
    ]
    for row in table:
        cells = (f"{row['found_again']:.2f}", f"{row['new_a_scan']:.1f}", f"{row['volume_change']:.0%}")
        start = f"| {row['change']} | {row['scans']} | {row['findings']} | "
        lines.append(start + " | ".join(cells) + f" | ±{row['case_score_change']:.2f} |")
    return "\n".join(lines) + "\n"
