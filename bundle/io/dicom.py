# SPDX-License-Identifier: Apache-2.0
"""DICOM series in: grouped by UID, told what they are by all of their files, and taken apart where they hold several
volumes; what cannot be scored has its reason. Needs the extra ``hospital``.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from monai.data import MetaTensor

from ..errors import DatasetError
from .dicom_frames import ENHANCED_MR, MR, Frame, UnusualHeader, frames_of, number, read_headers, text, words
from .dicom_quiet import quiet
from .dicom_stack import LEAST_SLICES, Part, Problem, parts_of

__all__ = ["DicomSeries", "find_series", "read_series"]

logger = logging.getLogger("flipmap")

NO_UID = "no UID"
DERIVED = "derived"
#: Words of ImageType of pictures that are computed and no scan of a contrast.
COMPUTED = ("ADC", "FA", "TRACEW", "TRACE", "EADC", "MIP", "MINIP", "MIN IP", "SUBTRACTION", "CBV", "CBF", "MTT", "TTP")
#: Words of ImageType that a series is no scan by → what it is.
NO_SCAN = {
    "LOCALIZER": "a localizer",
    "MOSAIC": "a mosaic: several slices in one picture",
    "P": "images of the phase",
    "PHASE": "images of the phase",
    "PHASE MAP": "images of the phase",
    "VELOCITY MAP": "images of velocity",
}
#: Echo times, ms, of a series of two echoes whose short one is proton density and whose long one is T2.
PROTON_DENSITY, T2 = 50.0, 60.0


@dataclass(frozen=True)
class DicomSeries:
    """Files of one series, or of one volume of a series that holds several, in no particular order.

    Attributes:
        uid: SeriesInstanceUID.
        files: single-frame images, or one enhanced multi-frame image.
        description: SeriesDescription and ProtocolName, for rules.
        number: SeriesNumber, or 0.
        meant: whether it is an acquisition that somebody could want a map of: no localizer, no other modality.
        problem: why it cannot be scored, or empty.
        remedy: the remedy.
        study: StudyInstanceUID.
        part: which volume of the series, ``echo-2`` for instance; empty where the series is one volume.
        title: SeriesDescription.
        accession: AccessionNumber.
        frames: numbers of its frames in an enhanced image that holds several volumes, from 0; empty for all.
    """

    uid: str
    files: tuple[Path, ...]
    description: str = ""
    number: int = 0
    meant: bool = True
    problem: str = ""
    remedy: str = ""
    study: str = ""
    part: str = ""
    title: str = ""
    accession: str = ""
    frames: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Stands for the series in file names: a hash of its UID, which says nothing about people, and its part."""
        known = f"series-{hashlib.sha256(self.uid.encode()).hexdigest()[:12]}"
        return f"{known}_{self.part}" if self.part else known

    @property
    def where(self) -> str:
        """What stands for the series in messages: its first file."""
        return str(self.files[0])

    def matches(self, rule: str | None) -> bool:
        """Whether ``rule``, a regular expression, is found in the description; letters of any case."""
        return rule is None or re.search(rule, self.description, re.IGNORECASE) is not None


def find_series(root: str | Path, derived: bool = False) -> list[DicomSeries]:
    """Every series of a folder tree of any depth and naming, also those that cannot be scored, with the reason.

    Args:
        root: a folder, or one file.
        derived: take derived series too: reformats, for instance.

    Raises:
        DatasetError: when no file below ``root`` is DICOM.
    """
    root = Path(root).expanduser()
    headers: dict[str, list[tuple[Path, Any]]] = defaultdict(list)
    with quiet():
        for path, header in read_headers(root):
            uid = text(header, "SeriesInstanceUID") or f"{NO_UID} {path.parent.relative_to(root.parent)}"
            headers[uid].append((path, header))
        if not headers:
            raise DatasetError(root, "no DICOM file at any depth", "Check the folder")
        series = [one for uid, members in headers.items() for one in _guarded(uid, members, derived)]
    return sorted(series, key=lambda one: (one.number, one.uid, one.part))


