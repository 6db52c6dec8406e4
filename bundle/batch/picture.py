"""The picture of a case: slices through its foremost findings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from monai.data import MetaTensor

from ..io.files import whole_file
from ..report.figures import save_map_picture
from ..transforms.mri import to_axial

__all__ = ["chosen_slices", "save_case_picture"]

ROWS = 3


def save_case_picture(
    path: Path, scan: MetaTensor, anomaly: MetaTensor, mask: MetaTensor, findings: list[dict], axial: bool = True
) -> None:
    """Save scan, map and mask as PNG.

    Args:
        path: of the picture; whole or not at all.
        scan: as it was read, (C, X, Y, Z).
        anomaly, mask: (1, X, Y, Z) on its own grid.
        findings: of the case, the foremost first.
        axial: show axial slices; otherwise X and Y as they are, which are B-scans.

    Raises:
        OutputError: when the picture cannot be written.
    """
    volumes = [MetaTensor(v.as_tensor().cpu(), affine=scan.affine) for v in (scan, anomaly.float(), mask.float())]
    if axial:
        volumes = [to_axial(volume) for volume in volumes]
    grey, heat, outline = (volume[0].numpy() for volume in volumes)
    grey = np.clip(grey / max(float(np.percentile(grey, 99.5)), 1e-6), 0, 1)
    with whole_file(path) as temporary:
        save_map_picture(temporary, grey, heat, outline, chosen_slices(heat, volumes[0].affine.numpy(), findings))


def chosen_slices(anomaly: np.ndarray, affine: np.ndarray, findings: list[dict]) -> list[int]:
    """Numbers of slices through the centres of the foremost findings; filled up with those that the map is highest in.

    Args:
        anomaly: (X, Y, Z).
        affine: of its grid, 4 x 4, mm.
        findings: with ``centre_mm``.
    """
    to_voxel, depth = np.linalg.inv(affine), anomaly.shape[2]
    through = [int(np.clip(round((to_voxel @ [*f["centre_mm"], 1.0])[2]), 0, depth - 1)) for f in findings]
    highest = np.argsort(-np.sort(anomaly.reshape(-1, depth), axis=0)[-50:].mean(0), kind="stable").tolist()
    return sorted(list(dict.fromkeys([*through, *highest]))[:ROWS])
