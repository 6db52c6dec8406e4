"""The picture of a case: slices through its foremost findings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from monai.data import MetaTensor

from ..io.dicom import DicomSeries, read_series
from ..io.files import whole_file
from ..io.nifti import read_scan
from ..report.figures import save_map_picture
from ..transforms.mri import to_axial

__all__ = ["chosen_slices", "save_case_picture"]

ROWS = 3


def save_case_picture(
    path: Path, image: str | DicomSeries, anomaly: MetaTensor, mask: MetaTensor, findings: list[dict]
) -> None:
    """Save scan, map and mask as PNG.

    Args:
        path: of the picture; whole or not at all.
        image: the scan, read again as it is.
        anomaly, mask: (1, X, Y, Z) on its own grid.
        findings: of the case, the foremost first.

    Raises:
        ScanError: when the scan is no longer readable.
        OutputError: when the picture cannot be written.
    """
    scan = read_series(image) if isinstance(image, DicomSeries) else read_scan(image)
    volumes = [
        to_axial(MetaTensor(v.as_tensor().cpu(), affine=scan.affine)) for v in (scan, anomaly.float(), mask.float())
    ]
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
