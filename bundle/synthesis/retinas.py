# SPDX-License-Identifier: Apache-2.0
"""Healthy retinas that nobody has: layers of realistic thickness and brightness, a foveal pit, vessels, speckle.

On the model's grid of flattened B-scans (`bundle.transforms.oct.FlattenRetinad`). Thicknesses are those of healthy
adults (Chan et al., Arch Ophthalmol 2006; Bagci et al., Am J Ophthalmol 2008), brightness is relative to the median of
the retina, as on log-compressed displays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from ..transforms.oct import BELOW_UM
from .seeded_dataset import SeededDataset

__all__ = ["LAYERS", "Layer", "SyntheticRetinas", "paint_retina"]


@dataclass(frozen=True)
class Layer:
    """A layer of the retina, from the inner to the outer border.

    Attributes:
        name: as anatomists call it.
        thickness_um: away from the fovea.
        fovea_um: in its centre.
        brightness: median and spread (of the logarithm).
    """

    name: str
    thickness_um: float
    fovea_um: float
    brightness: tuple[float, float]


LAYERS = (
    Layer("nerve fibres", 38, 3, (1.7, 0.25)),
    Layer("ganglion cells and inner plexiform", 78, 6, (1.15, 0.15)),
    Layer("inner nuclear", 38, 10, (0.72, 0.15)),
    Layer("outer plexiform", 26, 14, (1.0, 0.15)),
    Layer("outer nuclear", 76, 118, (0.55, 0.2)),
    Layer("external limiting membrane", 6, 6, (0.9, 0.15)),
    Layer("myoid", 18, 22, (0.6, 0.15)),
    Layer("ellipsoid", 14, 16, (2.4, 0.2)),
    Layer("outer segments", 18, 26, (1.2, 0.2)),
    Layer("pigment epithelium", 22, 22, (3.0, 0.15)),
)
CHOROID = (0.95, 0.25)
FINE_UM = 3.0  # rows are painted as fine as this and averaged


def paint_retina(
    rng: np.random.RandomState,
    columns: int = 128,
    rows: int = 128,
    spacing_um: tuple[float, float] = (24.0, 6.0),
    above_um: float = 660.0,
    headroom: float = 3.5,
) -> tuple[np.ndarray, np.ndarray]:
    """A healthy B-scan, flattened and scaled, and its mask.

    Args:
        rng: source of everything random.
        columns, rows, spacing_um, above_um: the grid, as in `bundle.transforms.oct.FlattenRetinad`.
        headroom: as in `bundle.transforms.oct.ScaleRetinaIntensityd`.

    Returns:
        image and mask, each float32 (columns, rows), image in [0, 1].
    """
    fine = max(1, round(spacing_um[1] / FINE_UM))
    depth = (np.arange(rows * fine) + 0.5) / fine * spacing_um[1] - above_um  # 0 at the curve under the epithelium
    borders = _borders(rng, columns, spacing_um[0])
    light = np.zeros((columns, rows * fine))
    for number, layer in enumerate(LAYERS):
        inside = (depth >= borders[number][:, None]) & (depth < borders[number + 1][:, None])
        level = layer.brightness[0] * np.exp(layer.brightness[1] * rng.standard_normal())
        if number == 0:  # nerve fibres are brighter where they are thicker
            level = level * (0.75 + 0.25 * np.tanh((borders[1] - borders[0]) / 40))[:, None]
        light = np.where(inside, level, light)
    below = depth >= borders[-1][:, None]
    decay = np.exp(-np.maximum(depth - borders[-1][:, None], 0) / rng.uniform(90, 300))
    texture = np.exp(0.2 * _noise(rng, light.shape, (3, 8)))
    light = np.where(below, CHOROID[0] * np.exp(CHOROID[1] * rng.standard_normal()) * decay * texture, light)
    light *= np.exp(0.06 * _noise(rng, light.shape, (6, 3)))
    light = ndimage.gaussian_filter(light, (0.5, rng.uniform(3, 7) / FINE_UM))
    light = light.reshape(columns, rows, fine).mean(2)
    light = _with_vessels(rng, light, borders, spacing_um, above_um)
    if rng.rand() < 0.3:  # a tilted eye is darker towards one side
        light *= np.linspace(1, rng.uniform(0.5, 1), columns)[:: rng.choice([-1, 1]), None]
    at = np.arange(rows) * spacing_um[1] - above_um
    mask = (at >= borders[0][:, None]) & (at <= BELOW_UM)
    light = light / np.median(light[mask]) / headroom
    return np.clip(light, 0, 1).astype(np.float32), mask.astype(np.float32)


def _borders(rng: np.random.RandomState, columns: int, spacing: float) -> list[np.ndarray]:
    """Depths of the borders of the layers, µm, from the inner one outwards; 0 is the curve under the retina."""
    x = np.arange(columns) * spacing
    centre, width = rng.uniform(-0.4, 1.4) * columns * spacing, rng.uniform(280, 520)
    pit = np.exp(-0.5 * ((x - centre) / width) ** 2) ** rng.uniform(0.8, 1.3)
    nasal = np.clip((x - centre) / 3000, -1, 1) * rng.choice([-1, 1]) * rng.uniform(0, 0.9)
    thicker = np.exp(0.09 * rng.standard_normal())
    base = 3 * _noise(rng, (columns,), 20) + rng.uniform(-6, 6)
    border, borders = base, [base]
    for number, layer in reversed(list(enumerate(LAYERS))):
        thickness = layer.thickness_um * (1 - pit) + layer.fovea_um * pit
        if number == 0:
            thickness = thickness * (1 + nasal)
        thickness = thickness * thicker * np.exp(0.05 * rng.standard_normal() + 0.04 * _noise(rng, (columns,), 12))
        border = border - np.maximum(thickness, 1)
        borders.append(border)
    return borders[::-1]


def _with_vessels(
    rng: np.random.RandomState, light: np.ndarray, borders: list[np.ndarray], spacing: Sequence[float], above_um: float
) -> np.ndarray:
    """Vessels in the inner retina, and the shadows that they cast."""
    x, depth = np.arange(light.shape[0])[:, None], (np.arange(light.shape[1]) * spacing[1] - above_um)[None]
    for _ in range(rng.randint(0, 7)):
        centre, radius = rng.randint(light.shape[0]), rng.uniform(12, 70)
        at = borders[0][centre] + rng.uniform(10, 60)
        shadow = rng.uniform(0.15, 0.7) * np.exp(-0.5 * ((x - centre) * spacing[0] / radius) ** 2)
        light = light * (1 - shadow * (depth > at + radius / 2))
        blob = np.exp(-((((x - centre) * spacing[0]) ** 2 + (depth - at) ** 2) / radius**2))
        light = light * (1 + rng.uniform(-0.3, 0.8) * blob)
    return light


def _noise(rng: np.random.RandomState, shape: tuple[int, ...], sigma: float | Sequence[float]) -> np.ndarray:
    """Gaussian noise, smoothed, of standard deviation 1."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), sigma)
    return noise / max(float(noise.std()), 1e-9)


class SyntheticRetinas(SeededDataset):
    """B-scans of `paint_retina` as items of `bundle.training.slices.SliceDataset`: image, donor and mask.

    Args:
        count: items an epoch.
        transform: random transforms of an item.
        region_key: where the mask goes.
        columns: of a B-scan.
        seed: makes every item reproducible; None draws anew each time.
    """

    def __init__(
        self,
        count: int,
        transform: Callable | None = None,
        region_key: str = "retina",
        columns: int = 192,
        seed: int | None = None,
    ) -> None:
        self.count, self.transform, self.region_key = count, transform, region_key
        self.columns, self.seed = columns, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < self.count:
            raise IndexError(index)
        self.seed_item(index)
        (image, mask), (donor, _) = paint_retina(self.R, self.columns), paint_retina(self.R, self.columns)
        painted = {"image": image, "donor": donor, self.region_key: mask}
        item = {key: torch.from_numpy(value)[None] for key, value in painted.items()}
        return self.transform(item) if self.transform is not None else item
