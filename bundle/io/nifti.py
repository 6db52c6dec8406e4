# SPDX-License-Identifier: Apache-2.0
"""Scans in, in any format of `bundle.io.volumes`, and maps out as NIfTI: tolerant when reading, strict when writing,
whole files or none.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor

from ..errors import ScanError
from .files import whole_file
from .volumes import open_volume

__all__ = ["read_scan", "scan_from_array", "write_map"]

FEW_NUMBERS = 16  # different ones: no scan has so few
MANY_LABELS = 1000  # more are no labels
EVEN = 0.65  # of neighbours that are equal: scans of 256 grey values have up to 0.32, label maps 0.86 and more
MIN_VOXELS = 8  # along the two longest axes: less is no picture
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
    first, affine, unit = volumes[0]
    for one, (volume, its_affine, _) in zip(paths, volumes, strict=True):
        if volume.shape[1:] != first.shape[1:] or not np.allclose(its_affine, affine):
            raise ScanError(one, f"not on the grid of {paths[0]}", "Register and resample the contrasts to one grid")
    data = np.concatenate([volume for volume, _, _ in volumes])
    if len(data) != channels:
        raise ScanError(paths[0], f"{len(data)} contrasts, the network takes {channels}", "Give the contrasts it takes")
    meta = _meta(paths[0], affine, unit, data.shape[1:])
    return MetaTensor(torch.from_numpy(data), affine=torch.from_numpy(_millimetres(affine, unit)), meta=meta)


def _meta(name: str | Path, affine: np.ndarray, unit: str, shape: Sequence[int]) -> dict:
    return {
        "filename_or_obj": str(name),
        "original_affine": affine,
        "original_unit": unit,
        "spatial_shape": np.array(shape),
    }


def _millimetres(affine: np.ndarray, unit: str) -> np.ndarray:
    return np.diag([*[UNITS_MM.get(unit, 1.0)] * 3, 1.0]) @ affine


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
    _check_is_no_label_map(name, data[None])
    affine = _checked_affine(name, affine)
    return MetaTensor(
        torch.from_numpy(data[None]), affine=torch.from_numpy(affine), meta=_meta(name, affine, "mm", data.shape)
    )


def _read_volume(path: Path, channels: int, labels: bool) -> tuple[np.ndarray, np.ndarray, str]:
    volume = open_volume(path)
    shape = volume.shape
    if len(shape) == 4 and shape[3] in (1, channels):
        shape = shape[:3]
    _check_numbers(path, volume.dtype)
    _check_shape(path, shape)
    data = np.moveaxis(volume.values().reshape(*shape, -1), -1, 0)
    _check_values(path, data, labels)
    if not labels:
        _check_is_no_label_map(path, data)
    return np.ascontiguousarray(data), _checked_affine(path, volume.affine), volume.unit


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


def _check_is_no_label_map(path: str | Path, data: np.ndarray) -> None:
    """Masks and label maps: whole numbers, few of them, or in patches of one number as no scan has them."""
    for volume in data:
        if (volume != np.round(volume)).any():
            continue
        values, counts = np.unique(volume, return_counts=True)
        background = values[counts.argmax()]
        if len(values) <= FEW_NUMBERS or (len(values) <= MANY_LABELS and _even_share(volume, background) > EVEN):
            reason = f"a mask or label map: {len(values)} different whole numbers"
            raise ScanError(path, reason, "Give the scan that it was drawn on")


def _even_share(volume: np.ndarray, background: float) -> float:
    """Of neighbours along the first axis, neither of them background: the share that are equal."""
    near, far = volume[:-1], volume[1:]
    inside = (near != background) & (far != background)
    return float((near == far)[inside].mean()) if inside.any() else 1.0


def write_map(
    path: str | Path,
    data: np.ndarray,
    affine: np.ndarray,
    dtype: npt.DTypeLike = np.float32,
    unit: str = "mm",
    description: str = "",
) -> None:
    """Write a 3-D array as NIfTI; the file appears under its name when it is complete, or not at all.

    Args:
        path: ends in ``.nii.gz``.
        data: array (X, Y, Z) on the scan's own grid.
        affine: the scan's affine, 4 x 4.
        dtype: type on disk.
        unit: of the affine, by its name in nibabel: mm, micron, meter or unknown.
        description: what the values are, for the header; at most 79 letters of ASCII.

    Raises:
        OutputError: when the file cannot be written (disk full, no permission).
    """
    image = nib.Nifti1Image(np.asarray(data, dtype=dtype), affine)
    image.header.set_xyzt_units(unit)
    image.header["descrip"] = description.encode("ascii")
    # Both forms, so that a reader of either gets the scan's geometry; a qform cannot hold shears (a tilted gantry).
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    if not np.allclose(image.get_qform(), affine, atol=1e-3):
        image.set_qform(None, code=0)
    with whole_file(path) as temporary:
        nib.save(image, temporary)
