# SPDX-License-Identifier: Apache-2.0
"""Files that hold no scan but something drawn on one, or computed from one: told by header and numbers."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from ..errors import ScanError

__all__ = ["check_intent", "check_is_no_label_map"]

FEW_NUMBERS = 16  # different ones: no scan has so few
MANY_LABELS = 1000  # more are no labels
EVEN = 0.65  # of neighbours that are equal: scans of 256 grey values have up to 0.32, label maps 0.86 and more
LEAST_PLANES = 16  # different ones along the two longest axes: what has fewer was drawn in blocks
#: NIfTI intent codes of what is no image of a body.
INTENTS = (
    (range(2, 25), "a statistical map", "Give the scan itself"),
    ((1001,), "a map of an estimated parameter", "Give the scan itself"),
    ((1002, 1003), "a label map", "Give the scan that it was drawn on"),
    (range(1004, 1011), "vectors, matrices or a surface", "Give the scan itself"),
    (range(2001, 2019), "a deformation, a surface or colours", "Give the scan itself"),
)


def check_intent(path: str | Path, code: int) -> None:
    """See that a header of NIfTI does not say that there is no scan in the file.

    Args:
        path: for the message.
        code: of the intent; 0 says nothing.

    Raises:
        ScanError: when it does.
    """
    for codes, kind, remedy in INTENTS:
        if code in codes:
            raise ScanError(path, f"{kind} by its header (NIfTI intent code {code})", remedy)


def check_is_no_label_map(path: str | Path, data: np.ndarray) -> None:
    """See that there is no mask or label map: whole numbers, few of them, or in patches of one number as no scan has
    them. Planes that repeat the one before them are not looked at: a scan that was enlarged by nearest neighbour has
    those, and is a scan.

    Args:
        path: for the message.
        data: (channels, X, Y, Z).

    Raises:
        ScanError: when there is.
    """
    for volume in data:
        if (volume != np.round(volume)).any():
            continue
        values, counts = np.unique(volume, return_counts=True)
        background = values[counts.argmax()]
        if len(values) <= FEW_NUMBERS or (len(values) <= MANY_LABELS and _is_patchy(volume, background)):
            reason = f"a mask or label map: {len(values)} different whole numbers"
            raise ScanError(path, reason, "Give the scan that it was drawn on")


def _is_patchy(volume: np.ndarray, background: float) -> bool:
    if _even_share(volume, background) <= EVEN:
        return False
    once = _without_repeated(volume)
    return sorted(once.shape)[1] < LEAST_PLANES or _even_share(once, background) > EVEN


def _even_share(volume: np.ndarray, background: float) -> float:
    """Of neighbours along the first axis, neither of them background: the share that are equal."""
    near, far = volume[:-1], volume[1:]
    inside = (near != background) & (far != background)
    return float((near == far)[inside].mean()) if inside.any() else 1.0


def _without_repeated(volume: np.ndarray) -> np.ndarray:
    """Without planes, along any axis, that are equal to the one before them."""
    for axis in range(volume.ndim):
        planes = np.moveaxis(volume, axis, 0)
        kept = [True, *((now != before).any() for before, now in itertools.pairwise(planes))]
        volume = np.compress(kept, volume, axis=axis)
    return volume
