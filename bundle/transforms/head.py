"""The head in a scan: where it is, and the intensity that its inside has."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

__all__ = ["free_slices", "head_mask", "inner_head", "largest_piece", "reference_intensity"]

AIR_FRACTION = 0.08  # of the 99th percentile: MRI's air noise lies below, skin and cerebrospinal fluid above
INSIDE_MM = 15.0  # deeper than scalp and skull: mostly brain, whether the skull is there or not


def head_mask(volume: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """Voxels of the head: above air, in one piece, without holes in any axial slice.

    Args:
        volume: (X, Y, Z), not negative, air near zero, the third axis from foot to head.
        spacing: voxel size, mm.

    Returns:
        bool array (X, Y, Z); empty when nothing stands out from the air.
    """
    smooth = ndimage.gaussian_filter(volume, sigma=[1.5 / s if s < 3 else 0 for s in spacing])
    bright = volume[volume > 0]
    if bright.size == 0:
        return np.zeros(volume.shape, bool)
    in_plane = ndimage.generate_binary_structure(3, 1)
    in_plane[1, 1, ::2] = False
    return ndimage.binary_fill_holes(largest_piece(smooth > AIR_FRACTION * np.percentile(bright, 99)), in_plane)


def largest_piece(mask: np.ndarray) -> np.ndarray:
    """The largest connected component (faces touch) of a bool array; an empty one stays so."""
    pieces, count = ndimage.label(mask)
    return pieces == np.bincount(pieces.ravel())[1:].argmax() + 1 if count > 1 else mask


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
