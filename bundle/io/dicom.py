# SPDX-License-Identifier: Apache-2.0
"""DICOM series in: grouped by UID, checked slice by slice, and read right or refused with the reason.

Pixels and geometry are highdicom's (`highdicom.get_volume_from_series`, `Image.get_volume`); what stands here is what a
series must be before they are asked. Needs the extra ``hospital``.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor

from ..errors import DatasetError, ScanError
from .nifti import scan_from_array
from .volumes import READERS

__all__ = ["DicomSeries", "find_series", "read_series", "volume_of"]

MR, ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"
#: What a header is read for; pixels stay on disk.
TAGS = [
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "Modality", "ImageType",
    "SeriesDescription", "ProtocolName", "SeriesNumber", "InstanceNumber", "Rows", "Columns", "NumberOfFrames",
    "ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing",
]  # fmt: skip
#: Not worth opening; files of DICOM may end in .img.
OTHERS = (*(ending for ending in READERS if ending != ".img"), ".raw", ".json", ".csv", ".txt", ".png", ".html")
LEAST_SLICES = 5  # fewer are a localizer or a fragment
ANGLE = 1e-3  # cosine's distance from 1 at which two orientations differ
TILT = 0.5  # degrees between the stack and the normal of its slices
UNEVEN = 0.05  # of the slice distance: more is no rounding


@dataclass(frozen=True)
class DicomSeries:
    """Files of one series, in no particular order.

    Attributes:
        uid: SeriesInstanceUID.
        files: single-frame images, or one enhanced multi-frame image.
        description: SeriesDescription and ProtocolName, for rules.
        number: SeriesNumber, or 0.
        meant: whether it is an acquisition that somebody could want a map of: no localizer, no other modality.
        problem: why it cannot be scored, or empty.
        remedy: the remedy.
        study: StudyInstanceUID.
    """

    uid: str
    files: tuple[Path, ...]
    description: str = ""
    number: int = 0
    meant: bool = True
    problem: str = ""
    remedy: str = ""
    study: str = ""

    @property
    def name(self) -> str:
        """Stands for the series in file names: a hash of its UID, which says nothing about people."""
        return f"series-{hashlib.sha256(self.uid.encode()).hexdigest()[:12]}"

    @property
    def where(self) -> str:
        """What stands for the series in messages: its first file."""
        return str(self.files[0])

    def matches(self, rule: str | None) -> bool:
        """Whether ``rule``, a regular expression, is found in the description; letters of any case."""
        return rule is None or re.search(rule, self.description, re.IGNORECASE) is not None


def find_series(root: str | Path) -> list[DicomSeries]:
    """Every series of a folder tree of any depth and naming, also those that cannot be scored, with the reason.

    Raises:
        DatasetError: when no file below ``root`` is DICOM.
    """
    headers: dict[str, list[tuple[Path, Any]]] = defaultdict(list)
    for path, header in _headers(Path(root).expanduser()):
        headers[str(header.get("SeriesInstanceUID", "no UID"))].append((path, header))
    if not headers:
        raise DatasetError(root, "no DICOM file at any depth", "Check the folder")
    series = [_series(uid, members) for uid, members in headers.items()]
    return sorted(series, key=lambda one: (one.number, one.uid))


def read_series(series: DicomSeries) -> MetaTensor:
    """Read a series.

    Returns:
        as `bundle.io.nifti.read_scan`: float32 (1, columns, rows, slices), affine to RAS+ world, mm. Rescale slope and
        intercept are applied.

    Raises:
        ScanError: when it has a problem, or its pixels cannot be read.
    """
    import highdicom
    import pydicom

    if series.problem:
        raise ScanError(series.where, series.problem, series.remedy)
    try:
        if len(series.files) == 1:
            volume = highdicom.imread(series.files[0]).get_volume(dtype=np.float32)
        else:
            unique = {d.SOPInstanceUID: d for d in map(pydicom.dcmread, series.files)}
            volume = volume_of(list(unique.values()))
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ScanError(series.where, f"its pixels cannot be read ({reason})", "Send the series again") from error
    # highdicom: (slices, rows, columns) in LPS+ world. NIfTI: the last axis slices, RAS+ world.
    order = [2, 1, 0]
    array = np.transpose(volume.array, order)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine[:, [*order, 3]]
    return scan_from_array(array, affine, series.where)


def volume_of(images: Sequence) -> Any:
    """Highdicom's volume of single-frame images that `find_series` found no problem with."""
    import highdicom

    # Its own tolerances are tighter than scanners' rounding; ours have been checked.
    return highdicom.get_volume_from_series(images, dtype=np.float32, perpendicular_tol=TILT, rtol=UNEVEN)


