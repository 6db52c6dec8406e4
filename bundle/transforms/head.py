# SPDX-License-Identifier: Apache-2.0
"""The head in a scan: where it is, and the intensity that its inside has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

__all__ = ["box_around", "box_of", "free_slices", "head_mask", "inner_head", "largest_piece", "reference_intensity"]

AIR_FRACTION = 0.08  # of the 99th percentile: MRI's air noise lies below, skin and cerebrospinal fluid above
REACH = 4.0  # sigmas: SciPy cuts a Gaussian off there
INSIDE_MM = 15.0  # deeper than scalp and skull: mostly brain, whether the skull is there or not


def head_mask(volume: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Voxels of the head: above air, in one piece, without holes in any axial slice.

    Args:
        volume: (X, Y, Z), not negative, air near zero, the third axis from foot to head.
        spacing: voxel size, mm.

    Returns:
        bool array (X, Y, Z); empty when nothing stands out from the air.
    """
    bright, mask = volume > 0, np.zeros(volume.shape, bool)
    if not bright.any():
        return mask
    sigma = [1.5 / s if s < 3 else 0 for s in spacing]
    box = box_around(bright, sigma)
    above = ndimage.gaussian_filter(volume[box], sigma) > AIR_FRACTION * np.percentile(volume[bright], 99)
    mask[box] = _fill(largest_piece(above))
    return mask


def _fill(mask: np.ndarray) -> np.ndarray:
    """Without holes in any axial slice: what of the rest does not reach the frame of its slice."""
    in_plane = ndimage.generate_binary_structure(3, 1)
    in_plane[1, 1, ::2] = False
    pieces, count = ndimage.label(~mask, in_plane)
    hole = np.ones(count + 1, bool)
    hole[0] = False  # the mask itself
    for edge in (pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]):
        hole[edge] = False
    return mask | hole[pieces]


def box_around(mask: np.ndarray, sigma: Sequence[float]) -> tuple[slice, ...]:
    """The box of a mask and as much around it as a Gaussian sees: within it a filter gives the same, in less time.

    Args:
        mask: bool, not empty.
        sigma: of the Gaussian along each axis, voxels.
    """
    reach = [int(REACH * s + 0.5) + 1 for s in sigma]
    return tuple(
        slice(max(one.start - more, 0), one.stop + more) for one, more in zip(box_of(mask), reach, strict=True)
    )


def box_of(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around a mask that is not empty; a fraction of the time of `scipy.ndimage.find_objects`."""
    axes = range(mask.ndim)
    shown = [np.flatnonzero(mask.any(tuple(other for other in axes if other != axis))) for axis in axes]
    return tuple(slice(int(inside[0]), int(inside[-1]) + 1) for inside in shown)


def largest_piece(mask: np.ndarray) -> np.ndarray:
    """The largest connected component (faces touch) of a bool array; an empty one stays so."""
    if not mask.any():
        return mask
    box = box_of(mask)
    pieces, count = ndimage.label(mask[box])
    if count < 2:
        return mask
    largest = np.zeros_like(mask)
    largest[box] = pieces == np.bincount(pieces[pieces > 0]).argmax()
    return largest


def free_slices(lesion: np.ndarray) -> np.ndarray:
    """Slices (Z,) of a mask (X, Y, Z) that hold none of it, and do not lie next to one that does.

    Experts end a lesion where they no longer see it; partial volume carries it on into the next thick slice.
    """
    return ~ndimage.binary_dilation(lesion.any((0, 1)))


def inner_head(mask: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """Voxels at least 15 mm, in plane, inside the outline of ``mask`` (as from `head_mask`): a crude brain mask."""
    depth = [ndimage.distance_transform_edt(mask[..., z], sampling=spacing[:2]) for z in range(mask.shape[-1])]
    return np.stack(depth, axis=-1) >= INSIDE_MM


def reference_intensity(volume: np.ndarray, mask: np.ndarray, spacing: tuple[float, float, float]) -> float:
    """Median intensity well inside the head: the unit of intensity of a scan.

    The frame does not enter (how much air there is says nothing), nor do scalp fat and skull, which a skull-stripped
    scan lacks.

    Args:
        volume, mask, spacing: as in, and from, `head_mask`.

    Returns:
        the median over voxels at least 15 mm inside the head, or over the whole head where that leaves none.
    """
    inside = inner_head(mask, spacing)
    return float(np.median(volume[inside if inside.any() else mask]))
