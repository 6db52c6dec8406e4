# SPDX-License-Identifier: Apache-2.0
"""The volume viewer of the report: NiiVue, vendored, and the volumes that it shows."""

from __future__ import annotations

import base64
import gzip
from importlib.resources import files
from pathlib import Path
from typing import cast

import nibabel as nib
import numpy as np
from monai.data import MetaTensor

__all__ = ["script", "volumes"]

FILE = "niivue-0.69.0.umd.js"


def script() -> str:
    """Source of NiiVue (BSD 2-Clause, see LICENSE beside it), to stand in a page."""
    return files(__package__).joinpath(FILE).read_text(encoding="utf-8")


def volumes(scan: MetaTensor, anomaly: Path) -> dict[str, str]:
    """Scan and map as Base64 of gzipped NIfTI, what NiiVue reads from a page.

    Args:
        scan: as it was read, (C, X, Y, Z); its first channel is shown, in 256 steps.
        anomaly: the map that was written, on the same grid; in steps of 1/20.
    """
    image = cast(nib.Nifti1Image, nib.load(anomaly))
    grey = scan[0].cpu().numpy().astype(np.float32)
    top = max(float(np.percentile(grey, 99.8)), 1e-6)
    grey = np.clip(grey * (255 / top), 0, 255).astype(np.uint8)
    heat = np.clip(np.asarray(image.dataobj) * 20, 0, 255).astype(np.uint8)
    shown = {"scan": nib.Nifti1Image(grey, image.affine), "map": nib.Nifti1Image(heat, image.affine)}
    shown["map"].header.set_slope_inter(1 / 20, 0)
    return {key: base64.b64encode(gzip.compress(one.to_bytes(), mtime=0)).decode() for key, one in shown.items()}
