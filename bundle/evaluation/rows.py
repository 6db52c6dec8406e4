# SPDX-License-Identifier: Apache-2.0
"""Rows of the tables: the shipped methods by their own configs, and variants of them that say what they change."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ..errors import FlipmapError, ScanError, cause_of
from ..methods.fused import Fused, part_entry, remembers_training
from ..modalities import DEFAULT, modality_of
from ..pipeline.job import Job
from ..scoring.calibration import UNCALIBRATED

__all__ = ["load_rows", "mapped", "seen_methods"]

logger = logging.getLogger(__name__)

METHOD = "method"


def mapped(job: Job, item: Mapping, name: str) -> dict | None:
    """What a job says of an item; None, with a warning that has its ``name``, where the scan cannot be mapped."""
    try:
        return job(item)
    except Exception as error:
        if not isinstance(cause := cause_of(error), ScanError):
            raise
        logger.warning("%s: left out: %s", name, cause)
        return None


def load_rows(rows: Mapping[str, Mapping], modality: str = "flair", **settings: Any) -> dict[str, Job]:
    """Name of a row → the job of its method.

    Args:
        rows: name → ``method`` (a name from configs/methods; the default without one) and ids of its config that differ
            from the shipped one. A row without any is the shipped method, and its calibration must fit it.
        modality: of `bundle.modalities.MODALITIES`.
        settings: ids that all rows share.

    Raises:
        FlipmapError: on an unknown method or id.
        WeightsError: when the calibration of a shipped method does not fit it.
    """
    jobs = {}
    for name, row in rows.items():
        if steps := [key for key in row if key.startswith("steps")]:
            raise FlipmapError(f"row {name}: {steps[0]}", "all rows share one preprocessing", "Leave it out")
        changed = {key: value for key, value in row.items() if key != METHOD}
        known, method = modality_of(modality), row.get(METHOD, DEFAULT)
        calibration = {"calibration": UNCALIBRATED} if changed or not known.calibrates(method) else {}
        jobs[name] = Job(known.configs(method), **{**settings, **calibration, **changed})
    return jobs


def seen_methods(jobs: Mapping[str, Job], names: list[str]) -> dict:
    """Rows that may be calibrated on patients who trained: the method that takes them as such."""
    chosen = {}
    for name in names:
        method = jobs[name].inferer
        if isinstance(method, Fused):
            parts = method.methods.items()
            entries = {name: part_entry(name, seen=True) for name, part in parts if remembers_training(part)}
            method = method.with_entries(entries)
        chosen[name] = method
    return chosen
