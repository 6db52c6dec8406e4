# SPDX-License-Identifier: Apache-2.0
"""Files that hold no scan but something drawn on one, or computed from one: told by header and numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from ..errors import ScanError

__all__ = ["check_intent", "check_is_no_label_map"]

FEW_NUMBERS = 16  # different ones: no scan has so few
MANY_LABELS = 1000  # more are no labels
EVEN = 0.65  # of neighbours that are equal: scans of 256 grey values have up to 0.32, label maps 0.86 and more
#: Pieces of one number in a slice, for each number: label maps have a few, enlarged scans some hundreds.
MANY_PIECES = 20
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
    them. A scan that was enlarged by nearest neighbour has patches, too, but thousands of them.

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
    return _even_share(volume, background) > EVEN and _pieces_of_a_number(volume, background) < MANY_PIECES


def _even_share(volume: np.ndarray, background: float) -> float:
    """Of neighbours along the first axis, neither of them background: the share that are equal."""
    near, far = volume[:-1], volume[1:]
    inside = (near != background) & (far != background)
    return float((near == far)[inside].mean()) if inside.any() else 1.0


def _pieces_of_a_number(volume: np.ndarray, background: float) -> float:
    """In the slice with most of the scan, of the two longest axes: the mean over numbers of how many pieces it has."""
    planes = np.moveaxis(volume, int(np.argmin(volume.shape)), -1)
    plane = planes[..., int((planes != background).sum((0, 1)).argmax())]
    numbers = np.setdiff1d(np.unique(plane), [background])
    return float(np.mean([ndimage.label(plane == number)[1] for number in numbers])) if len(numbers) else 0.0
