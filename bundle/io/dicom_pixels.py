# SPDX-License-Identifier: Apache-2.0
"""Pixels and geometry of a series. Both are highdicom's (`highdicom.get_volume_from_series`, `Image.get_volume`); what
stands here is what its data sets must be before it is asked, where its grid is not the whole truth, and why it cannot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor

from ..errors import FlipmapError, ScanError
from .dicom import DicomSeries
from .dicom_frames import ENHANCED_MR, frames_of, text
from .dicom_quiet import quiet, redacted
from .dicom_stack import SHIFT, UNEVEN
from .dicom_valid import usable_uid
from .nifti import scan_from_array

__all__ = ["Stack", "images_of", "read_pixels", "stack_of"]

#: highdicom takes the cosine of the tilt for it; ours has been checked in degrees.
ANY_TILT = 0.5
PREAMBLE = 128  # bytes
AGAIN = "Send the series again"


@dataclass(frozen=True)
class Stack:
    """A volume of a series.

    Attributes:
        array: (slices, rows, columns), float32.
        affine: index of it → LPS+ world, 4 x 4, mm.
        straight: the same as highdicom's volume; None where slices are shifted against each other, which that cannot
            hold.
        positions: of its slices in LPS+ world, (slices, 3), mm.
    """

    array: np.ndarray
    affine: np.ndarray
    straight: Any
    positions: np.ndarray


def read_pixels(series: DicomSeries) -> MetaTensor:
    """See `bundle.io.dicom.read_series`."""
    if series.problem:
        raise ScanError(series.where, series.problem, series.remedy)
    with quiet():
        stack = stack_of(images_of(series), series)
    # NIfTI: the last axis slices, RAS+ world.
    order = [2, 1, 0]
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ stack.affine[:, [*order, 3]]
    return scan_from_array(np.transpose(stack.array, order), affine, series.where)


def images_of(series: DicomSeries) -> list[Any]:
    """Its data sets with pixels, each once, made alike where they differ by no more than `find_series` lets pass.

    Raises:
        ScanError: when a file cannot be read, or its pixels are not all there.
    """
    unique: dict[str, Any] = {}
    for path in series.files:
        image = _read(path, series)
        unique[text(image, "SOPInstanceUID")] = image
    images = list(unique.values())
    for image in images:
        _check_pixels(image, series)
    _make_alike(images, series)
    return [_with_frames(images[0], series)] if series.frames else images


def _read(path: Path, series: DicomSeries) -> Any:
    import pydicom

    try:
        image = pydicom.dcmread(path, force=True)  # a file without preamble, too: it has been looked at
    except OSError as error:
        raise ScanError(series.where, f"cannot be read ({error.strerror})", "Allow reading it, and leave it") from error
    except Exception as error:
        raise ScanError(series.where, f"a file of it is damaged ({type(error).__name__})", AGAIN) from error
    if "SeriesInstanceUID" not in image:  # pydicom gives an empty one where a file ends within an element
        raise ScanError(series.where, "a file of it is damaged: it ends too early", AGAIN)
    if text(image, "SeriesInstanceUID") != series.uid:
        raise ScanError(series.where, "a file of it is another one now", "Leave it while it is worked on")
    if not hasattr(image, "file_meta") or "TransferSyntaxUID" not in image.file_meta:
        _set_syntax(image)
    return image


def _set_syntax(image: Any) -> None:
    """A file without header of its own is written as its elements are."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    implicit, little = image.original_encoding
    image.file_meta = getattr(image, "file_meta", None) or FileMetaDataset()
    explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    image.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit


def _check_pixels(image: Any, series: DicomSeries) -> None:
    """Whether its pixels are there, of one channel, and of a kind that can be decoded here.

    Raises:
        ScanError: when they are not; each cause has its remedy.
    """
    from pydicom.pixels import get_decoder

    if text(image, "SamplesPerPixel") not in ("", "1"):
        raise ScanError(series.where, "a picture in colours", "Give the scan itself, one number a pixel")
    if "PixelData" not in image:
        raise ScanError(series.where, "an image of it has no pixels: the file ends before them", AGAIN)
    syntax = image.file_meta.TransferSyntaxUID
    if syntax.is_compressed and not syntax.is_deflated:
        try:
            usable = get_decoder(syntax).is_available
        except NotImplementedError:
            raise ScanError(
                series.where, f"compressed as {syntax.name}, which is no image's", "Send it uncompressed"
            ) from None
        if not usable:
            remedy = "Install the extra hospital or pacs, which bring its decoder, or send it uncompressed"
            raise ScanError(series.where, f"compressed as {syntax.name}, which cannot be decoded here", remedy)
        return
    _check_length(image, series)


def _check_length(image: Any, series: DicomSeries) -> None:
    counts = [text(image, keyword) or default for keyword, default in SIZE.items()]
    if not all(count.isdigit() for count in counts):
        unusual = next(keyword for keyword, count in zip(SIZE, counts, strict=True) if not count.isdigit())
        raise ScanError(series.where, f"{unusual} is missing or no number in an image of it", "Export it again")
    needed = int(np.prod([int(count) for count in counts], dtype=object)) // 8
    if len(image.PixelData) < needed:
        there = len(image.PixelData)
        raise ScanError(series.where, f"a file of it is cut short ({there} of {needed} bytes of pixels)", AGAIN)


