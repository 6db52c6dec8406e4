"""Pictures: rows of panels as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

__all__ = ["save_panels"]


def save_panels(
    path: str | Path, rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], scale: float = 2
) -> None:
    """Save rows of 2-D panels as one picture.

    Panels with negative values (differences) are drawn in blue and red around zero, the others in grey from 0 to 1.

    Args:
        path: PNG to write; its folder is made.
        rows: each a sequence of (X, Y) arrays, X from left to right.
        titles: one a column.
        scale: inches a panel.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(scale * len(titles), scale * len(rows) + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for axes_row, row in zip(axes, rows, strict=True):
        for axis, panel in zip(axes_row, row, strict=True):
            signed = panel.min() < -0.02
            style = {"cmap": "RdBu_r", "vmin": -0.5, "vmax": 0.5} if signed else {"cmap": "gray", "vmin": 0, "vmax": 1}
            axis.imshow(np.asarray(panel).T, **style)
            axis.axis("off")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
