# SPDX-License-Identifier: Apache-2.0
"""Figures that ask for whole lesions and whole slices: how much of small and large lesions is marked, and the protocol
of single slices.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy import ndimage

from .metrics import Pooled

__all__ = ["SIZES_ML", "LesionFigures"]

#: Least and most volume of a lesion, ml; a lesion is a connected part of the mask.
SIZES_ML = {"small": (0.0, 0.1), "medium": (0.1, 1.0), "large": (1.0, np.inf)}
CONNECTED = np.ones((3, 3, 3))


class LesionFigures:
    """Of one method over the scans of a set.

    Args:
        thresholds: false-positive rate that is promised → value; empty where there is no calibration.
    """

    def __init__(self, thresholds: Mapping[float, float]) -> None:
        self.thresholds = dict(thresholds)
        self.shares: dict[tuple[float, str], list[float]] = {
            (rate, size): [] for rate in self.thresholds for size in SIZES_ML
        }
        self.lesions = dict.fromkeys(SIZES_ML, 0)
        self.slices: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, values: np.ndarray, lesion: np.ndarray, head: np.ndarray, voxel_ml: float) -> None:
        """Count a scan.

        Args:
            values: (X, Y, Z), of the map as it is saved.
            lesion: bool, the same shape.
            head: bool, voxels that count.
            voxel_ml: volume of a voxel.
        """
        if not lesion.any():
            return
        z = int(lesion.sum((0, 1)).argmax())
        self.slices.append((values[..., z][head[..., z]], lesion[..., z][head[..., z]]))
        parts, count = ndimage.label(lesion, CONNECTED)
        voxels = np.bincount(parts.ravel())[1:]
        sizes = [next(name for name, (_, most) in SIZES_ML.items() if n * voxel_ml < most) for n in voxels]
        for size in sizes:
            self.lesions[size] += 1
        for rate, threshold in self.thresholds.items():
            marked = ndimage.mean(values >= threshold, parts, np.arange(1, count + 1))
            for size, share in zip(sizes, marked, strict=True):
                self.shares[rate, size].append(float(share))

    def figures(self) -> dict[str, object]:
        """``lesions_SIZE``, their number; ``marked_SIZE_at_RATE``, the mean over lesions of the share of their voxels
        that is marked; ``largest_slice_best_dice``, of the slice with most lesion of each scan, at the one threshold
        that is best on the labels. Empty text where there is nothing to count.
        """
        row: dict[str, object] = {f"lesions_{size}": count for size, count in self.lesions.items()}
        for rate in self.thresholds:
            for size in SIZES_ML:
                shares = self.shares[rate, size]
                row[f"marked_{size}_at_{rate:g}"] = float(np.mean(shares)) if shares else ""
        row["largest_slice_best_dice"] = ""
        if self.slices:
            scores, lesions = zip(*self.slices, strict=True)
            row["largest_slice_best_dice"] = Pooled.of(scores, lesions).figures()["best_dice"]
        return row
