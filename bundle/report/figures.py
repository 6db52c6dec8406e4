# SPDX-License-Identifier: Apache-2.0
"""Pictures as PNG: rows of panels, and a scan with its map."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = [
    "CasePanel",
    "grid",
    "save_cases",
    "save_curves",
    "save_images",
    "save_map_picture",
    "save_panels",
    "save_sweep",
]

MAP_TOP = 4.0  # of the colour scale of maps: one healthy voxel in ten thousand
MASK_WHITE = 3.0  # a mask of ones is a third as bright as white


def grid(rows: int, columns: int, scale: float) -> tuple[Figure, np.ndarray]:
    """Figure without pyplot, so that no display and no global state are touched; its axes, switched off."""
    figure = Figure(figsize=(scale * columns, scale * rows + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    return figure, axes


def _save(figure: Figure, path: str | Path, dpi: int = 80) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi)


def save_panels(
    path: str | Path, rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], scale: float = 2
) -> None:
    """Save rows of 2-D panels as one picture.

    Columns with a minus in the title (differences) are blue and red around zero, the others grey from 0 to 1.

    Args:
        path: PNG to write; its folder is made.
        rows: each a sequence of (X, Y) arrays, X from left to right.
        titles: one a column.
        scale: inches a panel.
    """
    figure, axes = grid(len(rows), len(titles), scale)
    for axes_row, row in zip(axes, rows, strict=True):
        for axis, panel, title in zip(axes_row, row, titles, strict=True):
            signed = " - " in title
            style = {"cmap": "RdBu_r", "vmin": -0.5, "vmax": 0.5} if signed else {"cmap": "gray", "vmin": 0, "vmax": 1}
            axis.imshow(np.asarray(panel).T, **style)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    _save(figure, path)


def save_map_picture(
    path: str | Path,
    scan: np.ndarray,
    anomaly: np.ndarray,
    mask: np.ndarray,
    slices: Sequence[int],
    restored: np.ndarray | None = None,
) -> None:
    """Save a scan, its map and its mask, a row a slice.

    Args:
        path: PNG to write.
        scan: (X, Y, Z), LPS axes, grey from 0 to 1.
        anomaly: calibrated map, the same shape.
        mask: 0 and 1, the same shape.
        slices: numbers along Z.
        restored: what the scan would be without its anomalies, the same shape, shown beside it.
    """
    panels = {"scan": scan} | ({} if restored is None else {"restored": restored})
    figure, axes = grid(len(slices), len(panels) + 2, 2.2)
    for row, z in zip(axes, slices, strict=True):
        for axis, panel in zip(row, (*panels.values(), scan, scan), strict=True):
            axis.imshow(panel[..., z].T, cmap="gray", vmin=0, vmax=1)
        heat = np.ma.masked_less(anomaly[..., z].T, 1.0)
        shown = row[-2].imshow(heat, cmap="inferno", vmin=1, vmax=MAP_TOP)
        if mask[..., z].any():
            row[-1].contour(mask[..., z].T, [0.5], colors="red", linewidths=1)
    for axis, title in zip(axes[0], (*panels, "anomaly map", "mask"), strict=True):
        axis.set_title(title, fontsize=10)
    figure.colorbar(shown, ax=axes[:, -2], location="bottom", shrink=0.9, label="−log10 healthy tail", pad=0.01)
    _save(figure, path, dpi=90)


@dataclass
class CasePanel:
    """A case to show.

    Attributes:
        title: of its row.
        scan: (X, Y, Z), LPS axes; a mask, bool, is drawn in grey, where the scan itself may not be shown.
        lesion: expert mask, same shape.
        anomaly: calibrated map, same shape.
    """

    title: str
    scan: np.ndarray
    lesion: np.ndarray
    anomaly: np.ndarray

    @property
    def white(self) -> float:
        """The intensity that is drawn white."""
        return MASK_WHITE if self.scan.dtype == bool else float(np.percentile(self.scan, 99.5))


def save_cases(path: str | Path, cases: Sequence[CasePanel]) -> None:
    """Save cases, a row each: in the slice with most lesion and in the healthy one with most anomaly, scan and map."""
    figure, axes = grid(len(cases), 4, 2.2)
    for row, case in zip(axes, cases, strict=True):
        area = case.lesion.sum((0, 1))
        for pair, z in zip((row[:2], row[2:]), (area.argmax(), _worst_healthy(case)), strict=True):
            for axis in pair:
                axis.imshow(case.scan[..., z].T, cmap="gray", vmin=0, vmax=case.white)
            if area[z]:
                pair[0].contour(case.lesion[..., z].T, [0.5], colors="cyan", linewidths=0.8)
            heat = np.ma.masked_less(case.anomaly[..., z].T, 1.0)
            shown = pair[1].imshow(heat, cmap="inferno", vmin=1, vmax=MAP_TOP)
        row[0].text(0.03, 0.97, case.title, color="white", fontsize=9, va="top", transform=row[0].transAxes)
    shown_is = "brain" if all(case.scan.dtype == bool for case in cases) else "scan"
    titles = (f"{shown_is}, expert's outline", "anomaly map", "lesion-free slice", "anomaly map")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
    figure.colorbar(shown, ax=axes[:, 3], location="bottom", shrink=0.9, label="−log10 healthy tail", pad=0.01)
    _save(figure, path, dpi=90)


def _worst_healthy(case: CasePanel) -> int:
    """The tumour-free slice that the map finds most anomalous."""
    score = np.where(
        case.lesion.any((0, 1)), -1, np.sort(case.anomaly.reshape(-1, case.anomaly.shape[2]), 0)[-200:].mean(0)
    )
    return int(score.argmax())


def save_images(
    path: str | Path,
    rows: Sequence[tuple[str, np.ndarray, np.ndarray]],
    aspect: float = 1.0,
    label: str = "−log10 healthy tail",
) -> None:
    """Save images and their maps, two pairs a row: title, image and map, each (X, Y); ``label``: of the scale."""
    figure, axes = grid((len(rows) + 1) // 2, 4, 2.6)
    for pair, (title, image, anomaly) in zip(axes.reshape(-1, 2), rows, strict=False):
        for axis in pair:
            axis.imshow(
                image.T, cmap="gray", vmin=np.percentile(image, 1), vmax=np.percentile(image, 99.7), aspect=aspect
            )
        shown = pair[1].imshow(np.ma.masked_less(anomaly.T, 1.0), cmap="inferno", vmin=1, vmax=MAP_TOP, aspect=aspect)
        pair[0].set_title(title, fontsize=9, loc="left")
    figure.colorbar(shown, ax=axes[:, 3], location="right", shrink=0.7, label=label, pad=0.01)
    _save(figure, path, dpi=90)


def save_curves(path: str | Path, curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Save precision over recall, a line a method; ``curves``: name → (recall, precision)."""
    figure = Figure(figsize=(9.5, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    # Ten colours and then dashed, so that no two of twenty lines look alike.
    styles = [(style, f"C{colour}") for style in ("-", "--") for colour in range(10)]
    for (name, (recall, precision)), (style, colour) in zip(curves.items(), itertools.cycle(styles)):
        axis.plot(recall, precision, style, color=colour, label=name, linewidth=1.3)
    axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1))
    axis.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="outside right upper")
    _save(figure, path, dpi=90)


