# SPDX-License-Identifier: Apache-2.0
"""Synthetic anomalies: a random shape, filled with a random texture, laid over a healthy slice.

A slice and its anomalous twin differ by the anomaly alone, so whatever changes in the code of bits is what an anomaly
flips (structured flips). The idea to corrupt with lesions instead of noise is DISYRE's (Naval Marimont et al., arXiv
2311.15453, section 2.2); shapes and textures here are this project's own.

Shapes and textures are named, so that training and validation can use families that have nothing in common.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable, RandomizableTransform
from scipy import ndimage

__all__ = ["SHAPES", "TEXTURES", "RandSyntheticAnomaly", "RandSyntheticAnomalyd"]

AIR = 0.04  # in units of the scaled intensity
VISIBLE = 0.02  # a change below this is no anomaly: the mask leaves it out


def smooth_noise(rng: np.random.RandomState, size: Sequence[int], cells: int) -> torch.Tensor:
    """Gaussian noise on a grid of ``cells`` x ``cells``, interpolated to ``size``; (H, W)."""
    coarse = torch.from_numpy(rng.standard_normal((1, 1, cells, cells)).astype(np.float32))
    return F.interpolate(coarse, size=tuple(size), mode="bicubic", align_corners=False)[0, 0]


def _ellipse_radius(
    rng: np.random.RandomState, size: Sequence[int], centre: Sequence[float], radius: float
) -> torch.Tensor:
    """Distance from ``centre`` in units of a random ellipse whose mean radius is ``radius`` pixels; (H, W)."""
    aspect, angle = np.exp(rng.uniform(-0.5, 0.5)), rng.uniform(0, np.pi)
    rows = torch.arange(size[0]).float()[:, None] - centre[0]
    columns = torch.arange(size[1]).float()[None] - centre[1]
    along = rows * np.cos(angle) + columns * np.sin(angle)
    across = columns * np.cos(angle) - rows * np.sin(angle)
    return ((along / aspect) ** 2 + (across * aspect) ** 2).sqrt() / radius


def blob(rng: np.random.RandomState, size: Sequence[int], centre: Sequence[float], radius: float) -> torch.Tensor:
    """An ellipse with a wavy outline."""
    waves = int(np.clip(4 * max(size) / (4 * radius), 4, 48))
    return _ellipse_radius(rng, size, centre, radius) < 1 + rng.uniform(0, 0.5) * smooth_noise(rng, size, waves)


def cloud(rng: np.random.RandomState, size: Sequence[int], centre: Sequence[float], radius: float) -> torch.Tensor:
    """Scattered patches within an ellipse, denser in its middle."""
    cells = int(np.clip(max(size) * rng.uniform(1.5, 4) / radius, 4, 64))
    return smooth_noise(rng, size, cells) > 1.5 * _ellipse_radius(rng, size, centre, radius) - rng.uniform(0.5, 1.5)


def polygon(rng: np.random.RandomState, size: Sequence[int], centre: Sequence[float], radius: float) -> torch.Tensor:
    """A star-shaped polygon with 5 to 11 random corners."""
    corners = rng.randint(5, 12)
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radii = radius * rng.uniform(0.5, 1.4, corners)
    rows = np.arange(size[0])[:, None] - centre[0]
    columns = np.arange(size[1])[None] - centre[1]
    limit = np.interp(np.arctan2(columns, rows) % (2 * np.pi), angles, radii, period=2 * np.pi)
    return torch.from_numpy(np.hypot(rows, columns) < limit)


def foreign(rng: np.random.RandomState, image: torch.Tensor, donor: torch.Tensor) -> torch.Tensor:
    """A patch of another scan, shifted and mirrored."""
    shift = [int(rng.randint(-s // 4, s // 4 + 1)) for s in image.shape[1:]]
    donor = donor.roll(shift, dims=(1, 2))
    return donor.flip(1) if rng.rand() < 0.5 else donor


def constant(rng: np.random.RandomState, image: torch.Tensor, donor: torch.Tensor) -> torch.Tensor:
    """One intensity with fine noise, as a cavity or a solid lesion has."""
    noise = torch.from_numpy(rng.standard_normal(image.shape).astype(np.float32))
    return rng.uniform(0, 1) + rng.uniform(0, 0.06) * noise


def offset(rng: np.random.RandomState, image: torch.Tensor, donor: torch.Tensor) -> torch.Tensor:
    """The tissue itself, brighter or darker: what oedema and gliosis do."""
    return image + rng.choice([-1, 1]) * rng.uniform(0.06, 0.45)


def brighter(rng: np.random.RandomState, image: torch.Tensor, donor: torch.Tensor) -> torch.Tensor:
    """The tissue itself, brighter: what small lesions of the white matter are on FLAIR."""
    return image + rng.uniform(0.05, 0.35)


def darker(rng: np.random.RandomState, image: torch.Tensor, donor: torch.Tensor) -> torch.Tensor:
    """The tissue darker by a share, often one kind of it alone: what most lesions are on T1w."""
    gate = torch.ones_like(image)
    if rng.rand() < 0.5:
        tissue = image[:, image.amax(0) > AIR]
        kind = float(tissue[:, rng.randint(tissue.shape[1])].mean()) if tissue.numel() else 0.3
        gate = torch.exp(-(((image - kind) / rng.uniform(0.08, 0.25)) ** 2))
    return image * (1 - rng.uniform(0.1, 0.65) * gate)


def oedema(rng: np.random.RandomState, image: torch.Tensor, donor: torch.Tensor) -> torch.Tensor:
    """Brighter or darker tissue of one kind: the change is for intensities around a random one, and spares others."""
    tissue = image[:, image.amax(0) > AIR]
    kind = float(tissue[:, rng.randint(tissue.shape[1])].mean()) if tissue.numel() else 0.3
    gate = torch.exp(-(((image - kind) / rng.uniform(0.05, 0.25)) ** 2))
    return image + gate * rng.choice([-1, 1], p=(0.3, 0.7)) * rng.uniform(0.06, 0.5)


def cavity(rng: np.random.RandomState, image: torch.Tensor, donor: torch.Tensor) -> torch.Tensor:
    """Fluid that is dark, as a cyst or what a resection leaves."""
    noise = torch.from_numpy(rng.standard_normal(image.shape).astype(np.float32))
    return rng.uniform(0, 0.18) + rng.uniform(0, 0.03) * noise


def mottled(rng: np.random.RandomState, image: torch.Tensor, donor: torch.Tensor) -> torch.Tensor:
    """Two intensities that flow into each other, as a lesion with a core has."""
    low, high = rng.uniform(0, 1, 2)
    field = torch.sigmoid(2 * smooth_noise(rng, image.shape[1:], int(rng.randint(6, 40))))
    return (low + (high - low) * field).expand_as(image)


def gain(rng: np.random.RandomState, image: torch.Tensor, donor: torch.Tensor) -> torch.Tensor:
    """The blurred tissue times a factor."""
    factor = rng.uniform(1.25, 2.2) if rng.rand() < 0.7 else rng.uniform(0.2, 0.75)
    return factor * F.avg_pool2d(image[None], 5, stride=1, padding=2)[0]


def mirrored(rng: np.random.RandomState, image: torch.Tensor, donor: torch.Tensor) -> torch.Tensor:
    """The slice upside down, with another contrast: the right intensities in the wrong place."""
    return (image.flip(2) * rng.uniform(0.6, 1.6)).clamp(0, 1)


def displaced(rng: np.random.RandomState, image: torch.Tensor, donor: torch.Tensor) -> torch.Tensor:
    """The slice pushed aside by a smooth field: mass effect; in the retina, what lifts or thickens a layer."""
    size, cells = image.shape[1:], int(rng.randint(3, 10))
    push = rng.uniform(2, 9)
    rows, columns = torch.meshgrid(*(torch.arange(s).float() for s in size), indexing="ij")
    rows, columns = (axis + push * smooth_noise(rng, size, cells) for axis in (rows, columns))
    grid = torch.stack([2 * columns / (size[1] - 1) - 1, 2 * rows / (size[0] - 1) - 1], dim=-1)[None]
    return F.grid_sample(image[None], grid, align_corners=True, padding_mode="border")[0]


SHAPES: dict[str, Callable] = {"blob": blob, "cloud": cloud, "polygon": polygon}
TEXTURES: dict[str, Callable] = {
    "foreign": foreign,
    "constant": constant,
    "offset": offset,
    "brighter": brighter,
    "darker": darker,
    "oedema": oedema,
    "cavity": cavity,
    "mottled": mottled,
    "gain": gain,
    "mirrored": mirrored,
    "displaced": displaced,
}


class RandSyntheticAnomaly(RandomizableTransform):
    """Lay synthetic anomalies over a healthy slice.

    Args:
        prob: how often a slice gets any.
        severity: opacity of an anomaly, least and most, in [0, 1]; at 0 the slice stays as it is.
        opaque: how often an anomaly has the most instead of a draw between them.
        radius: mean radius, least and most, pixels; drawn so that every order of size is as likely.
        max_count: most anomalies in a slice.
        scattered: how often a slice gets many small ones instead, all of one texture.
        shapes: names from `SHAPES`.
        textures: names from `TEXTURES`.

    Raises:
        ValueError: on an unknown shape or texture.
    """

    def __init__(
        self,
        prob: float = 1.0,
        severity: tuple[float, float] = (0.2, 1.0),
        opaque: float = 0.25,
        radius: tuple[float, float] = (0.8, 34.0),
        max_count: int = 3,
        scattered: float = 0.2,
        shapes: Sequence[str] = ("blob", "cloud"),
        textures: Sequence[str] = ("foreign", "constant", "offset", "mottled", "oedema", "oedema", "cavity"),
    ) -> None:
        super().__init__(prob)
        for names, table in ((shapes, SHAPES), (textures, TEXTURES)):
            unknown = set(names) - set(table)
            if unknown:
                raise ValueError(f"unknown {', '.join(sorted(unknown))}: choose from {', '.join(table)}")
        self.severity, self.opaque, self.radius = severity, opaque, radius
        self.max_count, self.scattered = max_count, scattered
        self.shapes, self.textures = tuple(shapes), tuple(textures)

    def __call__(
        self,
        image: torch.Tensor,
        donor: torch.Tensor | None = None,
        region: torch.Tensor | None = None,
        severity: float | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            image: healthy slice (C, H, W), intensities in [0, 1], air near zero.
            donor: slice of another scan, same shape; the slice itself by default.
            region: where anomalies may be (1, H, W); the head by default.
            severity: of every anomaly; by default each draws its own.

        Returns:
            the anomalous twin (C, H, W), and a mask (1, H, W), 1 where it visibly differs.
        """
        self.randomize(None)
        image = torch.as_tensor(image)
        place, inside = _where(image, region)
        twin = image
        if self._do_transform and len(inside):
            donor = image if donor is None else torch.as_tensor(donor)
            for radius, texture in self._plan():
                twin = self._lay(twin, donor, inside[self.R.randint(len(inside))].tolist(), radius, texture, severity)
            twin = torch.where(place, twin.clamp(0, 1), image)
        return twin, ((twin - image).abs().amax(0, keepdim=True) > VISIBLE).float()

    def draw_severity(self) -> float:
        """A random severity within the range of this transform."""
        return float(self.severity[1] if self.R.rand() < self.opaque else self.R.uniform(*self.severity))

    def _plan(self) -> list[tuple[float, str]]:
        """Radius and texture of each anomaly of a slice."""
        low, high = np.log(self.radius)
        if self.R.rand() < self.scattered:
            texture, count = self.textures[self.R.randint(len(self.textures))], self.R.randint(4, 13)
            return [(np.exp(self.R.uniform(low, low + (high - low) / 3)), texture) for _ in range(count)]
        return [
            (np.exp(self.R.uniform(low, high)), self.textures[self.R.randint(len(self.textures))])
            for _ in range(self.R.randint(1, self.max_count + 1))
        ]

    def _lay(
        self,
        image: torch.Tensor,
        donor: torch.Tensor,
        centre: Sequence[int],
        radius: float,
        texture: str,
        severity: float | None,
    ) -> torch.Tensor:
        rng, size = self.R, image.shape[1:]
        mask = SHAPES[self.shapes[rng.randint(len(self.shapes))]](rng, size, centre, radius)
        alpha = _soften(mask.float(), rng.uniform(0.4, max(0.5, min(3.0, radius / 3))))
        if severity is None:
            severity = self.draw_severity()
        return image + severity * alpha * (TEXTURES[texture](rng, image, donor) - image)


