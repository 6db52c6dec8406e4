# SPDX-License-Identifier: Apache-2.0
"""A volume of B-scans seen from the front: what lies at which depth is summed up, a pixel an A-scan."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from monai.data import MetaTensor

from ..io.files import whole_file
from .figures import MAP_TOP, grid

__all__ = ["enface_views", "save_enface"]

#: Name of a view → its title, colours, and the ends of its scale (None: those of its values).
STYLES = {
    "brightness": ("brightness of the retina, mean", "gray", (None, None)),
    "highest": ("map, highest over depth", "inferno", (1.0, MAP_TOP)),
    "mean": ("map, mean over depth", "inferno", (0.0, 2.0)),
    "thickness": ("thickness of the retina, {unit}", "viridis", (None, None)),
}


_DRAWING = threading.Lock()  # a batch writes several cases at once, and matplotlib is not made for threads


def enface_views(scan: np.ndarray, anomaly: np.ndarray, region: np.ndarray, row_size: float) -> dict[str, np.ndarray]:
    """The views of a volume, each (X, Z); NaN where an A-scan has no retina.

    Args:
        scan, anomaly: (X, Y, Z), Y into depth.
        region: mask of the retina, same shape.
        row_size: size of a voxel into depth; the thickness is in its unit.
    """
    rows = (region > 0).sum(1)
    seen = np.where(rows > 0, 1.0, np.nan)
    within = [(values * (region > 0)).sum(1) / np.maximum(rows, 1) * seen for values in (scan, anomaly)]
    highest = np.where(region > 0, anomaly, 0).max(1) * seen
    return {"brightness": within[0], "highest": highest, "mean": within[1], "thickness": rows * row_size * seen}


def save_enface(path: str | Path, scan: MetaTensor, anomaly: np.ndarray, region: np.ndarray) -> None:
    """Save the views side by side as PNG, in the proportions of the retina where the voxel size is known.

    Args:
        path: of the picture; whole or not at all.
        scan: as it was read (1, X, Y, Z).
        anomaly, region: (X, Y, Z) on its own grid.

    Raises:
        OutputError: when the picture cannot be written.
    """
    size, unit = [float(s) for s in scan.pixdim], str(scan.meta.get("original_unit", "unknown"))
    known = unit != "unknown"  # otherwise the grid is a guess, and the thickness in voxels
    views = enface_views(scan[0].numpy(), anomaly, region, 1000 * size[1] if known else 1.0)
    with _DRAWING, whole_file(path) as temporary:
        figure = _draw(views, (size[2] / size[0]) if known else "auto", "µm" if known else "voxels")
        figure.savefig(temporary, format="png", dpi=80, bbox_inches="tight")


def _draw(views: Mapping[str, np.ndarray], aspect: float | str, unit: str) -> Figure:
    figure, axes = grid(1, len(views), 3.2)
    for axis, (name, view) in zip(axes[0], views.items(), strict=True):
        title, colours, (low, high) = STYLES[name]
        shown = axis.imshow(view.T, cmap=colours, vmin=low, vmax=high, aspect=aspect, interpolation="nearest")
        axis.set_title(title.format(unit=unit), fontsize=9)
        figure.colorbar(shown, ax=axis, location="bottom", fraction=0.06, pad=0.02).ax.tick_params(labelsize=7)
    return figure
