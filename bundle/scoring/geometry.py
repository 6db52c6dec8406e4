# SPDX-License-Identifier: Apache-2.0
"""Lengths and volumes of voxels."""

from __future__ import annotations

import numpy as np

__all__ = ["voxel_millilitres", "voxel_sizes"]


def voxel_sizes(affine: np.ndarray) -> np.ndarray:
    """Lengths of the voxel's edges, mm, from a 4 x 4 affine; shears and rotations allowed."""
    return np.linalg.norm(np.asarray(affine, dtype=float)[:3, :3], axis=0)


def voxel_millilitres(affine: np.ndarray) -> float:
    """Volume of a voxel, ml, from a 4 x 4 affine in mm; sheared or not."""
    return float(abs(np.linalg.det(np.asarray(affine, dtype=float)[:3, :3]))) / 1000
