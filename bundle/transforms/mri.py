# SPDX-License-Identifier: Apache-2.0
"""Brain MRI from what a scanner gives to the model's grid, and back."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform, Orientation
from monai.utils import TraceKeys
from scipy import ndimage

from ..errors import ContrastError, ScanError
from ..io.dicom import DicomSeries, read_series
from ..io.nifti import read_scan
from ..names import contrast_by_name
from .head import box_around, head_mask, largest_piece, reference_intensity
from .resample import resample

__all__ = ["LoadScand", "ScaleHeadIntensityd", "ToModelGridd", "contrast_by_name", "to_axial"]

SPREAD_MM = 2.0  # detail from which on contrast counts
POWERS = (0.5, 1.65)  # of intensities: 88 FLAIR scans ask for 0.55 to 1.62


def to_axial(scan: MetaTensor) -> MetaTensor:
    """Flip and permute the axes of (C, X, Y, Z) to LPS, so that Z runs across axial slices; nothing is resampled."""
    return cast(MetaTensor, Orientation(axcodes="LPS", labels=(("L", "R"), ("P", "A"), ("I", "S")))(scan))


class LoadScand(MapTransform):
    """Read scans by `bundle.io.nifti.read_scan`; labels, which may be empty, by their ``label_keys``.

    Args:
        keys: keys of file paths, DICOM series, or scans in memory.
        channels: number of contrasts of a scan.
        label_keys: those of ``keys`` that hold masks: one channel, and an empty one is no error.
        allow_missing_keys: leave out keys that a case has not got.
        contrast: BIDS suffix of the contrast wanted; a file whose name says another one is refused, a file whose name
            says nothing is taken. None takes all.

    Raises:
        ScanError: when a file cannot be read.
        ContrastError: when it is of another contrast by its name.
    """

    def __init__(
        self,
        keys: KeysCollection,
        channels: int = 1,
        label_keys: Sequence[str] = (),
        allow_missing_keys: bool = False,
        contrast: str | None = None,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.channels, self.label_keys, self.contrast = channels, tuple(label_keys), contrast

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        d = dict(data)
        for key in self.key_iterator(d):
            if self.contrast and isinstance(d[key], (str, Path)) and key not in self.label_keys:
                self._check_contrast(Path(d[key]))
            if isinstance(d[key], MetaTensor):
                continue  # in memory already
            if isinstance(d[key], DicomSeries):
                d[key] = read_series(d[key])
                continue
            d[key] = read_scan(d[key], 1 if key in self.label_keys else self.channels, key in self.label_keys)
        return d

    def _check_contrast(self, path: Path) -> None:
        said = contrast_by_name(path)
        if said and said != self.contrast:
            raise ContrastError(
                path,
                f"{said} by its name, the weights are for {self.contrast}",
                "Give that contrast, or other weights",
                said,
            )


class ScaleHeadIntensityd(MapTransform):
    """Intensities in units of the brain's: x ↦ clip((x / reference)^p / headroom, 0, 1), each channel alone.

    The reference is one number a scan and channel, never one a slice: the median over the brain mask, or, where a case
    has none, `reference_intensity`. So is p, by which scanners of little and of much contrast are brought together:
    the brain's median absolute deviation, which p multiplies (d(x^p) = p dx at the reference), becomes ``spread``.

    Args:
        keys: keys of scans (C, X, Y, Z), background at 0, foot to head along the last axis.
        headroom: where the scale ends, in multiples of the reference intensity.
        mask_key: key of the brain mask, over which reference and spread are taken where the case has one.
        spread: of the brain, in multiples of the reference; None, or a case without a mask, leaves contrast as it is.

    Raises:
        ScanError: when no head can be found.
    """

    def __init__(
        self, keys: KeysCollection, headroom: float = 3.0, mask_key: str = "brain", spread: float | None = None
    ) -> None:
        super().__init__(keys)
        self.headroom, self.mask_key, self.spread = headroom, mask_key, spread

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        d = dict(data)
        for key in self.key_iterator(d):
            scan = d[key]
            spacing = tuple(float(s) for s in scan.pixdim)
            name = scan.meta.get("filename_or_obj", key)
            brain = d[self.mask_key].numpy()[0] > 0 if self.mask_key in d else None
            d[key] = MetaTensor(
                torch.stack([torch.from_numpy(self._scale(c, spacing, name, brain)) for c in scan.numpy()]),
                meta=scan.meta,
                applied_operations=scan.applied_operations,
            )
        return d

    def _scale(self, volume: np.ndarray, spacing: tuple, name: str, brain: np.ndarray | None) -> np.ndarray:
        if brain is None:
            mask = head_mask(volume, spacing)
            reference = reference_intensity(volume, mask, spacing) if mask.any() else 0.0
        else:
            reference = float(np.median(volume[brain])) if brain.any() else 0.0
        if reference <= 0:
            raise ScanError(name, "no head stands out from the background", "Check that this is a head scan")
        volume = volume / reference
        if self.spread is not None and brain is not None:
            volume = volume ** _power(volume, brain, spacing, self.spread)
        return np.clip(volume / self.headroom, 0, 1).astype(np.float32)


def _power(volume: np.ndarray, brain: np.ndarray, spacing: tuple, spread: float) -> float:
    """The power that gives the brain this spread around 1, within `POWERS`; noise finer than 2 mm does not count."""
    sigma = [_box_sigma(SPREAD_MM / s) for s in spacing]
    box = box_around(brain, sigma)
    smooth = ndimage.gaussian_filter(volume[box], sigma)
    found = float(np.median(np.abs(smooth[brain[box]] - 1)))
    return float(np.clip(spread / max(found, 1e-6), *POWERS))


class ToModelGridd(MapTransform, InvertibleTransform):
    """Resample onto the model's grid, in the scan's own planes, centred on the head; its inverse returns exactly
    to the scan's grid.

    In plane the grid has a fixed size and spacing. Across planes the slices stay as acquired, unless they are so thin
    that several fit into ``slice_spacing``: then that many are averaged. Scans are low-pass filtered first where the
    new grid is coarser.

    Args:
        keys: keys of tensors (C, X, Y, Z) on one grid, oriented so that Z runs across axial planes.
        size: in-plane grid, voxels.
        spacing: in-plane voxel size, mm.
        slice_spacing: thickness to average thin slices to, mm.
        source_key: the scan, or the mask, whose outline is put into the middle.
        allow_missing_keys: leave out keys that a case has not got.
    """

    def __init__(
        self,
        keys: KeysCollection,
        size: Sequence[int] = (128, 128),
        spacing: float = 1.875,
        slice_spacing: float = 3.0,
        source_key: str = "image",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.size, self.spacing, self.slice_spacing, self.source_key = tuple(size), spacing, slice_spacing, source_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        d = dict(data)
        source = d[self.source_key]
        to_voxel, shape, step = self._grid(source)
        affine = source.affine @ torch.as_tensor(to_voxel, dtype=source.affine.dtype)
        for key in self.key_iterator(d):
            scan = d[key]
            meta = {name: value for name, value in scan.meta.items() if name != "affine"}
            values = resample(_low_pass(scan, step), to_voxel, shape)
            result = MetaTensor(values, affine=affine, meta=meta, applied_operations=list(scan.applied_operations))
            trace = {"to_voxel": to_voxel.tolist(), "affine": scan.affine.tolist()}
            self.push_transform(result, orig_size=scan.shape[1:], extra_info=trace)
            d[key] = result
        return d

    def inverse(self, data: Mapping[Hashable, Any]) -> dict:
        d = dict(data)
        for key in self.key_iterator(d):
            applied = self.pop_transform(d[key])
            trace, size = applied[TraceKeys.EXTRA_INFO], tuple(applied[TraceKeys.ORIG_SIZE])
            # Beyond the outermost slices of the grid a map goes on; it is not faded into the air that is not there.
            values = resample(d[key].as_tensor().cpu(), np.linalg.inv(trace["to_voxel"]), size, beyond="border")
            meta = {name: value for name, value in d[key].meta.items() if name != "affine"}
            affine = torch.as_tensor(trace["affine"], dtype=torch.float64)
            d[key] = MetaTensor(values, affine=affine, meta=meta, applied_operations=d[key].applied_operations)
        return d

    def _grid(self, source: MetaTensor) -> tuple[np.ndarray, tuple[int, ...], np.ndarray]:
        """Index of the model grid → of the scan (4, 4), shape of the grid, its steps in voxels of the scan."""
        spacing = np.array([float(s) for s in source.pixdim])
        mask = _outline(source.numpy(), tuple(spacing))
        thin = max(1, round(self.slice_spacing / spacing[2]))
        step = np.array([self.spacing / spacing[0], self.spacing / spacing[1], thin])
        shape = (*self.size, max(1, int(np.ceil(source.shape[3] / thin))))
        extent = [np.flatnonzero(mask.any(tuple(a for a in range(3) if a != axis))) for axis in range(2)]
        centre = [(e[0] + e[-1]) / 2 if e.size else (n - 1) / 2 for e, n in zip(extent, source.shape[1:3], strict=True)]
        first = [centre[axis] - step[axis] * (shape[axis] - 1) / 2 for axis in range(2)]
        to_voxel = np.diag([*step, 1.0])
        across = (source.shape[3] - 1 - thin * (shape[2] - 1)) / 2  # as much left over at the foot as at the top
        to_voxel[:3, 3] = [*first, across]
        return to_voxel, shape, step


def _outline(source: np.ndarray, spacing: tuple) -> np.ndarray:
    """What is to be in the middle: the head in a scan (C, X, Y, Z), a mask (1, X, Y, Z) as it is."""
    if len(source) == 1 and ((source == 0) | (source == 1)).all():
        return largest_piece(source[0] > 0)
    return head_mask(source.mean(0), spacing)


def _low_pass(scan: MetaTensor, step: np.ndarray) -> torch.Tensor:
    """Gaussian of the variance that a box of ``step`` voxels has more than one of a single voxel."""
    sigma = [_box_sigma(s) for s in step]
    return torch.from_numpy(ndimage.gaussian_filter(scan.numpy(), sigma=[0, *sigma]))


def _box_sigma(width: float) -> float:
    """Of the Gaussian whose variance a box of ``width`` voxels has more than one of a single voxel."""
    return float(np.sqrt(max(width * width - 1, 0) / 12))
