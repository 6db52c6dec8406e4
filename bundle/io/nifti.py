# SPDX-License-Identifier: Apache-2.0
"""Scans in, in any format of `bundle.io.volumes`, and maps out as NIfTI: tolerant when reading, strict when writing,
whole files or none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor

from ..errors import ScanError
from ..notes import add_note
from .files import whole_file
from .volumes import Volume, open_volume
from .what_it_is import check_intent, check_is_no_label_map

__all__ = ["affine_in_mm", "geometry_of", "read_scan", "scan_from_array", "write_map"]

MIN_VOXELS = 8  # along the two longest axes: less is no picture
SIDES = "Its file does not say how the head lies (orientation codes 0): left and right are a guess."
#: Spatial units of the header → mm; what is not stated is taken for mm, as all readers do.
UNITS_MM = {"mm": 1.0, "micron": 1e-3, "meter": 1e3}


def read_scan(path: str | Path | Sequence[str | Path], channels: int = 1, labels: bool = False) -> MetaTensor:
    """Read one scan, checked for everything that would make its map meaningless.

    Args:
        path: a file (`bundle.io.volumes.READERS`), or a sequence of ``channels`` files on one grid, one contrast each.
        channels: number of contrasts expected; more than one may also come as the fourth axis of a single file.
        labels: a mask or label map is meant, which may be empty.

    Returns:
        float32 tensor (channels, X, Y, Z) with its affine (4 x 4, RAS+ world, mm). Its meta has ``filename_or_obj``,
        and ``original_affine``, ``original_unit`` and ``spatial_shape``, which no transform changes.

    Raises:
        ScanError: unreadable or truncated, not 3-D, empty, not finite, constant, without a usable affine; colours,
            complex numbers, or a mask or label map.
    """
    paths = [path] if isinstance(path, (str, Path)) else list(path)
    volumes = [_read_volume(Path(one), channels if len(paths) == 1 else 1, labels) for one in paths]
    first, meta = volumes[0]
    for one, (volume, its) in zip(paths, volumes, strict=True):
        if volume.shape[1:] != first.shape[1:] or not np.allclose(affine_in_mm(its), affine_in_mm(meta)):
            raise ScanError(one, f"not on the grid of {paths[0]}", "Register and resample the contrasts to one grid")
    data = np.concatenate([volume for volume, _ in volumes])
    if len(data) != channels:
        raise ScanError(paths[0], f"{len(data)} contrasts, the network takes {channels}", "Give the contrasts it takes")
    return MetaTensor(torch.from_numpy(data), affine=torch.from_numpy(affine_in_mm(meta)), meta=meta)


def _meta(name: str | Path, affine: np.ndarray, shape: Sequence[int], unit: str = "mm", code: int = 1) -> dict:
    meta = {
        "filename_or_obj": str(name),
        "original_affine": affine,
        "original_unit": unit,
        "original_code": code,
        "spatial_shape": np.array(shape),
    }
    if code == 0:
        add_note(meta, SIDES)
    return meta


def affine_in_mm(meta: Mapping) -> np.ndarray:
    """Voxel → world (RAS+), 4 x 4, mm, whatever the unit of a scan's own affine.

    Args:
        meta: of a scan as `read_scan` gives it.
    """
    scale = UNITS_MM.get(meta.get("original_unit", "mm"), 1.0)
    return np.diag([scale, scale, scale, 1.0]) @ np.asarray(meta["original_affine"], dtype=np.float64)


def geometry_of(meta: Mapping) -> dict[str, Any]:
    """What `write_map` is to be given so that a map lies as its scan does: its own affine, unit and orientation code.

    Args:
        meta: of a scan as `read_scan` gives it.
    """
    affine = np.asarray(meta["original_affine"], dtype=np.float64)
    return {"affine": affine, "unit": meta.get("original_unit", "mm"), "code": int(meta.get("original_code", 1))}


def scan_from_array(array: np.ndarray, affine: np.ndarray, name: str = "array") -> MetaTensor:
    """A scan in memory as `read_scan` would give it, checked alike.

    Args:
        array: (X, Y, Z).
        affine: voxel → world (RAS+), 4 x 4, mm.
        name: stands for the file in messages.

    Raises:
        ScanError: as `read_scan`.
    """
    array = np.asarray(array)
    _check_numbers(name, array.dtype)
    data = np.array(array, dtype=np.float32)
    _check_shape(name, data.shape)
    _check_values(name, data[None], labels=False)
    check_is_no_label_map(name, data[None])
    affine = _checked_affine(name, affine)
    meta = _meta(name, affine, data.shape)
    return MetaTensor(torch.from_numpy(data[None]), affine=torch.from_numpy(affine), meta=meta)


def _read_volume(path: Path, channels: int, labels: bool) -> tuple[np.ndarray, dict]:
    """The array (channels, X, Y, Z) of a file, and the meta data of a scan."""
    volume = open_volume(path)
    shape = _spatial_shape(volume, channels)
    _check_numbers(path, volume.dtype)
    if not labels:
        check_intent(path, volume.intent)
    _check_shape(path, shape)
    data = np.moveaxis(volume.values().reshape(*shape, -1), -1, 0)
    _check_values(path, data, labels)
    if not labels:
        check_is_no_label_map(path, data)
    affine = _checked_affine(path, volume.affine)
    return np.ascontiguousarray(data), _meta(path, affine, shape, volume.unit, volume.code)


def _spatial_shape(volume: Volume, channels: int) -> tuple[int, ...]:
    """Without further axes that hold one volume, or the contrasts."""
    further = [size for size in volume.shape[3:] if size != 1]
    return volume.shape[:3] if further in ([], [channels]) else volume.shape


def _checked_affine(path: str | Path, affine: np.ndarray) -> np.ndarray:
    affine = np.asarray(affine, dtype=np.float64)
    usable = affine.shape == (4, 4) and np.isfinite(affine).all()
    # Against the edges of the voxel, so that voxels of micrometres pass.
    edges = np.linalg.norm(affine[:3, :3], axis=0).prod() if usable else 0.0
    if edges == 0 or abs(np.linalg.det(affine[:3, :3])) < 1e-6 * edges:
        raise ScanError(path, "its affine is singular or not finite", "Mend the header's sform or qform")
    return affine


def _check_shape(path: str | Path, shape: tuple[int, ...]) -> None:
    if len(shape) != 3:
        raise ScanError(path, f"{len(shape)}-D (shape {shape}), expected 3-D", "Give one volume a file")
    if min(shape) < 1 or sorted(shape)[1] < MIN_VOXELS:
        raise ScanError(path, f"shape {shape} is too small for a scan", "Check that this is the volume meant")


def _check_values(path: str | Path, data: np.ndarray, labels: bool) -> None:
    bad = data.size - int(np.isfinite(data).sum())
    if bad:
        raise ScanError(path, f"{bad} voxels are NaN or infinite", "Replace them, knowing what they stand for")
    for volume in data:
        if not labels and volume.min() == volume.max():
            raise ScanError(path, f"every voxel is {volume.flat[0]:g}", "Check the export: there is no image in it")


def _check_numbers(path: str | Path, dtype: np.dtype) -> None:
    if dtype.fields:
        raise ScanError(
            path, f"a picture in colours ({', '.join(dtype.names or ())})", "Give the scan itself, one number a voxel"
        )
    if np.issubdtype(dtype, np.complexfloating):
        raise ScanError(path, "complex numbers", "Give the magnitude")


def write_map(
    path: str | Path,
    data: np.ndarray,
    affine: np.ndarray,
    dtype: npt.DTypeLike = np.float32,
    unit: str = "mm",
    description: str = "",
    code: int = 1,
) -> None:
    """Write a 3-D array as NIfTI; the file appears under its name when it is complete, or not at all.

    Args:
        path: ends in ``.nii.gz``.
        data: array (X, Y, Z) on the scan's own grid.
        affine: the scan's affine, 4 x 4.
        dtype: type on disk.
        unit: of the affine, by its name in nibabel: mm, micron, meter or unknown.
        description: what the values are, for the header; at most 79 letters of ASCII.
        code: NIfTI's code of the orientation; 0 where the scan does not say how it lies, and neither does its map.

    Raises:
        OutputError: when the file cannot be written (disk full, no permission).
    """
    # Without an orientation nibabel must not be given one: it would write it, with a code.
    image = nib.Nifti1Image(np.asarray(data, dtype=dtype), affine if code else None)
    image.header.set_xyzt_units(unit)
    image.header["descrip"] = description.encode("ascii")
    if code:
        _set_forms(image, affine, code)
    else:
        image.header.set_zooms(np.linalg.norm(np.asarray(affine)[:3, :3], axis=0))
    with whole_file(path) as temporary:
        nib.save(image, temporary)


def _set_forms(image: nib.Nifti1Image, affine: np.ndarray, code: int) -> None:
    """Both forms, so that a reader of either gets the scan's geometry; a qform cannot hold shears (a tilted gantry)."""
    image.set_sform(affine, code=code)
    image.set_qform(affine, code=code)
    if not np.allclose(image.get_qform(), affine, atol=1e-3):
        image.set_qform(None, code=0)
