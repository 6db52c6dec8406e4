# SPDX-License-Identifier: Apache-2.0
"""What the header of a DICOM image says about a slice of it, checked value by value: others write anything there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .volumes import READERS

__all__ = ["ENHANCED_MR", "MR", "Frame", "UnusualHeader", "frames_of", "number", "read_headers", "text", "words"]

MR, ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"
#: What a header is read for; pixels stay on disk.
TAGS = [
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "Modality", "ImageType",
    "SeriesDescription", "ProtocolName", "AccessionNumber", "SeriesNumber", "InstanceNumber", "Rows", "Columns",
    "NumberOfFrames", "ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing",
    "EchoNumbers", "EchoTime", "TemporalPositionIdentifier", "AcquisitionNumber", "TriggerTime", "InversionTime",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip
#: Not worth opening; files of DICOM may end in .img.
OTHERS = (*(ending for ending in READERS if ending != ".img"), ".raw", ".json", ".csv", ".txt", ".png", ".html")
#: How a file without preamble begins: the first element is of group 2 or 8, little endian.
BARE = (b"\x02\x00", b"\x08\x00")


class UnusualHeader(ValueError):
    """An attribute is missing, or is not what it should be; the message says so in words."""


@dataclass(frozen=True)
class Frame:
    """One slice.

    Attributes:
        path: of its file.
        uid: SOPInstanceUID.
        shape: rows and columns.
        spacing: between rows and between columns, mm.
        axes: (2, 3), directions of a row and of a column in LPS+ world.
        position: of the centre of its first pixel in LPS+ world, mm.
        header: of its image.
        groups: where its attributes stand: the image itself, or the functional groups of the frame.
        number: of the frame in its file, from 0.
    """

    path: Path
    uid: str
    shape: tuple[int, int]
    spacing: np.ndarray
    axes: np.ndarray
    position: np.ndarray
    header: Any
    groups: list[Any]
    number: int = 0

    @cached_property
    def kinds(self) -> dict[str, float | str]:
        """What tells volumes of one series apart: name → value; only what is there."""
        return _kinds(self.header, self.groups)


def read_headers(root: Path) -> Iterator[tuple[Path, Any]]:
    """Headers of all DICOM objects of a folder tree, or of one file; other files are passed over."""
    paths = (
        [root]
        if root.is_file()
        else sorted(p for p in root.rglob("*") if p.is_file() and not p.name.lower().endswith(OTHERS))
    )
    for path in paths:
        header = _read_header(path)
        if header is not None and text(header, "SOPClassUID"):
            yield path, header


def _read_header(path: Path) -> Any:
    """The header of a DICOM file, with preamble or without; None where it is none."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        try:
            return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=TAGS)
        except InvalidDicomError:
            with path.open("rb") as file:
                bare = file.read(2) in BARE
            return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=TAGS, force=True) if bare else None
    except Exception:
        return None  # a DICOMDIR's neighbours: notes, viewers, thumbnails


def text(dataset: Any, keyword: str) -> str:
    """An attribute as one line of text; empty where it is absent or cannot be read."""
    return " ".join(words(dataset, keyword))


def words(dataset: Any, keyword: str) -> list[str]:
    """The values of an attribute as text, each on one line; none where it cannot be read."""
    try:
        value = dataset.get(keyword)
    except Exception:  # pydicom raises what it likes when it converts
        return []
    if value is None:
        return []
    values = [value] if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__") else list(value)
    return [line for line in map(_line, values) if line]


def _line(value: Any) -> str:
    """A value on one line, without control characters."""
    given = str(value)
    printable = given if given.isprintable() else "".join(c if c.isprintable() else " " for c in given)
    return " ".join(printable.split())


def number(dataset: Any, keyword: str) -> float | None:
    """The only number of an attribute; None where there is none."""
    try:
        return float(numbers(dataset, keyword, 1)[0])
    except UnusualHeader:
        return None


