# SPDX-License-Identifier: Apache-2.0
"""The brain in a scan, found by a small network that learned from synthetic scans of every contrast."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.networks.nets import UNet
from monai.transforms import MapTransform
from scipy import ndimage

from ..errors import ScanError
from ..networks.weights import load_weights
from ..precision import autocast
from .head import box_of, head_mask, largest_piece
from .no_scan import refuse_other_kinds
from .single_slices import SINGLE_MM, THIN_MM, stripped_slices, thickness
from .skull_stripping import SHARE, is_stripped

__all__ = ["GIVEN", "GRID_SPACING", "BrainMaskd", "brain_network", "normalise"]

GIVEN = "given"  # entry of the meta data of a mask: whether the case brought it along
GRID_SPACING = 3.0  # mm, every axis
MULTIPLE = 8  # every size of the network's grid
CLOSING = 2  # voxels of the network's grid: a lesion at the brain's edge is not cut out of it
LEANING = -1.0  # logit from which on a voxel is brain: a lesion at the edge lost costs more than some dura kept
SURE = 2.0  # logit from which on it is no doubt brain
REACH = (2, 2, 1)  # voxels of the network's grid: how far from there, in the lower part, it may be brain at all
LEAST_VOLUME = 60.0  # ml: less is no brain, but some muscle or an eye
MASK = "Give the whole scan, or a mask of the brain with --brain-masks"

logger = logging.getLogger(__name__)


def brain_network() -> UNet:
    """(B, 1, X, Y, Z) normalised scans, foot to head along Z, ``GRID_SPACING`` mm → logits of brain, same shape."""
    return UNet(3, 1, 1, (16, 32, 64, 128), (2, 2, 2), num_res_units=2, norm="instance", act="LEAKYRELU")


@lru_cache(maxsize=2)
def _load(path: str, changed: int) -> UNet:
    """Read once as long as the file does not change: a server makes its transforms anew for every request."""
    return load_weights(brain_network(), path).eval()


def normalise(volume: np.ndarray) -> np.ndarray:
    """Intensities to [0, 1] by the 99.5th percentile of what is not zero: for finding the brain, not for scoring it."""
    bright = volume[volume > 0]
    top = np.percentile(bright, 99.5) if bright.size else 1.0
    return np.clip(volume / max(float(top), 1e-6), 0, 1).astype(np.float32)


class BrainMaskd(MapTransform):
    """Add the mask of the brain, cerebrospinal fluid within the skull included, on the scan's own grid.

    A mask that the case brings along under ``mask_key`` is kept. Skull-stripped scans are recognised: there the head
    is the brain. Single slices and thin stacks of whole heads are refused where no brain can be told from the rest.

    Args:
        keys: key of the scan (C, X, Y, Z), oriented LPS, background at 0; the mean of its channels is looked at.
        path: weights of `brain_network`.
        mask_key: where the mask (1, X, Y, Z) goes.
        precision: see `bundle.precision.autocast`.

    Raises:
        WeightsError: when ``path`` cannot be used.
        ScanError: when a given mask is not on the scan's grid, or empty; when no brain is found, or a scan is no MRI.
    """

    def __init__(
        self, keys: KeysCollection, path: str | Path, mask_key: str = "brain", precision: str = "auto"
    ) -> None:
        super().__init__(keys)
        changed = Path(path).stat().st_mtime_ns if Path(path).exists() else 0
        self.network = _load(str(path), changed)
        self.mask_key, self.precision = mask_key, precision

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        d = dict(data)
        for key in self.key_iterator(d):
            scan, given = d[key], self.mask_key in d
            if given:
                mask = _check_given(d[self.mask_key], scan)
            else:
                volume = np.asarray(scan.mean(0))
                spacing = tuple(float(s) for s in scan.pixdim)
                mask = self._find(volume, spacing, str(scan.meta.get("filename_or_obj", key)))
            values = torch.from_numpy(mask.astype(np.float32))[None]
            # Copies: what is done to the scan from here on is not done to its mask.
            d[self.mask_key] = MetaTensor(
                values, meta={**scan.meta, GIVEN: given}, applied_operations=list(scan.applied_operations)
            )
        return d

    def _find(self, volume: np.ndarray, spacing: tuple[float, ...], name: str) -> np.ndarray:
        thin = thickness(volume.shape, spacing)
        if thin < THIN_MM and (stripped := stripped_slices(volume, spacing)) is not None:
            logger.debug("%s: skull-stripped already", name)
            return stripped
        what = "a single slice" if min(volume.shape) == 1 else f"a stack of {thin:.0f} mm" if thin < THIN_MM else "it"
        refusal = ScanError(name, f"no brain found in {what}", MASK)
        if thin < SINGLE_MM:
            raise refusal
        head, brain = self.head_and_brain(volume, spacing)
        if head.sum() * np.prod(spacing) / 1000 >= LEAST_VOLUME:
            refuse_other_kinds(volume, head, spacing, name)
        if brain.sum() * np.prod(spacing) / 1000 < LEAST_VOLUME:
            raise refusal
        if thin < THIN_MM:
            if brain[head].mean() > SHARE:  # of a whole head, which a brain cannot fill
                raise refusal
            return brain
        if is_stripped(volume, head, brain, spacing):
            logger.debug("%s: skull-stripped already", name)
            return head
        return brain

    def head_and_brain(self, volume: np.ndarray, spacing: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
        """The head in a volume (X, Y, Z), and what the network takes for brain in it; bool, same shape."""
        head, brain = head_mask(volume, spacing), np.zeros(volume.shape, bool)
        if head.any():
            box = box_of(head)
            brain[box] = self._segment(volume[box], spacing)
        return head, brain

    def _segment(self, volume: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
        """The largest piece of brain in a volume, closed and without holes; bool, same shape."""
        size = [max(1, round(n * s / GRID_SPACING)) for n, s in zip(volume.shape, spacing, strict=True)]
        sigma = [0.5 * np.sqrt(max((GRID_SPACING / s) ** 2 - 1, 0)) for s in spacing]
        smooth = torch.from_numpy(normalise(ndimage.gaussian_filter(volume.astype(np.float32), sigma)))
        small = F.interpolate(smooth[None, None], size=size, mode="trilinear", align_corners=False)
        padding = [(-n) % MULTIPLE for n in size]
        if all(n + more == MULTIPLE for n, more in zip(size, padding, strict=True)):
            padding[-1] += MULTIPLE  # one voxel at the network's depth has no variance to be normalised by
        small = F.pad(small, (0, padding[2], 0, padding[1], 0, padding[0]))
        small = small.contiguous(memory_format=torch.channels_last_3d)
        with torch.no_grad(), autocast(small.device, self.precision):
            logits = self.network(small).float()[..., : size[0], : size[1], : size[2]]
        mended = torch.from_numpy(_mend(_possible(logits[0, 0].numpy())))
        # Linear between the network's voxels, so that the outline is smoother than they are.
        logits = torch.where(mended, logits.clamp(min=1), logits.clamp(max=-1)).clamp(-4, 4)
        return F.interpolate(logits, size=volume.shape, mode="trilinear", align_corners=False)[0, 0].numpy() > 0


def _possible(logits: np.ndarray) -> np.ndarray:
    """Where there may be brain, bool: above the skull base wherever the network leans to it, below only near the core.

    The skull base ends where the core first fills half of its largest axial area. Below it the network leans to fat and
    muscles of the neck, and hardly a voxel of a lesion is lost by asking for more (docs/brain_mask.md).
    """
    core = largest_piece(logits > SURE)
    area = core.sum((0, 1))
    axes = np.ogrid[tuple(slice(-reach, reach + 1) for reach in REACH)]
    ball = sum((axis / reach) ** 2 for axis, reach in zip(axes, REACH, strict=True)) <= 1
    near = ndimage.binary_dilation(core, structure=ball)
    near[..., int(np.argmax(area >= area.max() / 2)) :] = True
    return (logits > LEANING) & near


def _mend(mask: np.ndarray) -> np.ndarray:
    mask = largest_piece(mask)
    room = np.pad(mask, CLOSING + 1, mode="edge")  # so that a brain cut off by the field of view stays so
    closed = ndimage.binary_closing(room, iterations=CLOSING)[(slice(CLOSING + 1, -CLOSING - 1),) * 3]
    return ndimage.binary_fill_holes(closed | mask)


def _check_given(mask: MetaTensor, scan: MetaTensor) -> np.ndarray:
    name = mask.meta.get("filename_or_obj", "the given brain mask")
    if mask.shape[1:] != scan.shape[1:] or not np.allclose(mask.affine, scan.affine, atol=1e-3):
        raise ScanError(name, "not on the grid of its scan", "Resample the mask to the scan, or leave it out")
    if not (mask > 0).any():
        raise ScanError(name, "an empty brain mask", "Leave it out, and the brain is found")
    return np.asarray(mask[0] > 0)
