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
from ..names import AGENT, contrast_in_name
from ..notes import add_note
from ..paths import default_config
from ..transforms.brain import GIVEN
from ..transforms.recognise import candidates_of
from .job import Job
from .several import Several, read_shares

__all__ = ["JOB", "ContrastJob", "by_contrast", "job_of_any_contrast"]

logger = logging.getLogger(__name__)

#: Key under which an item carries the job that has prepared it.
JOB = "job"
#: Entry of a scan's meta data: the contrast that its name, or the description of its series, says; empty for none.
NAMED = "contrast_named"
#: Probability of a contrast from which on a scan whose name says nothing is mapped with a note, though it is in doubt;
#: below it, it is skipped (docs/contrasts.md).
LEAST_SURE = 0.8
#: Settings that mean the same for every contrast.
SHARED = frozenset(
    (
        *("threshold", "smoothing_mm", "min_finding_ml", "scored_ml", "false_findings", "precision", "device"),
        *("threads", "num_workers", "brain_masks", "models_dir"),
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
            # With a calibration of one's own that is as it should be, until `flipmap lab several calibrate`.
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

    def contrast_named(self, case: Mapping[str, object]) -> str:
        """The contrast of these jobs that name or description say; empty where they say none.

        Raises:
            ContrastError: when they say one that has no weights.
        """
        image = case["image"]
        if isinstance(image, MetaTensor) and NAMED in image.meta:
            return str(image.meta[NAMED])
        if isinstance(image, DicomSeries):
            return next((one for one in self.contrasts if image.matches(self.rule_of(one))), "")
        name = image.meta.get("filename_or_obj", "") if isinstance(image, MetaTensor) else image
        contrast = contrast_in_name(name) if isinstance(name, (str, Path)) else ""
        if contrast and contrast not in self.contrasts:
            plain = next((plain for plain, agent in AGENT.items() if agent == contrast), self.contrasts[0])
            remedy = f"Give one of these, or map it as {plain} all the same: --contrast {plain}"
            if contrast in AGENT.values():
                remedy += f" --suffix {contrast}"
            reason = f"{contrast} by its name; there are weights for {', '.join(self.contrasts)}"
            raise ContrastError(str(name), reason, remedy, contrast)
        return contrast

    def read(self, case: Mapping[str, object]) -> MetaTensor:
        """See `Job.read`; the scan remembers what its name said."""
        contrast = self.contrast_named(case)
        job = self.job_of(contrast)
        scan = super().read(case) if job is self else job.read(case)
        scan.meta[NAMED] = contrast
        return scan

    def prepare(self, case: Mapping[str, object]) -> dict:
        """See `Job.prepare`; the item carries its job under `JOB`.

        Raises:
            ContrastError: when a scan has, by its name or its look, a contrast without weights, or when the name says
                nothing and the look is not sure.
        """
        contrast = self.contrast_named(case)
        first = self.job_of(contrast)
        try:
            item = self._prepared_by(first, case)
        except Exception as error:
            known = cause_of(error)
            if not isinstance(known, ContrastError) or known.contrast not in self.contrasts:
                raise
            meant = self.job_of(known.contrast)
            if meant is first:
                raise
            item = self._prepared_by(meant, case)
        _check_unsure(item, contrast)
        return item

    def _prepared_by(self, job: Job, case: Mapping[str, object]) -> dict:
        return {**(super().prepare(case) if job is self else job.prepare(case)), JOB: job}

    def infer(self, item: dict) -> dict:
        """See `Job.infer`."""
        return super().infer(item) if item[JOB] is self else item[JOB].infer(item)

    def finish(self, item: dict) -> dict:
        """See `Job.finish`."""
        return super().finish(item) if item[JOB] is self else item[JOB].finish(item)


def _check_unsure(item: dict, named: str) -> None:
    """See that somebody knows the contrast: the look of a scan, or its name.

    Raises:
        ContrastError: when neither does. Where it is only a little in doubt, or within a mask that the case brought
            along, which may be any region, a note says so instead.
    """
    scan = item["image"]
    candidates = candidates_of(scan)
    if not candidates:
        return
    (likely, probability), (second, other) = candidates
    looks = f"{likely} ({probability:.0%} sure) or {second} ({other:.0%})"
    if named and likely == named:
        return
    if named or probability >= LEAST_SURE or item["brain"].meta.get(GIVEN):
        taken = f"{named}, as its name says" if named else str(item[JOB].settings["suffix"])
        add_note(scan.meta, f"Its contrast is not sure: it looks like {looks}, and is mapped as {taken}.")
        return
    reason = f"its contrast is not sure: it looks like {looks}, and its name says nothing"
    remedy = f"Say which it is: --contrast {likely} or --contrast {second}, or {likely} or {second} in its name"
    raise ContrastError(str(scan.meta.get("filename_or_obj", "scan")), reason, remedy)
