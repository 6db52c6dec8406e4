# SPDX-License-Identifier: Apache-2.0
"""Optical coherence tomography in: pictures of B-scans, folders and stacks of them, vendors' files, DICOM.

Whatever it comes from, a scan is (1, X, Y, Z): X along a B-scan, Y into depth (the vitreous at 0), Z from B-scan to
B-scan. In the world X runs to the right, depth backwards, Z upwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from PIL import Image, ImageSequence, UnidentifiedImageError

from ..errors import ScanError
from .content import check_content
from .nifti import read_scan
from .topcon import read_fda

__all__ = ["ASSUMED_UM", "PICTURES", "VENDORS", "oct_scan", "read_oct"]

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
NIFTI = (".nii.gz", ".nii")
DICOM_ENDINGS = (".dcm", ".dicom")
#: Pixel along the B-scan, pixel into depth, and step between B-scans, µm, where a file says nothing: Spectralis.
ASSUMED_UM = (11.5, 3.87, 120.0)
DEGREE_MM = 0.2896  # of the retina, in an eye of medium length
LEAST = 32  # pixels of a B-scan, either way
MICROMETRES = "micron"  # the name of the unit in nibabel
OPT_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.5.4"  # Ophthalmic Tomography Image Storage


def read_oct(path: str | Path | Sequence[str | Path], voxel_um: Sequence[float] | None = None) -> MetaTensor:
    """Read one scan, checked for everything that would make its map meaningless.

    Args:
        path: a picture (a TIFF may hold several B-scans), a sequence of pictures of one size, a folder of them, a
            NIfTI volume (X, Y, Z) as above, a vendor's file (`VENDORS`), or ophthalmic tomography in DICOM.
        voxel_um: size along X, Y and, if need be, Z, where the file does not say or says wrong.

    Returns:
        float32 (1, X, Y, Z) in mm. Its meta has ``filename_or_obj``, ``original_affine`` and ``original_unit`` (what
        a map is written with: micrometres, or those of the NIfTI file; voxels where the size is not known),
        ``spatial_shape``.

    Raises:
        ScanError: unreadable, empty, constant, not finite, too small, in colours, or of several sizes.
    """
    if isinstance(path, (str, Path)):
        path = Path(path)
        name = path.name.lower()
        if path.is_dir():
            return _from_pictures(path, sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURES), voxel_um)
        check_content(path)
        if name.endswith(NIFTI):
            return _from_nifti(path, voxel_um)
        if path.suffix.lower() in PICTURES:
            return _from_pictures(path, [path], voxel_um)
        reader = VENDORS.get(path.suffix.lower(), _from_dicom)
        bscans, found_um = _guard(path, reader)
        return oct_scan(path, bscans, voxel_um or found_um)
    return _from_pictures(path[0], [Path(p) for p in path], voxel_um)


def oct_scan(name: str | Path, bscans: np.ndarray, voxel_um: Sequence[float] | None = None) -> MetaTensor:
    """A scan in memory as `read_oct` would give it, checked alike.

    Args:
        name: stands for the file in messages.
        bscans: (Z, Y, X): pictures one after the other, rows into depth.
        voxel_um: X, Y, and, if there are several B-scans, Z.

    Raises:
        ScanError: as `read_oct`.
    """
    data = np.asarray(bscans, dtype=np.float32)
    if data.ndim != 3 or min(data.shape[1:]) < LEAST:
        raise ScanError(name, f"shape {data.shape} is no stack of B-scans", f"Give at least {LEAST} x {LEAST} pixels")
    if not np.isfinite(data).all():
        raise ScanError(name, f"{int((~np.isfinite(data)).sum())} pixels are NaN or infinite", "Replace them")
    if data.min() == data.max():
        raise ScanError(name, f"every pixel is {data.flat[0]:g}", "Check the export: there is no image in it")
    known, given = voxel_um is not None, list(voxel_um or ())
    size = [*given, *ASSUMED_UM[len(given) :]]
    if min(size) <= 0:
        raise ScanError(name, f"a voxel size of {size} µm", "Give voxel_um: X, Y and Z, each above 0")
    affine = np.diag([size[0], -size[1], size[2], 1000.0]) / 1000
    meta = {
        "filename_or_obj": str(name),
        # What is not known is not claimed: a map then has voxels for units.
        "original_affine": np.diag([size[0], -size[1], size[2], 1.0]) if known else np.diag([1.0, -1.0, 1.0, 1.0]),
        "original_unit": MICROMETRES if known else "unknown",
        "spatial_shape": np.array(data.shape[::-1]),
    }
    volume = np.ascontiguousarray(data.transpose(2, 1, 0))[None]
    return MetaTensor(torch.from_numpy(volume), affine=torch.from_numpy(affine), meta=meta)


def _from_pictures(where: str | Path, files: Sequence[Path], voxel_um: Sequence[float] | None) -> MetaTensor:
    if not files:
        raise ScanError(where, "no picture in the folder", f"Give B-scans as {', '.join(PICTURES)}")
    frames = [frame for file in files for frame in _frames(file)]
    sizes = {frame.shape for frame in frames}
    if len(sizes) > 1:
        raise ScanError(where, f"B-scans of {len(sizes)} sizes", "Give B-scans of one scan in a folder of their own")
    return oct_scan(where, np.stack(frames), voxel_um)


def _frames(path: Path) -> list[np.ndarray]:
    """The pages of a picture, grey, (rows, columns) each."""
    try:
        with Image.open(path) as picture:
            return [_grey(path, page) for page in ImageSequence.Iterator(picture)]
    except ScanError:
        raise
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise ScanError(path, f"not readable as a picture ({reason})", "Export or download it again") from error


def _grey(path: Path, page: Image.Image) -> np.ndarray:
    if page.mode in ("L", "I", "F", "1") or page.mode.startswith("I;16"):
        return np.asarray(page, dtype=np.float32)
    if page.mode == "LA":
        return np.asarray(page.getchannel("L"), dtype=np.float32)
    colours = np.asarray(page.convert("RGB"), dtype=np.float32)
    if np.ptp(colours, axis=2).mean() > 2:
        raise ScanError(path, "a picture in colours: a fundus photograph, or a map", "Give the B-scan in grey")
    return colours.mean(2)


def _from_nifti(path: Path, voxel_um: Sequence[float] | None) -> MetaTensor:
    scan = read_scan(path)
    if min(scan.shape[1:3]) < LEAST:
        raise ScanError(path, f"shape {tuple(scan.shape[1:])} is no stack of B-scans", "Give X, depth and B-scans")
    if voxel_um is not None:
        size = [*voxel_um, *ASSUMED_UM[len(voxel_um) :]]
        scan.affine = torch.diag(torch.tensor([size[0], -size[1], size[2], 1000.0], dtype=torch.float64)) / 1000
    return scan


def _guard(path: Path, reader: Callable[[Path], tuple]) -> tuple[np.ndarray, Sequence[float] | None]:
    """What a library reads; whatever it raises on a broken file is one clear error."""
    try:
        return reader(path)
    except (ScanError, MemoryError):
        raise
    except ImportError as error:
        raise ScanError(path, f"reading it needs {error.name}", 'pip install ".[oct]"') from error
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ScanError(path, f"not readable as {path.suffix or 'DICOM'} ({reason})", "Export it again") from error


def _from_vol(path: Path) -> tuple[np.ndarray, Sequence[float] | None]:
    """Heidelberg's .vol, by eyepy."""
    import eyepy

    volume = eyepy.import_heyex_vol(path)
    size = None
    if volume.scale_unit == "mm":
        size = [1000 * float(s) for s in (volume.scale_x, volume.scale_y, volume.scale_z)]
        size = size if len(volume.data) > 1 and size[2] > 0 else size[:2]  # one B-scan has no step
    return np.asarray(volume.data, dtype=np.float32), size


