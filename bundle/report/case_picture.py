# SPDX-License-Identifier: Apache-2.0
"""The pictures of a case: slices through its foremost findings. Drawn pixel by pixel, since a night has many cases.

One is to be looked at as it is; the other, the sheet, holds scan and map apart: the report lays one over the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
from matplotlib import colormaps
from monai.data import MetaTensor
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from scipy import ndimage

from ..io.files import whole_file
from ..transforms.mri import to_axial
from .figures import MAP_TOP

__all__ = ["LEVELS", "SLICES", "THROUGH", "chosen_slices", "save_case_pictures", "save_change_picture"]

ROWS = 3
GAP = 4  # pixels between panels
PANEL = 280  # pixels, the longer side of a panel
FAST = 1  # of zlib: a third of the time for a few per cent more bytes
SOME = 5  # of every so many voxels the brightness is taken
TILES = 4  # slices of the sheet
TILE = 200  # pixels, the longer side of one
LEVELS = 40  # grey levels of the sheet that one unit of the map has
SLICES = "slices"  # text chunk of the sheet's PNG: numbers of its slices, separated by spaces
THROUGH = "through"  # the same of the slices through the findings, the foremost first, whether they are shown or not
APART = 0.04  # of the depth, at least two slices: nearer ones look alike
MIDDLE = (0.25, 0.8)  # of the depth: where slices are taken when no finding says which
CHANGE_TOP, LEAST_SHOWN = 3.0, 0.5  # of the colours of a change, and from where on it is shown
OUTLINE = np.array([255, 60, 60], np.uint8)


def save_case_pictures(
    picture: Path,
    sheet: Path,
    scan: MetaTensor,
    anomaly: MetaTensor,
    mask: MetaTensor,
    findings: list[dict],
    axial: bool = True,
) -> None:
    """Save both pictures of a case as PNG.

    The one to be looked at has scan, map over scan and outline of the mask, a row a slice. The sheet is grey: the scan
    in the upper half, a tile a slice, the map in the lower one, in `LEVELS`; the slice of the foremost finding comes
    first.

    Args:
        picture, sheet: their paths; whole or not at all.
        scan: as it was read, (C, X, Y, Z).
        anomaly, mask: (1, X, Y, Z) on its own grid.
        findings: of the case, the foremost first.
        axial: show axial slices; otherwise X and Y as they are, which are B-scans.

    Raises:
        OutputError: when one cannot be written.
    """
    (grey, heat, outline), aspect, affine = _shown([scan, anomaly, mask], scan, axial)
    slices = chosen_slices(heat.shape[2], affine, findings, TILES)
    rows = [_row(grey[..., z].T, heat[..., z].T, outline[..., z].T > 0, aspect) for z in sorted(slices[:ROWS])]
    with whole_file(picture) as temporary:
        Image.fromarray(np.concatenate(rows)).save(temporary, format="PNG", compress_level=FAST)
    size = _panel((grey.shape[1], grey.shape[0]), aspect, TILE)
    # 64 levels of grey are what the eye tells apart, at half the bytes.
    upper = [np.uint8(_resized(grey[..., z].T, size) * 63) * 4 for z in slices]
    lower = [np.uint8(np.clip(_resized(heat[..., z].T, size) * LEVELS, 0, 255)) for z in slices]
    tiles, said = np.concatenate([np.concatenate(upper, 1), np.concatenate(lower, 1)]), PngInfo()
    said.add_text(SLICES, " ".join(map(str, slices)))
    said.add_text(THROUGH, " ".join(map(str, _through(heat.shape[2], affine, findings))))
    with whole_file(sheet) as temporary:
        Image.fromarray(tiles).save(temporary, format="PNG", compress_level=FAST, pnginfo=said)


def save_change_picture(
    path: Path, scans: Sequence[MetaTensor], maps: Sequence[MetaTensor], change: MetaTensor, findings: list[dict]
) -> None:
    """Save two scans of one head with their maps, and the later one with what has changed, as PNG, a row a slice: red
    is more unusual now, blue less.

    Args:
        path: of the picture; whole or not at all.
        scans, maps: earlier and later, (1, X, Y, Z), all on the grid of the later scan.
        change: of `bundle.follow.change.change_map`, same grid.
        findings: what has changed, the foremost first.

    Raises:
        OutputError: when it cannot be written.
    """
    (later, earlier, *rest), aspect, affine = _shown([scans[1], scans[0], *maps, change], scans[1], axial=True)
    earlier = np.clip(earlier / max(float(np.percentile(earlier, 99.5)), 1e-6), 0, 1)
    slices = sorted(chosen_slices(later.shape[2], affine, findings))
    size = _panel((later.shape[1], later.shape[0]), aspect, PANEL)
    rows = []
    for z in slices:
        grey = [_plain(one[..., z].T, size) for one in (earlier, later)]
        panels = [_over(plain, _resized(one[..., z].T, size)) for plain, one in zip(grey, rest[:2], strict=True)]
        moved = _resized(rest[2][..., z].T, size)
        coloured = (colormaps["seismic"](0.5 + np.clip(moved / CHANGE_TOP, -1, 1) / 2)[..., :3] * 255).astype(np.uint8)
        panels.append(np.where((np.abs(moved) >= LEAST_SHOWN)[..., None], coloured, grey[1]))
        rows.append(np.pad(np.concatenate(panels, axis=1), ((0, GAP), (0, 0), (0, 0))))
    with whole_file(path) as temporary:
        Image.fromarray(np.concatenate(rows)).save(temporary, format="PNG", compress_level=FAST)


def _plain(grey: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.repeat((_resized(grey, size) * 255).astype(np.uint8)[..., None], 3, axis=2)


def _over(plain: np.ndarray, value: np.ndarray) -> np.ndarray:
    """The map over the scan, from 1 on."""
    coloured = (colormaps["inferno"](np.clip((value - 1) / (MAP_TOP - 1), 0, 1))[..., :3] * 255).astype(np.uint8)
    return np.where((value >= 1)[..., None], coloured, plain)


def _shown(volumes: list[MetaTensor], scan: MetaTensor, axial: bool) -> tuple[list[np.ndarray], float, np.ndarray]:
    """Volumes (X, Y, Z) as they are shown, the scan first and from 0 to 1, the ratio of their voxel sizes in plane, and
    their affine.
    """
    whole = [MetaTensor(cast(MetaTensor, v).as_tensor().float().cpu(), affine=scan.affine) for v in volumes]
    whole = [to_axial(volume) for volume in whole] if axial else whole
    arrays = [volume[0].numpy() for volume in whole]
    arrays[0] = np.clip(arrays[0] / max(float(np.percentile(arrays[0].reshape(-1)[::SOME], 99.5)), 1e-6), 0, 1)
    return arrays, float(whole[0].pixdim[1] / whole[0].pixdim[0]) if axial else 1.0, whole[0].affine.numpy()


def _panel(shape: tuple[int, int], aspect: float, longest: int) -> tuple[int, int]:
    """Width and height of a panel for a slice (rows, columns), pixels."""
    scale = longest / max(shape[0] * aspect, shape[1])
    return max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale * aspect))


def _resized(
    values: np.ndarray, size: tuple[int, int], how: Image.Resampling = Image.Resampling.BILINEAR
) -> np.ndarray:
    return np.asarray(Image.fromarray(values.astype(np.float32)).resize(size, how))


def _row(grey: np.ndarray, heat: np.ndarray, mask: np.ndarray, aspect: float) -> np.ndarray:
    """Three panels side by side, (height, width, 3) bytes, of a slice (rows, columns)."""
    size = _panel((grey.shape[0], grey.shape[1]), aspect, PANEL)
    plain = _plain(grey, size)
    over = _over(plain, _resized(heat, size))
    inside = _resized(mask, size, Image.Resampling.NEAREST) > 0.5
    edge = ndimage.binary_dilation(inside) & ~inside
    drawn = np.where(edge[..., None], OUTLINE, plain)
    return np.pad(np.concatenate([plain, over, drawn], axis=1), ((0, GAP), (0, 0), (0, 0)))


def chosen_slices(depth: int, affine: np.ndarray, findings: list[dict], most: int = ROWS) -> list[int]:
    """Numbers of slices through the centres of the foremost findings, the foremost first, no neighbours among them;
    filled up with slices spread over the middle of the volume.

    Args:
        depth: slices that there are.
        affine: of the grid, 4 x 4, mm.
        findings: with ``centre_mm``.
        most: slices.
    """
    chosen: list[int] = []
    low, high = (share * (depth - 1) for share in MIDDLE)
    spread = [round(float(z)) for z in np.linspace(low, high, most)]
    near = sorted(range(depth), key=lambda z: abs(z - (depth - 1) / 2))
    apart = max(2, round(APART * depth))
    for candidates, gap in ((_through(depth, affine, findings), apart), (spread, apart), (near, apart), (near, 1)):
        for z in candidates:
            if len(chosen) < most and all(abs(z - other) >= gap for other in chosen):
                chosen.append(z)
    return chosen


def _through(depth: int, affine: np.ndarray, findings: list[dict]) -> list[int]:
    """The slice through the centre of each finding."""
    to_voxel = np.linalg.inv(affine)
    return [int(np.clip(round((to_voxel @ [*one["centre_mm"], 1.0])[2]), 0, depth - 1)) for one in findings]