def _where(image: torch.Tensor, region: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Mask (1, H, W) of where anomalies may be, and the coordinates (N, 2) of where their centres may."""
    if region is not None and region.any():
        grown = F.max_pool2d(torch.as_tensor(region).float()[None], 3, stride=1, padding=1)[0]
        return grown > 0.5, (torch.as_tensor(region)[0] > 0.5).nonzero()
    head = F.avg_pool2d((image.amax(0, keepdim=True)[None] > AIR).float(), 9, stride=1, padding=4)[0]
    return head > 0.3, (head[0] > 0.95).nonzero()


def _soften(mask: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur of (H, W): the partial volume at an anomaly's edge."""
    blurred = ndimage.gaussian_filter(mask.numpy(), sigma, mode="constant", radius=int(np.ceil(2.5 * sigma)))
    return torch.from_numpy(blurred)


class RandSyntheticAnomalyd(MapTransform, Randomizable):
    """Dictionary form of `RandSyntheticAnomaly`: keeps the healthy slice, adds its twin and the mask.

    Args:
        keys: the one key of the healthy slice.
        donor_key: key of the donor slice; removed afterwards.
        region_key: key of the mask that they stay in, if there is one.
        twin_key: where the anomalous twin goes.
        mask_key: where the mask goes.
        severity_key: where one severity for all anomalies of the slice goes, 0 if it got none; by default each anomaly
            draws its own.
        kwargs: of `RandSyntheticAnomaly`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        donor_key: str = "donor",
        region_key: str = "brain",
        twin_key: str = "anomalous",
        mask_key: str = "mask",
        severity_key: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(keys)
        self.donor_key, self.region_key = donor_key, region_key
        self.twin_key, self.mask_key, self.severity_key = twin_key, mask_key, severity_key
        self.transform = RandSyntheticAnomaly(**kwargs)

    def set_random_state(self, seed: int | None = None, state: Any = None) -> RandSyntheticAnomalyd:
        self.transform.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        d = dict(data)
        donor = d.pop(self.donor_key, None)
        for key in self.key_iterator(d):
            severity = self.transform.draw_severity() if self.severity_key else None
            twin, mask = self.transform(d[key], donor, d.get(self.region_key), severity)
            d[self.twin_key], d[self.mask_key] = twin, mask
            if self.severity_key:
                d[self.severity_key] = severity if mask.any() else 0.0
        return d