def numbers(dataset: Any, keyword: str, count: int) -> np.ndarray:
    """The numbers of an attribute.

    Raises:
        UnusualHeader: when it is absent, or they are not so many, or not finite.
    """
    try:
        value = dataset.get(keyword)
    except Exception as error:
        raise UnusualHeader(f"{keyword} is no number") from error
    if value is None or (isinstance(value, str) and not value.strip()):
        raise UnusualHeader(f"{keyword} is missing")
    values = list(value) if hasattr(value, "__iter__") and not isinstance(value, (str, bytes)) else [value]
    if len(values) != count:
        raise UnusualHeader(f"{keyword} has {len(values)} values, not {count}")
    try:
        array = np.array([float(one) for one in values])
    except (TypeError, ValueError, OverflowError) as error:
        raise UnusualHeader(f"{keyword} is no number") from error
    if not np.isfinite(array).all():
        raise UnusualHeader(f"{keyword} is not finite")
    return array


def frames_of(path: Path, header: Any) -> list[Frame]:
    """The slices of an image: one, or as many as an enhanced image has.

    Raises:
        UnusualHeader: when one of them has no place in space.
    """
    if text(header, "SOPClassUID") != ENHANCED_MR:
        return [_frame(path, header, [header])]
    shared = _items(header, "SharedFunctionalGroupsSequence")[:1]
    groups = _items(header, "PerFrameFunctionalGroupsSequence")
    if not groups:
        raise UnusualHeader("PerFrameFunctionalGroupsSequence is missing")
    count = number(header, "NumberOfFrames")
    if count is not None and count != len(groups):
        raise UnusualHeader(f"NumberOfFrames is {count:g}, {len(groups)} frames are described")
    frames = (_frame(path, header, [group, *shared]) for group in groups)
    return [replace(frame, number=number) for number, frame in enumerate(frames)]


#: Attribute → functional group of an enhanced image that it is in.
GROUPS = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "EffectiveEchoTime": "MREchoSequence",
    "TemporalPositionIndex": "FrameContentSequence",
}


def _frame(path: Path, header: Any, groups: list[Any]) -> Frame:
    spacing = numbers(_place(groups, "PixelSpacing"), "PixelSpacing", 2)
    if (spacing <= 0).any():
        raise UnusualHeader("PixelSpacing is not above 0")
    axes = numbers(_place(groups, "ImageOrientationPatient"), "ImageOrientationPatient", 6).reshape(2, 3)
    if not np.allclose(axes @ axes.T, np.eye(2), atol=1e-2):
        raise UnusualHeader("ImageOrientationPatient is no pair of directions at a right angle")
    position = numbers(_place(groups, "ImagePositionPatient"), "ImagePositionPatient", 3)
    rows, columns = (int(numbers(header, keyword, 1)[0]) for keyword in ("Rows", "Columns"))
    return Frame(path, text(header, "SOPInstanceUID"), (rows, columns), spacing, axes, position, header, groups)


def _kinds(header: Any, groups: list[Any]) -> dict[str, float | str]:
    found = {
        "echo": number(header, "EchoTime") or number(_place(groups, "EffectiveEchoTime"), "EffectiveEchoTime"),
        "echo number": number(header, "EchoNumbers"),
        "type": "\\".join(words(header, "ImageType")).upper() or None,
        "phase": number(header, "TemporalPositionIdentifier")
        or number(_place(groups, "TemporalPositionIndex"), "TemporalPositionIndex"),
        "acquisition": number(header, "AcquisitionNumber"),
        "trigger": number(header, "TriggerTime"),
        "inversion": number(header, "InversionTime"),
    }
    return {name: value for name, value in found.items() if value is not None}


def _place(groups: list[Any], keyword: str) -> Any:
    """Where an attribute stands: in the image itself, or in a functional group of it, its own before those shared."""
    if len(groups) == 1 and "PerFrameFunctionalGroupsSequence" not in groups[0] and keyword in groups[0]:
        return groups[0]
    for group in groups:
        for item in _items(group, GROUPS[keyword])[:1]:
            return item
    return groups[0]


def _items(dataset: Any, keyword: str) -> list[Any]:
    try:
        return list(dataset.get(keyword) or [])
    except Exception:
        return []