#: What an uncompressed image is as large as, and what holds where it is absent.
SIZE = {"Rows": "", "Columns": "", "BitsAllocated": "", "NumberOfFrames": "1"}


def _make_alike(images: Sequence[Any], series: DicomSeries) -> None:
    """Differences that are none: rounding of orientation and spacing, and a frame of reference that is not named."""
    from pydicom.uid import generate_uid

    first = images[0]
    frame = text(first, "FrameOfReferenceUID")
    if not usable_uid(frame):
        frame = generate_uid(entropy_srcs=[series.uid, "FrameOfReferenceUID"])
    for image in images:
        image.FrameOfReferenceUID = frame
        if "Modality" not in image:
            image.Modality = "MR"
        if text(image, "SOPClassUID") == ENHANCED_MR:
            _drop_private_dimensions(image)
        else:
            image.ImageOrientationPatient, image.PixelSpacing = first.ImageOrientationPatient, first.PixelSpacing


def _drop_private_dimensions(image: Any) -> None:
    """Dimensions by private elements, as Philips writes them, order the frames of one volume no further."""
    indices = list(image.get("DimensionIndexSequence") or [])
    kept = [number for number, index in enumerate(indices) if not _is_private(index)]
    if len(kept) == len(indices):
        return
    image.DimensionIndexSequence = [indices[number] for number in kept]
    for group in image.PerFrameFunctionalGroupsSequence:
        for content in group.get("FrameContentSequence") or []:
            values = content.get("DimensionIndexValues")
            values = [values] if isinstance(values, int) else list(values or [])
            if len(values) == len(indices):
                content.DimensionIndexValues = [values[number] for number in kept]


def _is_private(index: Any) -> bool:
    from pydicom.tag import Tag

    pointers = (index.get("DimensionIndexPointer"), index.get("FunctionalGroupPointer"))
    return any(pointer is not None and Tag(pointer).is_private for pointer in pointers)


def stack_of(images: Sequence[Any], series: DicomSeries) -> Stack:
    """The volume of data sets from `images_of`.

    Raises:
        ScanError: when they make none, or cannot be decoded.
    """
    try:
        return _stack(images, series)
    except FlipmapError:
        raise
    except MemoryError as error:
        raise ScanError(series.where, "does not fit into memory", "Free memory") from error
    except Exception as error:
        raise _unreadable(error, images, series) from None


def _unreadable(error: Exception, images: Sequence[Any], series: DicomSeries) -> ScanError:
    """What a library raised while it decoded pixels or made a volume of them."""
    if any(image.file_meta.TransferSyntaxUID.is_encapsulated for image in images):
        reason = f"its compressed pixels are damaged ({redacted(error, *images[:1])})"
        return ScanError(series.where, reason, AGAIN)
    reason = f"highdicom cannot read it ({type(error).__name__}: {redacted(error, *images[:1])})"
    return ScanError(series.where, reason, "Report it, with what made the file")


def _with_frames(image: Any, series: DicomSeries) -> Any:
    """An enhanced image of the frames of one volume of another one, uncompressed."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.update(image.file_meta)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    some = FileDataset("", {}, file_meta=meta, preamble=b"\0" * PREAMBLE)
    for element in image:
        if element.keyword not in ("PixelData", "PerFrameFunctionalGroupsSequence"):
            some.add(element)
    groups = image.PerFrameFunctionalGroupsSequence
    some.PerFrameFunctionalGroupsSequence = [groups[number] for number in series.frames]
    some.NumberOfFrames = len(series.frames)
    try:
        some.PixelData = image.pixel_array[list(series.frames)].tobytes()
    except Exception as error:
        raise _unreadable(error, [image], series) from None
    return some


def _stack(images: Sequence[Any], series: DicomSeries) -> Stack:
    import highdicom

    tolerance: dict[str, Any] = {"rtol": UNEVEN, "perpendicular_tol": ANY_TILT}
    if text(images[0], "SOPClassUID") == ENHANCED_MR:
        volume = highdicom.Image.from_dataset(images[0], copy=False).get_volume(dtype=np.float32, **tolerance)
    else:
        volume = highdicom.get_volume_from_series(images, dtype=np.float32, **tolerance)
    path = series.files[0]
    positions = np.array([frame.position for image in images for frame in frames_of(path, image)])
    positions = positions[np.argsort(positions @ volume.affine[:3, 0] / np.linalg.norm(volume.affine[:3, 0]))]
    steps = np.arange(len(positions))[:, None]
    away = np.linalg.norm(positions - volume.affine[:3, 3] - steps * volume.affine[:3, 0], axis=1)
    if away.max() <= SHIFT:
        return Stack(volume.array, volume.affine, volume, positions)
    affine = volume.affine.copy()
    affine[:3, 0] = (positions[-1] - positions[0]) / (len(positions) - 1)
    affine[:3, 3] = positions[0]
    return Stack(volume.array, affine, None, positions)
