# SPDX-License-Identifier: Apache-2.0
"""Case scores of healthy tissue: what those of a batch are to be held against."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor

from ..errors import DatasetError
from ..io.nifti import read_scan
from ..modalities import MODALITIES
from ..model_files import made_models_dir, own_file, refuse_shipped
from ..pipeline.job import CASE_SCORES, Job
from ..pipeline.save import write_json
from ..scoring.findings import case_score, voxel_millilitres
from ..transforms.head import free_slices
from ..transforms.mri import to_axial
from .untrained import SETS

__all__ = ["healthy_case_scores", "write_case_scores"]

logger = logging.getLogger(__name__)

LEAST_ML = 300.0  # of brain in lesion-free slices: less is no head


def healthy_case_scores(job: Job, cases: Sequence[dict]) -> list[float]:
    """The case score of each scan, of its lesion-free slices alone.

    Args:
        job: loaded.
        cases: ``image`` and, unless all of it is healthy, ``label``.

    Returns:
        a number a scan that has brain enough in such slices, rising.
    """
    scores = []
    for case in cases:
        item = job({key: case[key] for key in ("image", "name") if key in case})
        affine = torch.as_tensor(np.asarray(item["image"].meta["original_affine"]))
        anomaly, brain = (
            to_axial(MetaTensor(item[key].as_tensor().float(), affine=affine)) for key in ("pred", job.region)
        )
        free = np.ones(anomaly.shape[-1], bool)
        if "label" in case:
            free = free_slices(to_axial(read_scan(case["label"], labels=True))[0].numpy() > 0.5)
        grid = anomaly.affine.numpy()
        if float((brain[0].numpy()[..., free] > 0).sum()) * voxel_millilitres(grid) >= LEAST_ML:
            scores.append(case_score(np.where(free, anomaly[0].numpy(), 0), grid))
    return sorted(scores)


def write_case_scores(
    data: Path, modality: str, threads: int | None = None, models_dir: Path | None = None, overwrite: bool = False
) -> Path:
    """Measure them on people who trained nothing, and write them beside the calibration of a modality's default.

    Args:
        data: folder of the sets of `bundle.evaluation.untrained`; those that are missing are left out.
        modality: a contrast of brain MRI.
        threads: most threads of arithmetic.
        models_dir: folder of weights and calibrations of one's own, which gets them (`bundle.model_files`).
        overwrite: replace those that ship.

    Returns:
        the file.

    Raises:
        OutputError: when they would replace those that ship, and were not to.
        DatasetError: when no set is there.
    """
    known = MODALITIES[modality]
    settings = {"precision": "float32", **({"threads": threads} if threads else {})}
    own = {"models_dir": made_models_dir(models_dir)} if models_dir else {}
    job = Job(known.configs(), check_contrast=False, **settings, **own)
    path = Path(job.config.get_parsed_content("tables")).with_name(CASE_SCORES)
    path = own_file(models_dir, path) if models_dir else path
    refuse_shipped(path, overwrite)
    sets = [one for one in SETS if one.suffix == known.suffix and one.healthy and (data / one.folder).is_dir()]
    if not sets:
        raise DatasetError(data, f"no set of {known.suffix} scans", "Check the folder")
    scores = []
    for one in sets:
        found = healthy_case_scores(job, one.cases(data))
        logger.info("%s: %d scans, case scores %s", one.folder, len(found), found)
        scores += found
    written = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    what = f"lesion-free slices of people who trained nothing, {known.suffix}, from {len(sets)} places"
    entry = {"calibration": job.calibration_hash, "what": what, "scores": sorted(scores)}
    write_json(path, {**written, str(job.settings["method"]): entry})
    return path
