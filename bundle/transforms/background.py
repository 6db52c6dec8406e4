# SPDX-License-Identifier: Apache-2.0
"""The background of a scan at zero, before anything looks at intensities: scans come with offsets, as z-scores, or in a
bright frame, and are the same scans.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from scipy import ndimage

from ..errors import ScanError
from .no_scan import refuse_signed_kinds

__all__ = ["BackgroundToZerod", "background_to_zero"]

EDGE = 0.04  # of the frame, in plane: the columns at its four corners are air or fill
FILLED = 0.5  # of their voxels with one value: a fill, not the noise of air
BELOW = 0.01  # of what is not fill, darker than the fill: the fill is not the lowest value that there is
LOWEST = 0.001  # quantile of what is not fill, below which a value may be astray
STRAY = 0.05  # of the range between that quantile and the one at the other end
BRIGHT = 0.5  # quantile of the middle of the frame: what is as bright at the corners is no air
HOUNSFIELD_AIR = ((-1100.0, -900.0), (-4100.0, -1900.0))  # air, and what pads a round field of view
HOUNSFIELD_TISSUE = (-300.0, 300.0)  # median of what is not air in a CT of a head


class BackgroundToZerod(MapTransform):
    """Shift each channel of a scan so that its background is 0, and clip what is below.

    Args:
        keys: keys of scans (C, X, Y, Z), Z across axial slices.

    Raises:
        ScanError: when the values are those of a CT, of a phase image or of a statistical map.
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        d = dict(data)
        for key in self.key_iterator(d):
            scan = d[key]
            name = str(scan.meta.get("filename_or_obj", key))
            shifted = [torch.from_numpy(background_to_zero(channel, name)) for channel in scan.numpy()]
            d[key] = MetaTensor(torch.stack(shifted), meta=scan.meta, applied_operations=list(scan.applied_operations))
        return d


def background_to_zero(volume: np.ndarray, name: str = "scan") -> np.ndarray:
    """A volume (X, Y, Z) whose background is 0 and nothing below it, float32.

    The background is looked for at the four corners of the axial planes. Where most of their voxels have one value,
    that is a fill: it becomes 0, and everything is shifted by it, or, where part of the scan is darker than the fill
    (z-scores within a mask, a bright frame), by the lowest value of the scan itself. Otherwise the corners are air,
    whose median is the shift.

    Raises:
        ScanError: when the values are those of a CT, of a phase image or of a statistical map.
    """
    corners = _corners(volume)
    refuse_signed_kinds(volume, corners, name)
    values, counts = np.unique(corners, return_counts=True)
    fill = float(values[counts.argmax()])
    if counts.max() >= FILLED * corners.size:
        shift, background = fill, _fill(volume, fill)
        scan = volume[~background]
        if scan.size and (scan < fill).mean() > BELOW:
            shift = _lowest(scan)
    else:
        shift, background = float(np.median(corners)), None
        if shift > np.quantile(_middle(volume), BRIGHT):  # the corners hold tissue: there is no air to be seen
            shift = min(float(volume.min()), 0.0)
    _refuse_ct(volume, float(np.median(corners)), name)
    shifted = np.maximum(volume.astype(np.float32) - np.float32(shift), 0)
    if background is not None:
        shifted[background] = 0
    return shifted


def _fill(volume: np.ndarray, fill: float) -> np.ndarray:
    """Voxels of fill. Where that is as bright as anything, tissue may have the same value: then only what is
    connected to the frame counts.
    """
    same = volume == fill
    if not same.all() and fill > np.quantile(volume[~same], 1 - LOWEST * 10):
        pieces, _ = ndimage.label(same)
        faces = [pieces.take(side, axis) for axis in range(2) for side in (0, -1)]
        same = np.isin(pieces, np.setdiff1d(np.unique(np.concatenate([face.ravel() for face in faces])), [0]))
    return same


def _lowest(values: np.ndarray) -> float:
    """Where values begin: at 0 if that is the lowest, else a step of theirs below it, since 0 was taken for fill when
    they were a scanner's. A few far below all others, such as resampling makes at edges, do not count.
    """
    known = np.unique(values)
    low, high = np.quantile(values, (LOWEST, 1 - LOWEST))
    if low - known[0] > STRAY * (high - low) or len(known) < 2:
        return float(low)
    step = float(known[1] - known[0]) if known[0] else 0.0
    return float(known[0]) - (step if step <= STRAY * (high - low) else 0.0)


def _corners(volume: np.ndarray) -> np.ndarray:
    """Voxels in the columns at the four corners of the axial planes, flat."""
    width = [max(1, round(EDGE * size)) for size in volume.shape[:2]]
    near, far = (slice(None, w) for w in width), (slice(-w, None) for w in width)
    (x0, y0), (x1, y1) = near, far
    return np.concatenate([volume[x, y].ravel() for x in (x0, x1) for y in (y0, y1)])


def _middle(volume: np.ndarray) -> np.ndarray:
    """The middle half of the volume along every axis."""
    return volume[tuple(slice(size // 4, max(size - size // 4, size // 4 + 1)) for size in volume.shape)]


def _refuse_ct(volume: np.ndarray, air: float, name: str) -> None:
    """Hounsfield units have air at -1000, or fill below it, and tissue around 0; an MRI with an offset has not both."""
    if not any(low <= air <= high for low, high in HOUNSFIELD_AIR):
        return
    tissue = volume[volume > HOUNSFIELD_AIR[0][1] + 500]
    low, high = HOUNSFIELD_TISSUE
    if tissue.size and low <= float(np.median(tissue)) <= high:
        raise ScanError(name, f"values down to {float(volume.min()):g} look like a CT's", "Give an MRI")
