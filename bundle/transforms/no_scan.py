# SPDX-License-Identifier: Apache-2.0
"""What is no MRI of a head though it has its shape, told by its numbers: phase images, statistical maps, CT without
negative values, probability maps.

Figures in brackets are those of the real scans of all places (docs/contrasts.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from ..errors import ScanError
from .brain_depth import depth_in_slices
from .head import inner_head

__all__ = ["refuse_other_kinds", "refuse_signed_kinds"]

LOUD_AIR = 0.7  # of the range of a scan that the air at its corners has (up to 0.03); a phase image has all of it
FILLED = 0.2  # of the voxels are exactly 0: what lies outside of a map
BOTH_SIGNS = (0.1, 0.9)  # share of negative values in a statistical map
EDGE = 0.25  # standard deviations that the edge of a brain differs from its mean by (0.3 to 2)
BY_DEPTH = 0.06  # of the variance, that the depth explains (0.07 to 0.4, where the edge says nothing)
LAYERS = 16  # of 1/16 of the greatest depth
EVEN = 0.02  # median deviation within a head, in multiples of the median (0.11 and more); CT with an offset has 0.01
BONE = 1.3  # ...and the brightest percent of that head, in multiples of the median
BRIGHT_BONE = 8.0  # the brightest 3 percent, in multiples of the inside of a head (up to 3.6); clipped CT has 20
SATURATED = 0.08  # of the head that has the highest value (up to 0.004)
MANY = 1_000_000  # voxels say enough of a whole volume
MRI = "Give an MRI"
ITSELF = "Give the scan itself"


def refuse_signed_kinds(volume: np.ndarray, corners: np.ndarray, name: str) -> None:
    """See that a volume is neither a phase image nor a statistical map.

    Args:
        volume: (X, Y, Z) as it is in the file, axial slices along the last axis.
        corners: voxels of it that show air.
        name: for the message.

    Raises:
        ScanError: when it is.
    """
    some = volume.ravel()[:: max(1, volume.size // MANY)]
    low, high = np.percentile(some, (0.1, 99.9))
    if high > low and np.subtract(*np.percentile(corners, (95, 5))) > LOUD_AIR * (high - low):
        raise ScanError(name, "its air is as loud as the head: a phase image, or noise", "Give the magnitude image")
    inside = volume != 0
    if not inside.any() or inside.mean() > 1 - FILLED:
        return
    negative = float((volume[inside] < 0).mean())
    if BOTH_SIGNS[0] <= negative <= BOTH_SIGNS[1] and _is_shapeless(volume, inside):
        reason = f"{negative:.0%} of its values are negative, and none follows a brain's outline: a statistical map"
        raise ScanError(name, reason, ITSELF)


def _is_shapeless(volume: np.ndarray, inside: np.ndarray) -> bool:
    """Whether nothing tells the edge of what is inside from its middle, as cortex and fluid do in a scan, z-scored or
    not.
    """
    depth = depth_in_slices(inside, (1.0, 1.0))[inside]
    values = np.clip(volume[inside], *np.percentile(volume[inside], (1, 99))).astype(np.float64)
    spread = float(values.std())
    if spread == 0:
        return False
    edge = abs(float(values[depth <= depth.min()].mean() - values.mean())) / spread
    layer = np.minimum((depth / depth.max() * LAYERS).astype(int), LAYERS - 1)
    means = ndimage.mean(values, layer, np.arange(LAYERS))
    explained = float(np.nanvar(np.nan_to_num(means)[layer])) / spread**2
    return edge < EDGE and explained < BY_DEPTH


def refuse_other_kinds(volume: np.ndarray, head: np.ndarray, spacing: Sequence[float], name: str) -> None:
    """See that a volume is no CT without negative values, and no map of probabilities.

    Args:
        volume: (X, Y, Z), not negative, background at 0.
        head: bool, same shape, not empty.
        spacing: mm.
        name: for the message.

    Raises:
        ScanError: when it is.
    """
    values = volume[head]
    inside = inner_head(head, (spacing[0], spacing[1], spacing[2]))
    within = volume[inside] if inside.any() else values
    median = float(np.median(within))
    if (share := float((values >= 0.98 * values.max()).mean())) > SATURATED:
        raise ScanError(name, f"{share:.0%} of the head has the highest value: a CT window, or a map", MRI)
    if median <= 0:
        return
    even = float(np.median(np.abs(within - median))) / median
    bone = float(np.percentile(values, 97)) / median
    if bone > BRIGHT_BONE or (even < EVEN and np.percentile(values, 99) > BONE * median):
        raise ScanError(name, "bone is far brighter than all that lies within: a CT", MRI)
