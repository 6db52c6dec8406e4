# SPDX-License-Identifier: Apache-2.0
"""From two scans of one person to what has changed: both are mapped, brought together, and compared."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple, cast

import nibabel as nib
import numpy as np
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from monai.data import MetaTensor

from ..batch.head import contrast_of_case
from ..batch.plan import PlannedCase
from ..batch.run import run_batch
from ..errors import DatasetError, ScanError
from ..io.files import whole_file
from ..io.nifti import affine_in_mm, geometry_of, write_map
from ..outputs import CHANGE, EARLIER_MAP
from ..outputs import CHANGE_FINDINGS as FINDINGS
from ..outputs import CHANGE_PICTURE as PICTURE
from ..paths import __version__
from ..pipeline.contrasts import ContrastJob
from ..pipeline.job import Job
from ..pipeline.save import write_json
from ..report.case_picture import save_change_picture
from ..scoring.findings import voxel_sizes
from ..transforms.rigid import Volume, onto, register_rigid
from .change import STATES, Change, Limits, change_map, matched, summary

__all__ = ["CHANGE", "EARLIER_MAP", "FINDINGS", "PAGE", "PICTURE", "Pair", "compare", "pairs_of", "write_page"]

PAGE = "follow.html"
UNITS = "change of -log10 of the healthy tail probability"


class Pair(NamedTuple):
    """Two scans of one person, of one contrast."""

    earlier: PlannedCase
    later: PlannedCase


class _Mapped(NamedTuple):
    """A scan and its map, on its own grid; the affine in mm, the geometry in the scan's own unit, as files have it."""

    scan: np.ndarray
    anomaly: np.ndarray
    brain: np.ndarray
    affine: np.ndarray
    mask: np.ndarray  # of the findings that are kept
    geometry: dict


def pairs_of(earlier: Sequence[PlannedCase], later: Sequence[PlannedCase], job: Job) -> list[Pair]:
    """Scans of two dates, each with the one of its own contrast.

    Args:
        earlier, later: plans of the two inputs.
        job: that is to map them; one of any contrast tells series apart by their descriptions.

    Raises:
        DatasetError: when an input has several scans of one contrast, or none that the other has.
    """
    both = []
    for cases in (earlier, later):
        by_contrast: dict[str, PlannedCase] = {}
        for case in cases:
            contrast = contrast_of_case(case, job) if isinstance(job, ContrastJob) else ""
            if contrast in by_contrast:
                others = f"{by_contrast[contrast].name}, {case.name}"
                raise DatasetError(case.root, f"several scans that may be meant: {others}", "Give the scan itself")
            by_contrast[contrast] = case
        both.append(by_contrast)
    if len(both[0]) == len(both[1]) == 1:
        return [Pair(*(next(iter(one.values())) for one in both))]
    shared = [contrast for contrast in both[0] if contrast in both[1]]
    if not shared:
        reason = f"scans of {', '.join(both[0])}, and of {', '.join(both[1])}"
        raise DatasetError(later[0].root, reason, "Give two scans of one contrast")
    return [Pair(both[0][contrast], both[1][contrast]) for contrast in shared]


def compare(pair: Pair, job: Job, output: Path, limits: Limits | None = None) -> list[Change]:
    """Map both scans, as a batch does, into ``earlier`` and ``later``; write what has changed beside them.

    Args:
        pair: the scans.
        job: loaded.
        output: folder of the results.
        limits: what counts as a change; by default the threshold of the job, a tolerance of the coarsest voxel and of
            3 mm at least.

    Returns:
        the findings of both, and how they have changed.

    Raises:
        ScanError: when a scan cannot be mapped, or the two do not come to lie over each other.
        OutputError: when a result cannot be written.
    """
    pair = Pair(*(replace(case, stem=Path(case.stem.name)) for case in pair))
    before, now = (_mapped(case, job, output / when) for when, case in zip(Pair._fields, pair, strict=True))
    transform = register_rigid(_volume(now, pair.later), _volume(before, pair.earlier))
    old = _onto(before, transform, now)
    if limits is None:
        coarsest = max(voxel_sizes(before.affine).max(), voxel_sizes(now.affine).max())
        limits = Limits(float(job.settings["threshold"]), tolerance_mm=max(Limits.tolerance_mm, float(coarsest)))
    both = old.brain & now.brain
    change = change_map(old.anomaly, now.anomaly, both, now.affine, limits)
    findings = matched(old.anomaly, now.anomaly, both, now.affine, limits, old.mask | now.mask)
    _write(pair, output, job, (old, now), change, findings, limits, transform)
    return findings


