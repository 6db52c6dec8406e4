# SPDX-License-Identifier: Apache-2.0
"""How deep in the brain a voxel lies: cortex and its borders are brighter, and vary more, than what is beneath."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from scipy import ndimage

from .head import box_of
from .resample import resample

__all__ = ["DEPTH", "BrainDepthd", "brain_depth", "depth_in_slices"]

#: Entry of a scan's meta data: depth below the brain's surface (X, Y, Z), mm, float16, 0 outside.
DEPTH = "brain_depth_mm"


def depth_in_slices(brain: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """How deep in a mask (X, Y, Z) each voxel lies, within its slice; mm, 0 outside.

    Args:
        brain: bool.
        spacing: in plane, mm.
    """
    depths = np.zeros(brain.shape)
    if brain.any():
        box = box_of(brain)
        # A frame of nothing around it: a brain that the field of view cuts off ends there.
        framed = np.pad(brain[box], ((1, 1), (1, 1), (0, 0)))
        inside = [ndimage.distance_transform_edt(framed[..., z], sampling=spacing) for z in range(framed.shape[-1])]
        depths[box] = np.stack(inside, axis=-1)[1:-1, 1:-1]
    return depths


class BrainDepthd(MapTransform):
    """Note in a scan's meta data how deep below the brain's surface each of its voxels lies, within its axial slice.

    In the meta data, because that is what travels with the image to a method, whoever calls it.

    Args:
        keys: keys of scans (C, X, Y, Z) on the model's grid.
        mask_key: of the brain mask (1, X, Y, Z), on the scan's grid or the one that it came from.
    """

    def __init__(self, keys: KeysCollection, mask_key: str = "brain") -> None:
        super().__init__(keys)
        self.mask_key = mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        d = dict(data)
        for key in self.key_iterator(d):
            scan = d[key]
            mask, affine = d[self.mask_key], scan.affine.numpy().astype(float)
            to_voxel = np.linalg.inv(mask.affine.numpy().astype(float)) @ affine
            inside = resample(mask.as_tensor(), to_voxel, scan.shape[1:])[0].numpy() > 0.5
            depth = depth_in_slices(inside, [float(s) for s in scan.pixdim[:2]])
            meta = {**scan.meta, DEPTH: torch.from_numpy(depth.astype(np.float16))}
            d[key] = MetaTensor(scan.as_tensor(), meta=meta, applied_operations=scan.applied_operations)
        return d


def brain_depth(scans: torch.Tensor) -> np.ndarray | None:
    """The depths of scans ((B,) C, X, Y, Z), mm, of a shape that broadcasts over them; None where nobody noted any."""
    depth = scans.meta.get(DEPTH) if isinstance(scans, MetaTensor) else None
    if depth is None:
        return None
    depth = np.asarray(depth, dtype=np.float32)
    return depth.reshape(*(-1, 1)[: scans.ndim - 3], *scans.shape[-3:])