def read_series(series: DicomSeries) -> MetaTensor:
    """Read a series.

    Returns:
        as `bundle.io.nifti.read_scan`: float32 (1, columns, rows, slices), affine to RAS+ world, mm. Rescale slope and
        intercept are applied.

    Raises:
        ScanError: when it has a problem, or its pixels cannot be read.
    """
    from .dicom_pixels import read_pixels

    return read_pixels(series)


def _guarded(uid: str, members: Sequence[tuple[Path, Any]], derived: bool) -> list[DicomSeries]:
    """One unusual series is a series with a problem, and never the end of the folder."""

    def first(tag: str) -> str:
        return next((value for _, header in members if (value := text(header, tag))), "")

    title = first("SeriesDescription")
    known = DicomSeries(
        uid=uid,
        files=tuple(path for path, _ in members),
        description=f"{title} {first('ProtocolName')}".strip(),
        number=int(number(members[0][1], "SeriesNumber") or 0),
        study=first("StudyInstanceUID"),
        title=title,
        accession=first("AccessionNumber"),
    )
    try:
        return _series(known, members, derived)
    except Exception as error:
        reason = f"its header cannot be understood ({type(error).__name__})"
        return [replace(known, problem=reason, remedy="Report it, with what made the file")]


def _series(known: DicomSeries, members: Sequence[tuple[Path, Any]], derived: bool) -> list[DicomSeries]:
    """The volumes of a series, or the series itself with why there is none."""
    images, others = _images(members, derived)
    if not images:
        return [_unmeant(known, others, len(members))]
    if others:
        kinds = ", ".join(f"{count} {what}" for what, count in others.most_common())
        logger.warning("%s: left out of %d files: %s", known.name, len(members), kinds)
    known = replace(known, files=tuple(path for path, _ in images))
    parts = _volumes(known, images)
    return [_volume(known, part, parts) for part in parts]


def _volume(series: DicomSeries, part: Part, parts: Sequence[Part]) -> DicomSeries:
    """A volume of a series as a series of its own."""
    known = replace(series, part=part.name, problem=part.problem.reason, remedy=part.problem.remedy)
    if part.name:
        files = tuple(sorted({frame.path for frame in part.frames}))
        others = [frame for one in parts if one is not part for frame in one.frames if frame.path in files]
        known = replace(known, files=files, frames=tuple(frame.number for frame in part.frames) if others else ())
    if skip := _proton_density(part, parts):
        return replace(known, meant=False, problem=skip, remedy="Give a FLAIR, T1w or T2w series")
    return known


def _images(members: Sequence[tuple[Path, Any]], derived: bool) -> tuple[list[tuple[Path, Any]], Counter[str]]:
    """The files of the scan, and how many are of something else: what → how many. All files speak, not the first."""
    kinds = [_no_scan(header, derived) for _, header in members]
    images = [member for member, kind in zip(members, kinds, strict=True) if not kind]
    others = Counter(kind for kind in kinds if kind)
    enhanced = any(text(header, "SOPClassUID") == ENHANCED_MR for _, header in images)
    if others and len(images) < LEAST_SLICES and not enhanced:
        return [], others
    return images, others


def _no_scan(header: Any, derived: bool) -> str:
    """What a file is instead of an image of a scan; empty for one."""
    if text(header, "SOPClassUID") not in (MR, ENHANCED_MR):
        return f"{text(header, 'Modality') or 'unknown'} objects, not MR images"
    kind = [word.upper() for word in words(header, "ImageType")]
    for word in kind:
        if word in NO_SCAN:
            return NO_SCAN[word]
    if kind[:1] == ["DERIVED"] and (not derived or set(kind) & set(COMPUTED)):
        return f"{DERIVED} ({', '.join(kind)})"
    return ""