def _mapped(case: PlannedCase, job: Job, output: Path) -> _Mapped:
    (record,) = run_batch([case], job, output, jobs=1)
    if not record.status.startswith("done"):
        raise ScanError(case.where, record.reason, record.remedy)
    image = cast(nib.Nifti1Image, nib.load(case.path(output, case.outputs["pred"][0])))
    brain = cast(nib.Nifti1Image, nib.load(case.path(output, case.outputs[case.region][0])))
    scan = job.read(case.case)
    values, anomaly = scan[0].numpy().astype(np.float32), np.asarray(image.dataobj, dtype=np.float32)
    within = np.asarray(brain.dataobj) > 0
    mask = cast(nib.Nifti1Image, nib.load(case.path(output, case.outputs["mask"][0])))
    kept = np.asarray(mask.dataobj) > 0
    return _Mapped(values, anomaly, within, affine_in_mm(scan.meta), kept, geometry_of(scan.meta))


def _volume(mapped: _Mapped, case: PlannedCase) -> Volume:
    return Volume(mapped.scan, mapped.affine, mapped.brain, case.name)


def _onto(mapped: _Mapped, transform: np.ndarray, grid: _Mapped) -> _Mapped:
    """On the grid of another scan."""

    def moved(values: np.ndarray) -> np.ndarray:
        return onto(values.astype(np.float32), mapped.affine, transform, grid.affine, grid.scan.shape)

    brain, kept = (moved(values) > 0.5 for values in (mapped.brain, mapped.mask))
    return _Mapped(moved(mapped.scan), moved(mapped.anomaly), brain, grid.affine, kept, grid.geometry)


def _write(
    pair: Pair,
    output: Path,
    job: Job,
    mapped: tuple[_Mapped, _Mapped],
    change: np.ndarray,
    findings: Sequence[Change],
    limits: Limits,
    transform: np.ndarray,
) -> None:
    stem, affine, geometry = pair.later.stem.name, mapped[1].affine, mapped[1].geometry
    write_map(output / f"{stem}_{CHANGE}", change, description=UNITS, **geometry)
    write_map(output / f"{stem}_{EARLIER_MAP}", mapped[0].anomaly, description=job.units, **geometry)
    said = {
        "earlier": pair.earlier.name,
        "later": pair.later.name,
        "units": UNITS,
        "world": "RAS+, mm, of the later scan",
        "limits": asdict(limits),
        "later_to_earlier_mm": np.round(transform, 6).tolist(),
        "inputs_sha256": {when: case.input_hashes for when, case in zip(Pair._fields, pair, strict=True)},
        "fingerprint": job.fingerprint,
        **summary(findings),
    }
    write_json(output / f"{stem}_{FINDINGS}", said)
    changed = [asdict(one) for one in findings if one.state != STATES[-1]]
    tensors = [
        MetaTensor(
            torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))[None], affine=torch.as_tensor(affine)
        )
        for values in (mapped[0].scan, mapped[1].scan, mapped[0].anomaly, mapped[1].anomaly, change)
    ]
    save_change_picture(output / f"{stem}_{PICTURE}", tensors[:2], tensors[2:4], tensors[4], changed)


def write_page(output: Path) -> Path:
    """The page of all comparisons in a folder: pictures side by side, and what has changed.

    Raises:
        OutputError: when it cannot be written.
    """
    found = []
    for path in sorted(output.glob(f"*_{FINDINGS}")):
        picture = path.with_name(path.name.replace(FINDINGS, PICTURE))
        content = json.loads(path.read_text(encoding="utf-8"))
        found.append({**content, "picture": base64.b64encode(picture.read_bytes()).decode()})
    environment = Environment(
        loader=PackageLoader("bundle", "follow"), autoescape=select_autoescape(), undefined=StrictUndefined
    )
    with whole_file(output / PAGE) as temporary:
        page = environment.get_template("page.html").stream(comparisons=found, states=STATES, version=__version__)
        page.dump(str(temporary), encoding="utf-8")
    return output / PAGE