def _from_e2e(path: Path) -> tuple[np.ndarray, Sequence[float] | None]:
    """Heidelberg's .e2e, by eyepy: its first volume. The file has angles; millimetres are those of a medium eye."""
    import eyepy

    volume = eyepy.import_heyex_e2e(path)
    frames = volume.meta["bscan_meta"]
    along = np.subtract(frames[0]["end_pos"], frames[0]["start_pos"])
    across = np.subtract(frames[-1]["start_pos"], frames[0]["start_pos"])
    size = [
        1000 * DEGREE_MM * float(np.hypot(*along)) / volume.data.shape[2],
        1000 * float(frames[0]["scale_y"]),
        1000 * DEGREE_MM * float(np.hypot(*across)) / max(len(frames) - 1, 1),
    ]
    size = size if len(frames) > 1 and size[2] > 0 else size[:2]
    return np.asarray(volume.data, dtype=np.float32), size if min(size) > 0 else None


def _from_bioptigen(path: Path) -> tuple[np.ndarray, Sequence[float] | None]:
    """Bioptigen's .oct, by oct-converter."""
    from oct_converter.readers import BOCT

    found = BOCT(path).read_oct_volume()
    found = found[0] if isinstance(found, list) else found
    return np.stack(found.volume).astype(np.float32), None


def _from_dicom(path: Path) -> tuple[np.ndarray, Sequence[float] | None]:
    """Ophthalmic Tomography Image Storage, a frame a B-scan."""
    import pydicom

    dataset = pydicom.dcmread(path)
    if dataset.SOPClassUID != OPT_CLASS:
        raise ScanError(path, f"{dataset.SOPClassUID.name}, not ophthalmic tomography", "Give the OCT series")
    frames = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    return frames.astype(np.float32), _dicom_um(dataset, len(frames))


def _dicom_um(dataset: Any, frames: int) -> list[float] | None:
    """Voxel size from the functional groups, µm; the step between B-scans from their positions where they are given."""
    groups = [*dataset.get("SharedFunctionalGroupsSequence", []), *dataset.get("PerFrameFunctionalGroupsSequence", [])]
    measures = next((g.PixelMeasuresSequence[0] for g in groups if "PixelMeasuresSequence" in g), None)
    if measures is None or "PixelSpacing" not in measures:
        return None
    down, along = (1000 * float(s) for s in measures.PixelSpacing)
    positions = [g.PlanePositionSequence[0].ImagePositionPatient for g in groups if "PlanePositionSequence" in g]
    if frames > 1 and len(positions) == frames:
        step = np.median(np.linalg.norm(np.diff(np.array(positions, dtype=float), axis=0), axis=1))
        if step > 0:
            return [along, down, 1000 * float(step)]
    thickness = 1000 * float(measures.get("SliceThickness", 0) or 0)
    return [along, down, thickness] if frames > 1 and thickness > 0 else [along, down]


#: Endings of vendors' files → reader: path → B-scans (Z, Y, X), voxel size in µm or None.
VENDORS = {".vol": _from_vol, ".e2e": _from_e2e, ".fda": read_fda, ".oct": _from_bioptigen}
