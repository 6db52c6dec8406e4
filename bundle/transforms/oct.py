# SPDX-License-Identifier: Apache-2.0
"""Retinal B-scans from what a camera gives to the model's grid, and back: the retina found, flattened, cut out.

A B-scan is flattened along a smooth curve under the pigment epithelium, not along that itself: what lifts it (drusen, a
detachment) has to stay visible.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import TraceKeys
from scipy import ndimage

from ..errors import ScanError
from ..io.oct import read_oct
from .brain_depth import BrainDepthd
from .retina import fill_of, find_retina

__all__ = ["BELOW_UM", "FlattenRetinad", "LoadOctd", "RetinaDepthd", "RetinaMaskd", "ScaleRetinaIntensityd", "noise_of"]

#: A pixel of the model's grid, over which noise is averaged: so it compares across pixel sizes.
GRAIN_UM2 = 24.0 * 6.0
BELOW_UM = 45.0  # that the band goes on below the curve: what is anomalous there still touches the RPE


class LoadOctd(MapTransform):
    """Read scans by `bundle.io.oct.read_oct`.

    Args:
        keys: keys of paths, or scans in memory (`bundle.io.oct.oct_scan`).
        voxel_um: voxel size where files do not say; a case may bring its own under ``voxel_um``.
        allow_missing_keys: leave out keys that a case has not got.
    """

    def __init__(
        self, keys: KeysCollection, voxel_um: Sequence[float] | None = None, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.voxel_um = voxel_um

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        d = dict(data)
        for key in self.key_iterator(d):
            if not isinstance(d[key], MetaTensor):
                d[key] = read_oct(d[key], d.get("voxel_um") or self.voxel_um)
        return d


class RetinaMaskd(MapTransform):
    """Find the retina in every B-scan; add its mask, and for `FlattenRetinad` the curve under it.

    B-scans of a volume in which none is found take the curve of their neighbours, and no mask.

    Args:
        keys: key of the scan (1, X, Y, Z), vitreous at Y = 0.
        mask_key: where the mask (1, X, Y, Z) goes.

    Raises:
        ScanError: when no B-scan shows a retina.
    """

    def __init__(self, keys: KeysCollection, mask_key: str = "retina") -> None:
        super().__init__(keys)
        self.mask_key = mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        d = dict(data)
        for key in self.key_iterator(d):
            scan = d[key]
            pixel_um = [1000 * float(s) for s in scan.pixdim[:2]]
            volume = scan[0].numpy()
            found = [find_retina(volume[..., z], pixel_um) for z in range(volume.shape[2])]
            if not any(found):
                name = scan.meta.get("filename_or_obj", key)
                raise ScanError(name, "no retina stands out in it", "Check that it is a B-scan, vitreous at the top")
            mask = np.zeros(volume.shape, np.float32)
            rows = np.arange(volume.shape[1])
            for z, one in enumerate(found):
                if one is not None:
                    low = one.base + BELOW_UM / pixel_um[1]
                    mask[..., z] = (rows >= one.ilm[:, None]) & (rows <= low[:, None])
            fill = np.stack([fill_of(volume[..., z]) for z in range(volume.shape[2])], axis=-1)
            mask[fill] = 0
            d[self.mask_key] = _like(scan, mask)
            d[f"{self.mask_key}_base"] = _for_all([None if one is None else one.base for one in found])
        return d


class ScaleRetinaIntensityd(MapTransform):
    """Intensities in units of the retina's: 0 is the vitreous, 1 ``headroom`` times the retina above it.

    The two references are medians of the smoothed scan, one pair a scan: speckle, which an average of frames lacks,
    does not move them. Fill counts as vitreous. A scan of more noise than ``noise`` is blurred until it has no more:
    networks read strong noise as another tissue.

    Args:
        keys: keys of scans (1, X, Y, Z).
        headroom: where the scale ends.
        mask_key: of the retina.
        noise: that is left as it is: its standard deviation over `GRAIN_UM2`, in parts of the scale; None for any.
    """

    def __init__(
        self, keys: KeysCollection, headroom: float = 3.5, mask_key: str = "retina", noise: float | None = None
    ) -> None:
        super().__init__(keys)
        self.headroom, self.mask_key, self.noise = headroom, mask_key, noise

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        d = dict(data)
        for key in self.key_iterator(d):
            scan = d[key]
            volume = scan[0].numpy()
            fill = np.stack([fill_of(volume[..., z]) for z in range(volume.shape[2])], axis=-1)
            retina = d[self.mask_key][0].numpy() > 0
            smooth = ndimage.median_filter(volume, size=(7, 3, 1))
            above = ~fill & ~retina & (np.cumsum(retina, axis=1) == 0) & retina.any(1, keepdims=True)
            floor = float(np.median(smooth[above])) if above.any() else float(np.percentile(smooth[~fill], 5))
            reference = float(np.median(smooth[retina])) - floor
            if reference <= 0:
                name = scan.meta.get("filename_or_obj", key)
                raise ScanError(name, "its retina is no brighter than the vitreous", "Check the scan")
            grain = np.sqrt(1e6 * float(scan.pixdim[0] * scan.pixdim[1]) / GRAIN_UM2)
            sigma = noise_of(volume, retina) * grain / (self.headroom * reference)
            quiet = np.where(fill, floor, self._quiet(volume, sigma))
            d[key] = _like(scan, np.clip((quiet - floor) / (self.headroom * reference), 0, 1))
        return d

    def _quiet(self, volume: np.ndarray, sigma: float) -> np.ndarray:
        if self.noise is None or sigma <= self.noise:
            return volume
        # A Gaussian of width w leaves white noise 1 / (2 sqrt(pi) w) of its standard deviation.
        width = sigma / self.noise / (2 * np.sqrt(np.pi))
        return ndimage.gaussian_filter(volume, (width, width, 0))


def noise_of(volume: np.ndarray, retina: np.ndarray) -> float:
    """Standard deviation of the noise of a pixel in the retina, from how far it is off the mean of its four neighbours
    (median absolute deviation; Immerkaer, Computer Vision and Image Understanding 64, 1996, has the like); 0 without a
    retina. Values at the ends of the range are left out: noise is cut off there.

    Args:
        volume: (X, Y, Z).
        retina: bool, same shape.
    """
    cross = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]])[..., None] / 4
    apart = volume - ndimage.correlate(volume, cross, mode="nearest")
    there = retina & (volume > volume.min()) & (volume < volume.max())
    if not there.any():
        return 0.0
    return float(1.4826 * np.median(np.abs(apart[there])) / np.sqrt(1.25))


class FlattenRetinad(MapTransform, InvertibleTransform):
    """Resample B-scans onto the model's grid, along the curve under the RPE; its inverse returns to the scan's grid.

    Rows of the grid are at fixed depths from the curve. Columns are spread evenly from the first column of the scan
    that shows retina to the last, ``spacing_um`` apart to within half a column: beside a retina, the black of fill or
    of what lies outside the scan is an edge that no retina has, and networks mark it. The B-scans of a volume share
    their columns.

    Args:
        keys: keys of tensors (1, X, Y, Z) on one grid.
        spacing_um: of the grid, along the B-scan and into depth.
        rows: of the grid.
        above_um: depth of the first row above the curve.
        mask_key: key of the mask from `RetinaMaskd`; with ``_base`` appended it is that of the curve.
        allow_missing_keys: leave out keys that a case has not got.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spacing_um: tuple[float, float] = (24.0, 6.0),
        rows: int = 128,
        above_um: float = 660.0,
        mask_key: str = "retina",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.spacing_um, self.rows, self.above_um, self.mask_key = tuple(spacing_um), rows, above_um, mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        d = dict(data)
        base = np.asarray(d[f"{self.mask_key}_base"], dtype=np.float64)  # (X, Z)
        shown = np.flatnonzero((d[self.mask_key][0] > 0).any(-1).any(-1).numpy())
        for key in self.key_iterator(d):
            d[key] = self._flat(d[key], base, int(shown[0]), int(shown[-1]) + 1)
        return d

    def inverse(self, data: Mapping[Hashable, Any]) -> dict:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self._back(d[key])
        return d

    def _flat(self, scan: MetaTensor, base: np.ndarray, first: int, end: int) -> MetaTensor:
        """Of the columns from ``first`` to before ``end``: what lies beside them is not blurred into them either."""
        volume, pixel_um = scan[0, first:end].numpy(), [1000 * float(s) for s in scan.pixdim[:2]]
        columns = max(1, round(len(volume) * pixel_um[0] / self.spacing_um[0]))
        step = len(volume) / columns, self.spacing_um[1] / pixel_um[1]
        x = (np.arange(columns) + 0.5) * step[0] - 0.5
        smooth = ndimage.gaussian_filter(volume, [0.5 * np.sqrt(max(s * s - 1, 0)) for s in step] + [0])
        flat = [self._cut(smooth[..., z], x, base[first:end, z], step[1]) for z in range(volume.shape[2])]
        affine = scan.affine.numpy() @ np.diag([*step, 1.0, 1.0])
        affine[:, 3] += scan.affine.numpy()[:, 0] * first
        result = _like(scan, np.stack(flat, axis=-1), affine)
        trace = {"base": base.tolist(), "affine": scan.affine.tolist(), "step": list(step), "columns": [first, end]}
        self.push_transform(result, orig_size=tuple(scan.shape[1:]), extra_info=trace)
        return result

    def _cut(self, bscan: np.ndarray, x: np.ndarray, base: np.ndarray, step: float) -> np.ndarray:
        curve = np.interp(x, np.arange(len(base)), base)
        rows = curve[:, None] + (np.arange(self.rows) * self.spacing_um[1] - self.above_um) / self.spacing_um[1] * step
        columns = np.broadcast_to(np.clip(x, 0, len(bscan) - 1)[:, None], rows.shape)
        return ndimage.map_coordinates(bscan, [columns, rows], order=1, cval=0.0)

    def _back(self, flat: MetaTensor) -> MetaTensor:
        applied = self.pop_transform(flat)
        trace, size = applied[TraceKeys.EXTRA_INFO], tuple(applied[TraceKeys.ORIG_SIZE])
        base, step = np.asarray(trace["base"], dtype=np.float64), trace["step"]
        volume, (first, end) = flat[0].cpu().numpy(), trace["columns"]
        x = (np.arange(end - first) + 0.5) / step[0] - 0.5
        y = np.arange(size[1])
        scan = np.zeros(size, np.float32)
        for z in range(size[2]):
            depth = (y[None] - base[first:end, z][:, None]) / step[1] + self.above_um / self.spacing_um[1]
            columns = np.broadcast_to(np.clip(x, 0, volume.shape[0] - 1)[:, None], depth.shape)
            scan[first:end, :, z] = ndimage.map_coordinates(volume[..., z], [columns, depth], order=1, cval=0.0)
        return _like(flat, scan, np.asarray(trace["affine"]))