def save_sweep(
    path: str | Path,
    levels: Sequence[int],
    thresholds: Sequence[float],
    grid: np.ndarray,
    healthy: Mapping[tuple[int, float], float],
) -> None:
    """Save what the masked chain reaches over noise level L and threshold P.

    Args:
        path: PNG to write.
        levels, thresholds: of the rows and columns of ``grid``.
        grid: (levels, thresholds) figures of merit.
        healthy: (L, rate) → the P that this share of healthy bits exceeds; drawn as lines.
    """
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    shown = axis.pcolormesh(np.arange(len(thresholds) + 1), np.arange(len(levels) + 1), grid, cmap="viridis")
    for (row, column), value in np.ndenumerate(grid):
        axis.text(column + 0.5, row + 0.5, f"{value:.2f}", ha="center", va="center", color="white")
    for rate, style in zip(sorted({rate for _, rate in healthy}), ("w-", "w--", "w:"), strict=False):
        place = np.interp([healthy[level, rate] for level in levels], thresholds, np.arange(len(thresholds)) + 0.5)
        axis.plot(
            place, np.arange(len(levels)) + 0.5, style, marker="o", label=f"exceeded by {rate:.1%} of healthy bits"
        )
    axis.set_xticks(np.arange(len(thresholds)) + 0.5, [f"{t:g}" for t in thresholds])
    axis.set_yticks(np.arange(len(levels)) + 0.5, [f"{level}" for level in levels])
    axis.set(xlabel="threshold P", ylabel="noise level L")
    axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.15), ncols=2, facecolor="gray")
    figure.colorbar(shown, ax=axis, label="AUPRC on synthetic anomalies")
    _save(figure, path, dpi=90)
