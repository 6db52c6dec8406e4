# SPDX-License-Identifier: Apache-2.0
"""Files of volumes: ending → reader, one table. Whatever the format, a volume comes with an affine to RAS+ world."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar, cast

import nibabel as nib
import numpy as np

from ..errors import ScanError
from .content import check_content, is_file

Read = TypeVar("Read")

__all__ = ["READERS", "Volume", "ending_of", "files_of", "open_volume"]

DATA_FILE = re.compile(r"^(?:ElementDataFile\s*=|data ?file\s*:)(.*)$", re.IGNORECASE | re.MULTILINE)
DETACHED = (".mhd", ".nhdr")  # headers that name the files of their data
MOST_VOXELS = 2**31  # more than any scanner gives; a header that says so is wrong
MOST_PACKED = 1100  # bytes that deflate makes of one at most, and a little
NRRD_HEADER = 2**16  # bytes, more than any
HDF5 = b"\x89HDF\r\n\x1a\n"  # what a file of MINC 2 begins with


@dataclass(frozen=True)
class Volume:
    """A file whose header has been read.

    Attributes:
        shape: of the array, spatial axes first.
        dtype: of its numbers on disk.
        affine: voxel → world (RAS+), 4 x 4, in ``unit``.
        unit: by its name in nibabel: mm, micron, meter or unknown.
        values: reads the array, float32.
        code: NIfTI's code of its orientation, 0 where the file does not say how it lies, so that sides are a guess.
        intent: NIfTI's code of what the numbers mean, 0 for none in particular.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    affine: np.ndarray
    unit: str
    values: Callable[[], np.ndarray]
    code: int = 1
    intent: int = 0


def open_volume(path: str | Path) -> Volume:
    """Read the header of a volume.

    Raises:
        ScanError: when there is no such file, or it is none of `READERS`, or broken.
    """
    path = Path(path)
    check_content(path)
    for part in files_of(path)[1:]:
        check_content(part)
    reader = READERS.get(ending_of(path), NIFTI)
    volume = guarded(path, lambda: reader.read(path))
    _check_size(path, volume)
    return volume


def _check_size(path: Path, volume: Volume) -> None:
    """Before anything of that size is asked of the memory."""
    claimed, files = int(np.prod(volume.shape, dtype=object)), files_of(path)
    held = MOST_PACKED * sum(one.stat().st_size for one in files)
    elsewhere = ending_of(path) in DETACHED and len(files) == 1  # in a file a slice
    if claimed > MOST_VOXELS or (claimed > held and not elsewhere):
        reason = f"its header claims {claimed} voxels (shape {volume.shape}), more than the file can hold"
        raise ScanError(path, reason, "Export or download it again")


def files_of(path: str | Path) -> list[Path]:
    """A scan's file and, where its data lie in another one, that too."""
    path = Path(path)
    if ending_of(path) == ".hdr":
        return [path, path.with_suffix(".img")]
    if ending_of(path) not in DETACHED:
        return [path]
    named = DATA_FILE.search(path.read_text(encoding="latin-1"))
    data = path.parent / named[1].strip() if named else path
    return [path, data] if data != path and is_file(data) else [path]


def guarded(path: Path, read: Callable[[], Read]) -> Read:
    """What a library reads; whatever it raises on a broken file is one clear error.

    Raises:
        ScanError: when it raises.
    """
    try:
        return read()
    except ScanError:
        raise
    except ImportError as error:
        reason = f"its reader needs a package that is not here ({error})"
        raise ScanError(path, reason, "Install it with pip") from error
    except MemoryError as error:
        raise ScanError(path, "larger than the memory", "Check that its header is right") from error
    except Exception as error:  # of any kind: what libraries raise on a broken file is no list that ends
        kind = READERS.get(ending_of(path), NIFTI).format
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ScanError(path, f"not readable as {kind} ({reason})", "Export or download it again") from error


def ending_of(path: str | Path) -> str:
    """The ending of `READERS` that a file has, in lower case; empty for another."""
    name = Path(path).name.lower()
    return next((ending for ending in READERS if name.endswith(ending)), "")


def _nibabel(path: Path) -> Volume:
    image = nib.load(path)
    if not isinstance(image, nib.spatialimages.SpatialImage):
        kind = type(image).__name__.removesuffix("Image")
        raise ScanError(path, f"values on a surface ({kind}), no volume", "Give the scan itself")
    unit = image.header.get_xyzt_units()[0] if hasattr(image.header, "get_xyzt_units") else "mm"
    return Volume(
        image.shape,
        image.get_data_dtype(),
        cast(np.ndarray, image.affine),
        unit,
        lambda: guarded(path, lambda: np.asarray(image.dataobj, dtype=np.float32)),
        _orientation_code(path, image),
        int(image.header["intent_code"]) if isinstance(image, nib.Nifti1Pair) else 0,
    )


def _minc(path: Path) -> Volume:
    with path.open("rb") as file:
        if file.read(len(HDF5)) == HDF5 and find_spec("h5py") is None:
            raise ScanError(path, "reading MINC 2 needs h5py", 'pip install "flipmap[minc]"')
    return _nibabel(path)


def _orientation_code(path: Path, image: nib.spatialimages.SpatialImage) -> int:
    """The code of the form that the affine is of; formats that always have an orientation count as a scanner's."""
    if isinstance(image, nib.Nifti1Pair):
        return int(image.header["sform_code"]) or int(image.header["qform_code"])
    if isinstance(image, nib.AnalyzeImage):  # SPM keeps the orientation in a file beside it
        return int(path.with_suffix(".mat").is_file())
    return int(image.header["goodRASFlag"] > 0) if isinstance(image, nib.MGHImage) else 1


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
    return Volume(tuple(size), dtype, affine, "mm", values, int(_is_placed(path)))


def _is_placed(path: Path) -> bool:
    """Whether a file of ITK's says how it lies; an NRRD without space does not, and counts as LPS."""
    if READERS[ending_of(path)].format != "NRRD":
        return True
    with path.open("rb") as file:
        header = file.read(NRRD_HEADER).split(b"\n\n")[0].split(b"\r\n\r\n")[0].lower()
    return re.search(rb"^space( dimension)?:", header, re.MULTILINE) is not None


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
    ".mnc": Reader("MINC", _minc),
}
