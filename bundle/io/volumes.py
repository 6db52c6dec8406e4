# SPDX-License-Identifier: Apache-2.0
"""Files of volumes: ending → reader, one table. Whatever the format, a volume comes with an affine to RAS+ world."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from ..errors import ScanError

Read = TypeVar("Read")

__all__ = ["READERS", "Volume", "ending_of", "files_of", "open_volume"]

FAILURES = (ImageFileError, HeaderDataError, OSError, EOFError, zlib.error, ValueError, RuntimeError)
DATA_FILE = re.compile(r"^(?:ElementDataFile\s*=|data ?file\s*:)(.*)$", re.IGNORECASE | re.MULTILINE)
MOST_VOXELS = 2**31  # more than any scanner gives; a header that says so is wrong


@dataclass(frozen=True)
class Volume:
    """A file whose header has been read.

    Attributes:
        shape: of the array, spatial axes first.
        dtype: of its numbers on disk.
        affine: voxel → world (RAS+), 4 x 4, in ``unit``.
        unit: by its name in nibabel: mm, micron, meter or unknown.
        values: reads the array, float32.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    affine: np.ndarray
    unit: str
    values: Callable[[], np.ndarray]


def open_volume(path: str | Path) -> Volume:
    """Read the header of a volume.

    Raises:
        ScanError: when there is no such file, or it is none of `READERS`, or broken.
    """
    path = Path(path)
    if not path.is_file():
        raise ScanError(path, "no such file", "Check the path")
    reader = READERS.get(ending_of(path), NIFTI)
    volume = guarded(path, lambda: reader.read(path))
    if int(np.prod(volume.shape, dtype=object)) > MOST_VOXELS:
        raise ScanError(path, f"shape {volume.shape} is larger than the memory", "Check that its header is right")
    return volume


def files_of(path: str | Path) -> list[Path]:
    """A scan's file and, where its data lie in another one, that too."""
    path = Path(path)
    if ending_of(path) == ".hdr":
        return [path, path.with_suffix(".img")]
    if ending_of(path) not in (".mhd", ".nhdr"):
        return [path]
    named = DATA_FILE.search(path.read_text(encoding="latin-1"))
    data = path.parent / named[1].strip() if named else path
    return [path, data] if data != path and data.is_file() else [path]


def guarded(path: Path, read: Callable[[], Read]) -> Read:
    """What a library reads; whatever it raises on a broken file is one clear error.

    Raises:
        ScanError: when it raises.
    """
    try:
        return read()
    except ImportError as error:
        raise ScanError(
            path, f"its reader needs a package that is not here ({error})", "Install it with pip"
        ) from error
    except MemoryError as error:
        raise ScanError(path, "larger than the memory", "Check that its header is right") from error
    except FAILURES as error:
        kind = READERS.get(ending_of(path), NIFTI).format
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ScanError(path, f"not readable as {kind} ({reason})", "Export or download it again") from error


def ending_of(path: str | Path) -> str:
    """The ending of `READERS` that a file has, in lower case; empty for another."""
    name = Path(path).name.lower()
    return next((ending for ending in READERS if name.endswith(ending)), "")


def _nibabel(path: Path) -> Volume:
    image = cast(nib.spatialimages.SpatialImage, nib.load(path))
    unit = image.header.get_xyzt_units()[0] if hasattr(image.header, "get_xyzt_units") else "mm"
    return Volume(
        image.shape,
        image.get_data_dtype(),
        image.affine,
        unit,
        lambda: guarded(path, lambda: np.asarray(image.dataobj, dtype=np.float32)),
    )


def _simpleitk(path: Path) -> Volume:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    dimensions, components = reader.GetDimension(), reader.GetNumberOfComponents()
    size = (*reader.GetSize(), *((components,) if components > 1 else ()))
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    affine = np.eye(4)
    if dimensions >= 3:
        # ITK's world is LPS+; of four axes the first three are space.
        turn = np.array(reader.GetDirection()).reshape(dimensions, dimensions)[:3, :3]
        affine[:3, :3] = turn * np.array(reader.GetSpacing())[:3]
        affine[:3, 3] = reader.GetOrigin()[:3]
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine

    def values() -> np.ndarray:
        array = sitk.GetArrayFromImage(guarded(path, reader.Execute)).astype(np.float32)
        axes = tuple(reversed(range(dimensions)))  # SimpleITK's arrays have the last axis first, components last
        return array.transpose(*axes, *range(dimensions, array.ndim))

    dtype = np.dtype(np.complex64) if "complex" in kind else np.dtype(np.float32)
    return Volume(tuple(size), dtype, affine, "mm", values)


@dataclass(frozen=True)
class Reader:
    """How files of an ending are read.

    Attributes:
        format: its name.
        read: path → volume.
    """

    format: str
    read: Callable[[Path], Volume]


NIFTI = Reader("NIfTI", _nibabel)
#: Ending → reader; the longer one first where one ends another. Finders, loaders and `flipmap run --help` ask it.
READERS = {
    ".nii.gz": NIFTI,
    ".nii": NIFTI,
    ".mgz": Reader("MGZ", _nibabel),
    ".mgh": Reader("MGH", _nibabel),
    ".hdr": Reader("Analyze", _nibabel),
    ".img": Reader("Analyze", _nibabel),
    ".nrrd": Reader("NRRD", _simpleitk),
    ".nhdr": Reader("NRRD", _simpleitk),
    ".mha": Reader("MetaImage", _simpleitk),
    ".mhd": Reader("MetaImage", _simpleitk),
    ".mnc": Reader("MINC", _nibabel),
}