class RetinaDepthd(BrainDepthd):
    """Note how deep in the mask of the retina each pixel lies (`BrainDepthd`): a method that wants the mask finds it
    there.

    Args:
        keys: keys of flattened scans (1, X, Y, Z).
        mask_key: of the mask on the same grid.
    """

    def __init__(self, keys: KeysCollection, mask_key: str = "retina") -> None:
        super().__init__(keys, mask_key)


def _like(scan: MetaTensor, values: np.ndarray, affine: np.ndarray | None = None) -> MetaTensor:
    """Values (X, Y, Z) with the meta data of a scan, none of it shared, and an affine of their own if there is one."""
    meta = {key: value for key, value in scan.meta.items() if key != "affine"}
    result = MetaTensor(
        torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))[None],
        affine=torch.as_tensor(scan.affine if affine is None else affine, dtype=torch.float64).clone(),
        meta=meta,
    )
    result.applied_operations = list(scan.applied_operations)
    return result


def _for_all(curves: list[np.ndarray | None]) -> np.ndarray:
    """(X, Z): a curve for every B-scan, interpolated where none was found."""
    known = [z for z, curve in enumerate(curves) if curve is not None]
    table = np.stack([curve for curve in curves if curve is not None], axis=1)
    everywhere = np.arange(len(curves))
    return np.stack([np.interp(everywhere, known, row) for row in table])
