# SPDX-License-Identifier: Apache-2.0
"""Heads of which a batch has several contrasts: a case more, whose map is made of their maps.

What is done already is read from the results; the rest is computed, so that any order, any number of runs and any
worker will do.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor

from ..cases import stem
from ..errors import ContrastError
from ..io.dicom import DicomSeries
from ..io.nifti import affine_in_mm
from ..names import contrast_by_name
from ..pipeline.contrasts import JOB, ContrastJob
from ..pipeline.several import MapOfContrast
from ..scoring.calibration import RARER
from ..scoring.findings import ODDS_OF_MAP
from ..transforms.recognise import contrast_of
from .plan import SIDECAR, PlannedCase, is_done, plain

__all__ = ["MEMBERS", "TOLD", "contrast_of_case", "finish_head", "heads_of", "infer_head", "prepare_head"]

MEMBERS, TOLD, SUFFIX = "members", "told", "suffix"  # keys of an item; the last: whose weights have mapped it


def heads_of(plan: Sequence[PlannedCase], job: ContrastJob) -> list[PlannedCase]:
    """A case for every head that has exactly one scan of each contrast that `bundle.pipeline.several` takes.

    Scans are of one head where they lie in one folder under one name but for the contrast, as in BIDS; series, where
    they are of one study.

    Args:
        plan: of the batch.
        job: of any contrast.
    """
    if job.several is None:
        return []
    found: dict[tuple, dict[str, list[PlannedCase]]] = defaultdict(lambda: defaultdict(list))
    for case in plan:
        contrast = contrast_of_case(case, job)
        if contrast in job.several.contrasts:
            found[_head_of(case, contrast)][contrast].append(case)
    whole = [one for one in found.values() if len(one) == len(job.several.contrasts)]
    return [
        _planned({contrast: one[contrast][0] for contrast in job.several.contrasts})
        for one in whole
        if all(len(cases) == 1 for cases in one.values())
    ]


def contrast_of_case(case: PlannedCase, job: ContrastJob) -> str:
    """The contrast that a scan's file name says, or the description of a series; empty where neither does."""
    image = case.inputs["image"]
    if isinstance(image, DicomSeries):
        return next((one for one in job.contrasts if image.matches(job.rule_of(one))), "")
    return contrast_by_name(image)


def _head_of(case: PlannedCase, contrast: str) -> tuple[str, str]:
    """What scans of one head share."""
    image = case.inputs["image"]
    if isinstance(image, DicomSeries):
        return "study", image.study
    return str(Path(image).parent), stem(image).removesuffix(contrast)


def _planned(members: Mapping[str, PlannedCase]) -> PlannedCase:
    """Of a head, named by its first contrast."""
    known, first = next(iter(members.items()))
    images = {key: case.inputs["image"] for key, case in members.items() if key != known}

    def called(name: str) -> str:
        return (name.removesuffix(known) if name.endswith(known) else f"{name}_") + "".join(members)

    return replace(
        first,
        name=plain(called(first.name)),
        inputs={**first.inputs, **images},
        stem=first.stem.with_name(called(first.stem.name)),
        members=dict(members),
    )


def prepare_head(job: ContrastJob, case: PlannedCase, output: Path) -> dict:
    """The maps that are there, and the others ready to be scored.

    Raises:
        ContrastError: when a scan looks like another contrast than its name says.
    """
    members: dict[str, Any] = {}
    for contrast, member in case.members.items():
        scan = job.read(member.case)
        done = is_done(member, output, job.fingerprint)
        item = _read(member, output) if done else job.prepare({**member.case, "image": scan})
        told = item[TOLD] if done else contrast_of(item["image"])
        if not (item[SUFFIX] == contrast if done else item[JOB] is job.job_of(contrast)):
            looks = told[0] if told else "another contrast"
            raise ContrastError(member.where, f"looks like {looks}, not {contrast}", "Name it by its contrast", looks)
        members[contrast] = {**item, TOLD: told, "scan": scan, "done": done}
    return {"name": case.name, MEMBERS: members}


def _read(member: PlannedCase, output: Path) -> dict:
    """The map of a scan that is done."""
    arrays = {
        key: np.asarray(nib.load(member.path(output, member.outputs[key][0])).dataobj, dtype=np.float32)  # type: ignore[attr-defined]
        for key in ("pred", member.region)
    }
    said = json.loads(member.path(output, SIDECAR).read_text(encoding="utf-8"))
    return {**arrays, TOLD: said.get("contrast"), SUFFIX: said["settings"]["suffix"]}


def infer_head(job: ContrastJob, item: dict) -> dict:
    """Score what has no map yet."""
    members = {key: one if one["done"] else {**one, **job.infer(one)} for key, one in item[MEMBERS].items()}
    return {**item, MEMBERS: members}


def finish_head(job: ContrastJob, item: dict) -> dict:
    """The map of all contrasts, with mask and findings, on the grid of the first.

    Raises:
        ScanError: when two scans do not come to lie over each other.
    """
    assert job.several is not None, "such a case was planned"
    maps, told = {}, []
    for contrast, one in item[MEMBERS].items():
        finished = one if one["done"] else job.finish(one)
        scan = one["scan"]
        anomaly, brain = (np.asarray(finished[key]).reshape(scan.shape[1:]) for key in ("pred", job.region))
        affine = affine_in_mm(scan.meta)
        maps[contrast] = MapOfContrast(scan[0].numpy(), anomaly, brain > 0, affine, contrast)
        told.append(one[TOLD][1] if one[TOLD] else 1.0)
    anomaly, brain, rarer = job.several.with_rarer(maps)
    scan = item[MEMBERS][job.several.contrasts[0]]["scan"]
    grid = torch.as_tensor(affine_in_mm(scan.meta))

    def tensor(values: np.ndarray) -> MetaTensor:
        meta = {key: value for key, value in scan.meta.items() if key != "affine"}
        return MetaTensor(torch.from_numpy(values.astype(np.float32))[None], affine=grid, meta=meta)

    odds = job.several.odds(float(job.settings["threshold"])) if not job.settings["smoothing_mm"] else None
    made = {
        "name": item["name"],
        ODDS_OF_MAP: odds,
        RARER: rarer,
        "image": scan,
        "pred": tensor(anomaly),
        job.region: tensor(brain),
    }
    return {**job.conclude(made, job.several.calibration.end), TOLD: (job.several.name, min(told))}
