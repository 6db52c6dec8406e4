# SPDX-License-Identifier: Apache-2.0
"""The picture of a case: slices through its foremost findings. Drawn pixel by pixel, since a night has many cases."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
from matplotlib import colormaps
from monai.data import MetaTensor
from PIL import Image
from scipy import ndimage

from ..io.files import whole_file
from ..transforms.mri import to_axial
from .figures import MAP_TOP

__all__ = ["chosen_slices", "save_case_picture"]

ROWS = 3
GAP = 4  # pixels between panels
PANEL = 280  # pixels, the longer side of a panel
FAST = 1  # of zlib: a third of the time for a few per cent more bytes
OUTLINE = np.array([255, 60, 60], np.uint8)


def save_case_picture(
    path: Path, scan: MetaTensor, anomaly: MetaTensor, mask: MetaTensor, findings: list[dict], axial: bool = True
) -> None:
    """Save scan, map over scan and outline of the mask as PNG, a row a slice.

    Args:
        path: of the picture; whole or not at all.
        scan: as it was read, (C, X, Y, Z).
        anomaly, mask: (1, X, Y, Z) on its own grid.
        findings: of the case, the foremost first.
        axial: show axial slices; otherwise X and Y as they are, which are B-scans.

    Raises:
        OutputError: when the picture cannot be written.
    """
    volumes = [
        MetaTensor(cast(MetaTensor, v).as_tensor().float().cpu(), affine=scan.affine) for v in (scan, anomaly, mask)
    ]
    if axial:
        volumes = [to_axial(volume) for volume in volumes]
    grey, heat, outline = (volume[0].numpy() for volume in volumes)
    grey = np.clip(grey / max(float(np.percentile(grey, 99.5)), 1e-6), 0, 1)
    aspect = float(volumes[0].pixdim[1] / volumes[0].pixdim[0]) if axial else 1.0
    slices = chosen_slices(heat, volumes[0].affine.numpy(), findings)
    rows = [_row(grey[..., z].T, heat[..., z].T, outline[..., z].T > 0, aspect) for z in slices]
    with whole_file(path) as temporary:
        Image.fromarray(np.concatenate(rows)).save(temporary, format="PNG", compress_level=FAST)


def _row(grey: np.ndarray, heat: np.ndarray, mask: np.ndarray, aspect: float) -> np.ndarray:
    """Three panels side by side, (height, width, 3) bytes, of a slice (rows, columns)."""
    scale = PANEL / max(grey.shape[0] * aspect, grey.shape[1])
    size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale * aspect)))

    def resized(values: np.ndarray, how: Image.Resampling) -> np.ndarray:
        return np.asarray(Image.fromarray(values.astype(np.float32)).resize(size, how))

    plain = np.repeat((resized(grey, Image.Resampling.BILINEAR) * 255).astype(np.uint8)[..., None], 3, axis=2)
    value = resized(heat, Image.Resampling.BILINEAR)
    coloured = (colormaps["inferno"](np.clip((value - 1) / (MAP_TOP - 1), 0, 1))[..., :3] * 255).astype(np.uint8)
    over = np.where((value >= 1)[..., None], coloured, plain)
    inside = resized(mask, Image.Resampling.NEAREST) > 0.5
    edge = ndimage.binary_dilation(inside) & ~inside
    drawn = np.where(edge[..., None], OUTLINE, plain)
    return np.pad(np.concatenate([plain, over, drawn], axis=1), ((0, GAP), (0, 0), (0, 0)))


def chosen_slices(anomaly: np.ndarray, affine: np.ndarray, findings: list[dict]) -> list[int]:
    """Numbers of slices through the centres of the foremost findings; filled up with those that the map is highest in.

    Args:
        anomaly: (X, Y, Z).
        affine: of its grid, 4 x 4, mm.
        findings: with ``centre_mm``.
    """
    to_voxel, depth = np.linalg.inv(affine), anomaly.shape[2]
    through = [int(np.clip(round((to_voxel @ [*f["centre_mm"], 1.0])[2]), 0, depth - 1)) for f in findings]
    highest = np.argsort(-anomaly.reshape(-1, depth).max(0), kind="stable").tolist()
    return sorted(list(dict.fromkeys([*through, *highest]))[:ROWS])
