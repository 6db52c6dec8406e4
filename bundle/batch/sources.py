# SPDX-License-Identifier: Apache-2.0
"""What there is to map in an input: files and DICOM series."""

from __future__ import annotations

import logging
from pathlib import Path

from ..cases import nothing_found, with_brain_masks
from ..datasets import sort_modality
from ..errors import DatasetError
from ..pipeline.job import Job
from .plan import PlannedCase, plain, plan_cases, plan_series

__all__ = ["plan_of"]

logger = logging.getLogger("flipmap")


def plan_of(
    source: Path, job: Job, series: str | None = None, brain_masks: Path | None = None
) -> tuple[list[PlannedCase], dict[str, str]]:
    """Files and DICOM series of an input, and what is skipped: name → why.

    Args:
        source: a scan, a folder of scans at any depth, or a BIDS root.
        job: that is to map them.
        series: regular expression of the descriptions of DICOM series; by default that of the job.
        brain_masks: folder of masks of one's own.

    Raises:
        DatasetError: when there is nothing to map.
    """
    cases: list[dict] = []
    skipped: dict[str, str] = {}
    nothing = None
    try:
        cases, out = sort_modality(source, job.modality.name, **job.search)
        skipped = {plain(path): f"{why.reason}. {why.remedy}" for path, why in out.items()}
        if not cases:
            nothing = nothing_found(source, job.search.get("suffix", ()), out)
    except DatasetError as error:
        nothing = error
    if cases and brain_masks:
        cases = with_brain_masks(cases, brain_masks)
    plan = plan_cases(cases, source, job.region, job.units)
    if source.exists() and job.series:
        try:
            from ..io.dicom import find_series

            found, over = plan_series(find_series(source), series or job.series, job.units)
            plan, skipped = plan + found, {**skipped, **over}
        except (ImportError, DatasetError) as error:
            logger.debug("no DICOM: %s", error)
    if not plan:
        raise nothing or DatasetError(source, "nothing to map in it", "Check the folder, or --series")
    return plan, skipped
