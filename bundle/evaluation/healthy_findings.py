# SPDX-License-Identifier: Apache-2.0
"""Findings of healthy tissue, and the odds that are made of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from ..errors import DatasetError
from ..io.nifti import read_scan
from ..modalities import DEFAULT, modality_of
from ..model_files import made_models_dir, own_file, refuse_shipped
from ..pipeline.job import Job
from ..scoring.calibration import RARER
from ..scoring.findings import CORNERS, find_findings, label_findings, voxel_millilitres
from ..scoring.healthy_tissue import HealthyScan
from ..scoring.odds import FindingOdds, odds_beside, write_odds
from ..scoring.rates import BrainBox
from ..transforms.head import free_slices
from .rows import mapped
from .untrained import cases_for_odds

__all__ = ["THRESHOLDS", "healthy_scan", "make_odds", "odds_of_cases"]

logger = logging.getLogger(__name__)

LEAST_ML = 300.0  # of healthy brain: less is no head
THRESHOLDS = (2.0, 3.0)  # of the map, that odds are made for


def healthy_scan(
    item: Mapping,
    region: str,
    threshold: float,
    lesion: np.ndarray | None = None,
    source: str = "",
    slices_alone: bool = False,
    in_brain: bool = True,
) -> HealthyScan:
    """What the healthy tissue of a scan has in findings.

    Args:
        item: from a `Job`.
        region: of the organ.
        threshold: of the map, that makes the findings.
        lesion: bool (X, Y, Z), on the scan's grid; None where all is healthy.
        source: the set of scans that it is of.
        slices_alone: only axial slices without lesion, nor next to one, are healthy: a tumour presses on what is
            around it. Otherwise a finding that does not touch a lesion is healthy tissue's.
        in_brain: whether the organ is a brain, so that places in it can be compared.
    """
    anomaly, organ = item["pred"].cpu().numpy()[0], item[region].cpu().numpy()[0] > 0
    affine = np.asarray(item["pred"].affine.cpu(), dtype=float)
    findings = find_findings(anomaly, anomaly >= threshold, affine, threshold, organ, None, item.get(RARER))
    ranks = label_findings(anomaly >= threshold, [vars(one) for one in findings])
    healthy = np.ones(organ.shape, bool)
    if lesion is not None and lesion.any():
        healthy = _slices_without(lesion, affine) if slices_alone else ~ndimage.binary_dilation(lesion, CORNERS)
    touched = set(np.unique(ranks[~healthy])) - {0}
    own = [one for one in findings if one.rank not in touched]
    extreme, tissue = np.array([one.extreme for one in own]), organ & healthy
    scan = HealthyScan(extreme, float(tissue.sum()) * voxel_millilitres(affine), source)
    box = BrainBox(organ, affine) if in_brain else None
    if box is None or not box.whole:
        return scan
    # Without what is left of findings that touch a lesion: there the tissue is ill.
    places, raised = box.at_mm([one.centre_mm for one in own]), tissue & (ranks > 0) & ~np.isin(ranks, list(touched))
    return replace(scan, places=places, volume=box.volumes(tissue), raised=box.volumes(raised))


def _slices_without(lesion: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Which voxels lie in slices across the axis nearest to foot and head that have no lesion, nor their neighbours."""
    axis = int(np.abs(affine[2, :3] / np.linalg.norm(affine[:3, :3], axis=0)).argmax())
    free = free_slices(np.moveaxis(lesion, axis, 2))
    shape = [1, 1, 1]
    shape[axis] = -1
    return np.broadcast_to(free.reshape(shape), lesion.shape)


def odds_of_cases(
    config_files: Sequence[str | Path], cases: Iterable[tuple[str, bool, dict]], **settings: object
) -> list[FindingOdds]:
    """Odds for each of `THRESHOLDS`, from scans of healthy people, or of ill ones whose lesions are known.

    Args:
        config_files: of the job.
        cases: set of scans, whether only slices without lesion are healthy, and the case: ``image`` and, unless all is
            healthy, ``label``.
        settings: ids of its config.

    Returns:
        none where a threshold has fewer than ten findings.
    """
    job = Job(config_files, **settings)
    scans: dict[float, list[HealthyScan]] = {threshold: [] for threshold in THRESHOLDS}
    in_brain = bool(job.modality.brain_network)
    for source, slices_alone, case in cases:
        item = mapped(
            job, {key: case[key] for key in ("image", "name", "voxel_um") if key in case}, str(case.get("name"))
        )
        if item is None:
            continue
        lesion = read_scan(case["label"], labels=True)[0].numpy() > 0.5 if "label" in case else None
        for threshold in THRESHOLDS:
            scan = healthy_scan(item, job.region, threshold, lesion, source, slices_alone, in_brain)
            if not in_brain or scan.organ_ml >= LEAST_ML:
                scans[threshold].append(scan)
                logger.info("%s %s at %g: %d findings", source, case.get("name"), threshold, len(scan.extreme))
    odds = []
    for threshold, known in scans.items():
        try:
            odds.append(FindingOdds.fit(known, threshold, job.calibration_hash))
        except ValueError as error:
            logger.warning("no odds of findings at threshold %g: %s", threshold, error)
    return odds


def make_odds(
    data: str | Path,
    modality: str = "flair",
    method: str = DEFAULT,
    threads: int | None = None,
    models_dir: Path | None = None,
    overwrite: bool = False,
    split: str | Path | None = None,
    **settings: object,
) -> Path:
    """Make the odds of a method's findings of people who trained nothing, and write them beside its calibration.

    Args:
        data: see `bundle.evaluation.untrained.cases_for_odds`.
        modality: name.
        method: of the modality.
        threads: most threads of arithmetic.
        models_dir: folder of weights and calibrations of one's own, which gets them (`bundle.model_files`).
        overwrite: replace those that ship.
        split: file that deals a data set of one's own.
        settings: ids of the config to set, ``weights`` and ``tables`` for instance.

    Returns:
        the file.

    Raises:
        OutputError: when they would replace those that ship, and were not to.
        DatasetError: when no scan is there, or there are too few findings.
    """
    known = modality_of(modality)
    given = {"precision": "float32", **settings, **({"threads": threads} if threads else {})}
    given |= {"check_contrast": False} if known.brain_network else {}
    given |= {"models_dir": made_models_dir(models_dir)} if models_dir else {}
    job = Job(known.configs(method), **given)
    path = odds_beside(job.config.get_parsed_content("tables"))
    path = own_file(models_dir, path) if models_dir else path
    refuse_shipped(path, overwrite)
    odds = odds_of_cases(known.configs(method), cases_for_odds(Path(data), known, split), **given)
    if not odds:
        raise DatasetError(data, "too few findings of healthy tissue", "Give more scans")
    write_odds(path, str(job.settings["method"]), odds)
    return path