def _unmeant(series: DicomSeries, others: Counter[str], total: int) -> DicomSeries:
    """A series that nobody would want a map of, with the reason of most of its files."""
    what, count = others.most_common(1)[0]
    reason = f"a derived series{what.removeprefix(DERIVED)}" if what.startswith(DERIVED) else what
    reason += f", by {count} of its {total} files" if count < total else ""
    remedy = "Give an MR series" if "objects" in what else "Give the series that was meant for reading"
    if what.startswith(DERIVED) and not set(what[len(DERIVED) + 2 : -1].split(", ")) & set(COMPUTED):
        reason, remedy = f"{reason}; --derived takes it", "Give the original one, or ask for it by --derived"
    return replace(series, meant=False, problem=reason, remedy=remedy)


def _volumes(series: DicomSeries, images: Sequence[tuple[Path, Any]]) -> list[Part]:
    """The volumes of the files of a scan, each with its problem."""
    if series.uid.startswith(NO_UID):
        return [_whole("its files have no SeriesInstanceUID", "Export it again, with its UIDs")]
    objects = sum(text(header, "SOPClassUID") == ENHANCED_MR for _, header in images)
    if objects and len(images) > 1 and objects < len(images):
        return [_whole("multi-frame objects among single images", "Split the series")]
    frames, unusual = _frames(images)
    if unusual:
        reason, count = unusual.most_common(1)[0]
        return [_whole(f"{reason} in {count} of {len(images)} files", "Export it with its geometry")]
    if not objects:
        return _of_single_images(frames)
    return _of_objects(images, frames)


def _of_objects(images: Sequence[tuple[Path, Any]], frames: Sequence[Frame]) -> list[Part]:
    """The volumes of multi-frame objects, copies counted once: each object has its own."""
    once = {text(header, "SOPInstanceUID"): (path, header) for path, header in images}
    if len(once) == 1:
        ((path, _),) = once.values()
        return parts_of([frame for frame in frames if frame.path == path])
    objects = sorted(once, key=lambda uid: (number(once[uid][1], "InstanceNumber") or 0, uid))
    parts = []
    for rank, uid in enumerate(objects, start=1):
        for part in parts_of([frame for frame in frames if frame.path == once[uid][0]]):
            parts.append(part._replace(name=f"object-{rank}" + (f"_{part.name}" if part.name else "")))
    if all(part.problem.reason for part in parts):
        return [_whole(f"{len(objects)} multi-frame objects, none of them a volume", "Give one volume a series")]
    return parts


def _frames(images: Sequence[tuple[Path, Any]]) -> tuple[list[Frame], Counter[str]]:
    """All slices, and what is wrong with the headers that have none: reason → files."""
    frames, unusual = [], Counter()  # type: list[Frame], Counter[str]
    for path, header in images:
        try:
            frames += frames_of(path, header)
        except UnusualHeader as error:
            unusual[str(error)] += 1
    return frames, unusual


def _of_single_images(frames: Sequence[Frame]) -> list[Part]:
    """The same for single-frame images, copies counted once."""
    if any(not frame.uid for frame in frames):
        return [_whole("images without SOPInstanceUID", "Export it again, with its UIDs")]
    once = {frame.uid: frame for frame in frames}
    if len({(frame.uid, tuple(frame.position)) for frame in frames}) > len(once):
        return [_whole("different images share one SOPInstanceUID", "Export it again, with UIDs of its own each")]
    return parts_of(list(once.values()))


def _proton_density(part: Part, parts: Sequence[Part]) -> str:
    """Why the short echo of a series of two, which no weights are for, is skipped; empty for any other volume."""
    if len(parts) < 2:
        return ""
    echo, longest = _echo_time(part), max(map(_echo_time, parts))
    if not 0 < echo < PROTON_DENSITY or longest < T2:
        return ""
    return f"proton density: the echo of {echo:g} ms beside one of {longest:g} ms; only the long one is T2w"


def _echo_time(part: Part) -> float:
    return max((float(frame.kinds.get("echo", 0.0)) for frame in part.frames), default=0.0)


def _whole(reason: str, remedy: str) -> Part:
    return Part("", (), Problem(reason, remedy))