def _headers(root: Path) -> Iterator[tuple[Path, Any]]:
    import pydicom
    from pydicom.errors import InvalidDicomError

    paths = (
        [root]
        if root.is_file()
        else sorted(p for p in root.rglob("*") if p.is_file() and not p.name.lower().endswith(OTHERS))
    )
    for path in paths:
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=TAGS)
        except (InvalidDicomError, OSError, EOFError, ValueError):
            continue  # a DICOMDIR's neighbours: notes, viewers, thumbnails
        if header.get("SOPClassUID"):
            yield path, header


def _series(uid: str, members: Sequence[tuple[Path, Any]]) -> DicomSeries:
    first = members[0][1]
    description = " ".join(str(first.get(tag, "")) for tag in ("SeriesDescription", "ProtocolName")).strip()
    headers = [header for _, header in members]
    problem, remedy = _unmeant(headers)
    meant = not problem
    if meant:
        problem, remedy = _problem(headers)
    number = int(first.get("SeriesNumber") or 0)
    study = str(first.get("StudyInstanceUID", ""))
    return DicomSeries(uid, tuple(path for path, _ in members), description, number, meant, problem, remedy, study)


def _unmeant(headers: Sequence) -> tuple[str, str]:
    """Why nobody would want a map of a series, and the remedy; two empty strings when somebody might."""
    first = headers[0]
    kinds = {str(h.SOPClassUID) for h in headers}
    if kinds - {MR, ENHANCED_MR} or len(kinds) > 1:
        return f"{first.get('Modality', 'unknown')} objects, not one kind of MR image", "Give an MR series"
    kind = [str(value).upper() for value in first.get("ImageType", [])]
    for word, meaning in (("LOCALIZER", "a localizer"), ("MOSAIC", "a mosaic: several slices in one picture")):
        if word in kind:
            return meaning, "Give the series that was meant for reading"
    if kind[:1] == ["DERIVED"]:
        return "a derived series (" + ", ".join(kind) + ")", "Give the original one"
    return "", ""


def _problem(headers: Sequence) -> tuple[str, str]:
    """Why a series cannot be read right, and the remedy; two empty strings when it can."""
    if str(headers[0].SOPClassUID) == ENHANCED_MR:
        return ("", "") if len(headers) == 1 else (f"{len(headers)} multi-frame objects", "Give one volume a series")
    return _geometry_problem(list({str(h.SOPInstanceUID): h for h in headers}.values()))


def _geometry_problem(headers: Sequence) -> tuple[str, str]:
    """The same for single-frame images, each once."""
    again = "Send the series again, whole"
    if len(headers) < LEAST_SLICES:
        return f"{len(headers)} slices, at least {LEAST_SLICES} needed", again
    if any(h.get(tag) is None for h in headers for tag in ("ImageOrientationPatient", "ImagePositionPatient")):
        return "slices without position or orientation", "Export it with its geometry"
    if len({(h.Rows, h.Columns, tuple(h.PixelSpacing)) for h in headers}) > 1:
        return "slices of different sizes", "Split the series"
    axes = np.array([np.array(h.ImageOrientationPatient, float).reshape(2, 3) for h in headers])
    normals = np.cross(axes[:, 0], axes[:, 1])
    if (np.abs(1 - normals @ normals[0]) > ANGLE).any() or (np.abs(1 - axes[:, 0] @ axes[0, 0]) > ANGLE).any():
        return "slices of different orientations", "Split the series"
    positions = np.array([h.ImagePositionPatient for h in headers], float)
    positions = positions[np.argsort(positions @ normals[0])]
    depth = positions @ normals[0]
    steps = np.diff(depth)
    typical = float(np.median(steps))
    if typical < 1e-3 or (steps < 0.5 * typical).any():
        most = Counter(np.round(depth, 2)).most_common(1)[0][1]
        return f"up to {max(most, 2)} images at one position", "Split the series: one contrast and time each"
    gaps = steps / typical
    missing = int(np.round(gaps[gaps > 1.5] - 1).sum())
    if missing and np.allclose(gaps, np.round(gaps), atol=UNEVEN):
        return f"{missing} slices are missing", again
    if (np.abs(gaps - 1) > UNEVEN).any():
        return f"uneven slice distances ({steps.min():.2f} to {steps.max():.2f} mm)", "Give an evenly spaced series"
    course = positions[-1] - positions[0]
    tilt = float(np.degrees(np.arccos(np.clip(course @ normals[0] / np.linalg.norm(course), -1, 1))))
    if tilt > TILT:
        return f"slices are stacked at a tilt of {tilt:.1f} degrees", "Resample it to a straight stack"
    return "", ""
