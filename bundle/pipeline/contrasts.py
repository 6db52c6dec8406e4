# SPDX-License-Identifier: Apache-2.0
"""Jobs of several contrasts as one: each scan goes to the weights of its own contrast."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.data import MetaTensor

from ..errors import ContrastError, WeightsError, cause_of
from ..io.dicom import DicomSeries
from ..modalities import DEFAULT, FLAIR, MODALITIES, Modality
from ..paths import default_config
from ..transforms.mri import contrast_by_name
from .job import Job
from .several import Several, read_shares

__all__ = ["JOB", "ContrastJob", "by_contrast", "job_of_any_contrast"]

logger = logging.getLogger(__name__)

#: Key under which an item carries the job that has prepared it.
JOB = "job"
#: Settings that mean the same for every contrast.
SHARED = frozenset(
    (
        *("threshold", "smoothing_mm", "min_finding_ml", "scored_ml", "precision", "device", "threads"),
        *("num_workers", "brain_masks", "models_dir"),
    )
)


def by_contrast() -> dict[str, Modality]:
    """BIDS suffix → the modality of brain MRI of that contrast, those that have weights."""
    return {one.suffix: one for one in MODALITIES.values() if one.suffix and one.calibrates(DEFAULT)}


def job_of_any_contrast(**settings: Any) -> Job:
    """The main job; where the settings leave open which weights are meant, beside it those of all other contrasts.

    Args:
        settings: ids of configs/inference.json.

    Raises:
        FlipmapError, WeightsError: see `Job`.
    """
    main, known = default_config(), by_contrast()
    own = known.pop(FLAIR.suffix or "", None)
    if own is None or not known or not set(settings) <= SHARED:
        return Job([main], **settings)
    return ContrastJob([main], {contrast: one.configs() for contrast, one in known.items()}, **settings)


class ContrastJob(Job):
    """A job, and beside it those of other contrasts. The name of a file, or the description of a DICOM series, says
    which is asked first; what the scan looks like says which is asked instead.

    Args:
        config_files: of the job itself, see `Job`.
        others: BIDS suffix → config files of another job.
        settings: ids that all of them share.

    Raises:
        FlipmapError, WeightsError: see `Job`.
    """

    def __init__(
        self, config_files: Sequence[str | Path], others: Mapping[str, Sequence[str | Path]], **settings: Any
    ) -> None:
        super().__init__(config_files, **settings)
        self.others = {contrast: Job(files, **settings) for contrast, files in others.items()}
        self.several = self._several()

    def _several(self) -> Several | None:
        """The map of several contrasts; None where one of them has no weights, or was calibrated anew since."""
        models_dir = self.config.get("models_dir")
        shares, _ = read_shares(models_dir)
        if self.uncalibrated or not set(shares) <= set(self.contrasts):
            return None
        try:
            return Several({contrast: self.job_of(contrast).calibration_hash for contrast in shares}, models_dir)
        except WeightsError as error:
            # With a calibration of one's own that is as it should be, until `flipmap several calibrate`.
            log = logger.info if models_dir else logger.warning
            log("no map of %s together: %s", " and ".join(shares), error)
            return None

    @property
    def contrasts(self) -> tuple[str, ...]:
        """BIDS suffixes of all of them, its own first."""
        return (str(self.settings["suffix"]), *self.others)

    def job_of(self, contrast: str) -> Job:
        """The job of a contrast; itself for its own."""
        return self.others.get(contrast, self)

    def rule_of(self, contrast: str) -> str | None:
        """See `Job.series`, of one contrast."""
        return self.others[contrast].series if contrast in self.others else self.modality.series

    @property
    def fingerprint(self) -> str:
        """Of all of them."""
        prints = [super().fingerprint, *(job.fingerprint for job in self.others.values())]
        prints += [self.several.fingerprint] if self.several else []
        return hashlib.sha256("".join(prints).encode()).hexdigest()

    @property
    def search(self) -> dict[str, Any]:
        """See `Job.search`; scans of all contrasts."""
        return {**super().search, "suffix": [self.settings["suffix"], *self.others]}

    @property
    def series(self) -> str | None:
        """See `Job.series`; series of all contrasts."""
        rules = [rule for rule in (self.modality.series, *(job.series for job in self.others.values())) if rule]
        return "|".join(f"(?:{rule})" for rule in rules) or None

    def read(self, case: Mapping[str, object]) -> MetaTensor:
        """See `Job.read`."""
        named = self._named(case)
        return super().read(case) if named is None else named.read(case)

    def prepare(self, case: Mapping[str, object]) -> dict:
        """See `Job.prepare`; the item carries its job under `JOB`."""
        first = self._named(case)
        try:
            return {**(super().prepare(case) if first is None else first.prepare(case)), JOB: first or self}
        except Exception as error:
            known = cause_of(error)
            if not isinstance(known, ContrastError):
                raise
            meant = self.others.get(known.contrast)
            if meant is None and known.contrast == self.settings["suffix"] and first is not None:
                return {**super().prepare(case), JOB: self}
            if meant is None or meant is first:
                raise
            return {**meant.prepare(case), JOB: meant}

    def infer(self, item: dict) -> dict:
        """See `Job.infer`."""
        return super().infer(item) if item[JOB] is self else item[JOB].infer(item)

    def finish(self, item: dict) -> dict:
        """See `Job.finish`."""
        return super().finish(item) if item[JOB] is self else item[JOB].finish(item)

    def _named(self, case: Mapping[str, object]) -> Job | None:
        """The other job of the contrast that name or description say; None for this one."""
        image = case["image"]
        if isinstance(image, DicomSeries):
            if image.matches(self.modality.series):
                return None
            return next((job for job in self.others.values() if job.series and image.matches(job.series)), None)
        name = image.meta.get("filename_or_obj", "") if isinstance(image, MetaTensor) else image
        return self.others.get(contrast_by_name(name)) if isinstance(name, (str, Path)) else None
