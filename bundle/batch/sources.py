# SPDX-License-Identifier: Apache-2.0
"""What there is to map in an input: files and DICOM series."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..cases import nothing_found, with_brain_masks
from ..datasets import sort_modality
from ..errors import DatasetError, FlipmapError
from ..io.dicom import DicomSeries, find_series
from ..pipeline.job import Job
from .plan import PlannedCase, contrasts_of, plain, plan_cases, plan_series

__all__ = ["plan_of"]

MOST_NAMED = 12  # series in the message that there is nothing to map
MAGIC, PREAMBLE = b"DICM", 128  # what a DICOM file has after so many bytes


def plan_of(
    source: Path,
    job: Job,
    series: str | None = None,
    brain_masks: Path | None = None,
    derived: bool = False,
) -> tuple[list[PlannedCase], dict[str, str]]:
    """Files and DICOM series of an input, and what is skipped: name → why.

    Args:
        source: a scan, a folder of scans at any depth, or a BIDS root.
        job: that is to map them.
        series: regular expression of the descriptions of DICOM series; by default that of the job.
        brain_masks: folder of masks of one's own.
        derived: take derived DICOM series, too.

    Raises:
        DatasetError: when there is nothing to map; it says what there is.
        FlipmapError: when ``series`` is no regular expression.
    """
    _check_rule(series)
    found = _dicom_of(source, derived) if source.exists() and job.series else []
    cases: list[dict] = []
    skipped: dict[str, str] = {}
    nothing = None
    try:
        if not (found and source.is_file()):  # a file that is DICOM is no file of another format
            cases, out = sort_modality(source, job.modality.name, **job.search)
            skipped = {plain(path): f"{why.reason}. {why.remedy}" for path, why in out.items()}
            if not cases:
                nothing = nothing_found(source, job.search.get("suffix", ()), out)
    except DatasetError as error:
        nothing = error
    if cases and brain_masks:
        cases = with_brain_masks(cases, brain_masks)
    plan = plan_cases(cases, source, job.region, job.units)
    rule = series or job.series
    planned, over = plan_series(found, rule, job.units)
    plan, skipped = plan + planned, {**skipped, **over}
    if not plan:
        raise _nothing_of(source, found, rule) if found else nothing or _empty(source)
    return plan, skipped


def _empty(source: Path) -> DatasetError:
    return DatasetError(source, "nothing to map in it", "Check the folder")


def _check_rule(rule: str | None) -> None:
    try:
        re.compile(rule or "")
    except re.error as error:
        reason = f"no regular expression ({error})"
        raise FlipmapError(
            f"--series {rule}", reason, r"Write a part of the description; \ before . ( ) * +"
        ) from error


def _dicom_of(source: Path, derived: bool) -> list[DicomSeries]:
    """Its DICOM series.

    Raises:
        DatasetError: when there are DICOM files, and not what reads them.
    """
    try:
        return find_series(source, derived)
    except DatasetError:
        return []
    except ImportError as error:
        if any(map(_is_dicom, [source] if source.is_file() else source.rglob("*"))):
            reason = f"DICOM files, which need a package that is not here ({error.name})"
            raise DatasetError(source, reason, "Install the extra: pip install 'flipmap[hospital]'") from error
        return []


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(PREAMBLE + len(MAGIC))[PREAMBLE:] == MAGIC
    except OSError:
        return False  # a folder, or one that nobody may read


def _nothing_of(source: Path, series: Sequence[DicomSeries], rule: str | None) -> DatasetError:
    """What is there instead of series to map, and the option that takes some of it."""
    files = sum(len(one.files) for one in series)
    kinds = Counter(_words_of(one) for one in series)
    named = [f"{what} ({count} of them)" if count > 1 else what for what, count in kinds.most_common(MOST_NAMED)]
    named += [f"{len(kinds) - MOST_NAMED} other kinds"] if len(kinds) > MOST_NAMED else []
    wanted = contrasts_of(rule)
    none = f"none is a series of {wanted}" if wanted else f"none is what --series {rule} asks for"
    reason = f"{files} DICOM files, {len(series)} series: {'; '.join(named)}; {none}"
    return DatasetError(source, reason, _remedy(series))


def _words_of(series: DicomSeries) -> str:
    described = series.title or series.description or "without description"
    return described if series.meant else f"{described}: {series.problem}"


def _remedy(series: Sequence[DicomSeries]) -> str:
    if other := next((one for one in series if one.meant and not one.problem), None):
        words = re.escape(other.title or other.description).replace(r"\ ", " ")
        return f"Say which is meant, --series '{words}' for instance" if words else "Say which is meant: --series ''"
    if any("--derived" in one.remedy for one in series):
        return "Ask for derived series by --derived"
    return "Check the folder"
