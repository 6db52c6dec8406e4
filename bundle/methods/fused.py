# SPDX-License-Identifier: Apache-2.0
"""Fusion: the maps of several methods, each calibrated on its own healthy distribution, averaged."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.utils import convert_to_dst_type
from scipy import ndimage

from ..networks.fused_network import FusedNetwork
from ..scoring.calibration import Calibration, read_calibration
from ..scoring.description import describe
from ..threads import ARITHMETIC
from ..transforms.brain_depth import brain_depth
from ..transforms.surroundings import mean_around
from .base import nonzero, smooth_across

__all__ = ["Fused", "GatedFusion", "part_entry", "remembers_training"]


def part_entry(name: str, seen: bool = False) -> str:
    """Entry of the calibration file of a part of the fusion: it differs from the method on its own.

    Args:
        name: of the part.
        seen: the entry for the patients that trained its network, who score lower.
    """
    return f"fused.{name}_seen" if seen else f"fused.{name}"


def remembers_training(method: Inferer) -> bool:
    """Whether scores are lower on the scans that trained the network of a method, so that these cannot calibrate."""
    return bool(getattr(method, "remembers_training", True))


class Fused(Inferer):
    """Weighted mean of −log10 of the healthy tail probabilities of several methods, or the highest of some of them.

    Where the preprocessing has noted how deep in the brain a voxel lies (`bundle.transforms.brain_depth`), methods that
    were calibrated by depth use the calibration table of that depth.

    Args:
        methods: name → method; its entry of the calibration file is ``fused.<name>``.
        tables: that file.
        shares: name → weight; equal by default.
        networks: name → part of a `FusedNetwork` that the method asks; by default all ask the network as it is.
        weights: weights files to check the entries against; none skips the check.
        preprocessing: of the job, to check the entries against; none skips the check.
        checked: False takes the entries as they are, to bring the parts to one scale and no more.
        across: sigma of a Gaussian across slices over the mean, in slices; 0 for none.
        highest: names of methods that have no share in the mean: where the value of one is above the mean, it counts.
        smoothing: sigma of an in-plane Gaussian over the mean, voxels of the model's grid; None for none.

    Raises:
        ValueError: when no method is left for the mean, or ``highest`` names none.
        WeightsError: when an entry is missing, or is not for ``weights``.
    """

    def __init__(
        self,
        methods: Mapping[str, Inferer],
        tables: str | Path,
        shares: Mapping[str, float] | None = None,
        networks: Mapping[str, str] | None = None,
        weights: Sequence[str | Path] = (),
        preprocessing: object = None,
        checked: bool = True,
        across: float = 0.0,
        highest: Sequence[str] = (),
        smoothing: float | None = None,
    ) -> None:
        self.methods, self.networks, self.across = dict(methods), dict(networks or {}), across
        averaged = [name for name in self.methods if name not in highest]
        if not averaged or not set(highest) <= set(self.methods):
            raise ValueError(f"highest {list(highest)}: some, not all, of {', '.join(self.methods)}")
        self.smoothing = smoothing
        self.highest, shares = tuple(highest), dict(shares or dict.fromkeys(averaged, 1.0))
        self.shares = {name: shares[name] / sum(shares.values()) for name in averaged}
        self._tables, self._weights = Path(tables), tuple(weights) if checked else ()
        self._preprocessing = preprocessing if checked else None
        self.calibrations = {name: self._read(name, part_entry(name)) for name in self.methods}

    def _read(self, name: str, entry: str) -> Calibration:
        made_with = describe(preprocessing=self._preprocessing, inferer=self.methods[name])
        return read_calibration(self._tables, entry, self._weights, made_with if self._preprocessing else None)

    def with_entries(self, entries: Mapping[str, str]) -> Fused:
        """The same, some methods with another entry of the calibration file: method → entry."""
        twin = copy.copy(self)
        twin.calibrations = {**self.calibrations, **{name: self._read(name, entry) for name, entry in entries.items()}}
        return twin

    def asking(self, methods: Mapping[str, Inferer]) -> Fused:
        """The same, its parts scored by other objects of the same settings."""
        twin = copy.copy(self)
        twin.methods = {name: methods[name] for name in self.methods}
        return twin

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Map volumes.

        Args:
            inputs: (B, C, X, Y, Z) on the model's grid, from the preprocessing.
            network: the network, or networks, of the methods.

        Returns:
            float32 (B, 1, X, Y, Z), zero where the volume is.
        """
        inside = nonzero(inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs, 1).cpu().numpy()
        raw = {}
        for name, method in self.methods.items():
            asked = cast(FusedNetwork, network).parts[self.networks[name]] if name in self.networks else network
            raw[name] = method(inputs, asked).cpu().numpy()[inside]
        depth = brain_depth(inputs)
        deep = None if depth is None else np.broadcast_to(depth, inside.shape)
        values = self._values(raw, None if deep is None else deep[inside])
        total = np.zeros(inside.shape, np.float32)
        total[inside] = self._join(values, inside, inside if deep is None else inside & (deep > 0))
        total = smooth_across(total, self.across) * inside
        maps = torch.from_numpy(total).to(inputs.device)
        return convert_to_dst_type(maps, inputs)[0] if isinstance(inputs, MetaTensor) else maps

    def _values(self, raw: Mapping[str, np.ndarray], depth: np.ndarray | None) -> dict[str, np.ndarray]:
        """Raw scores (voxels,) of each method, and the depth of the voxels, → values."""

        def of(asked: tuple[str, slice]) -> np.ndarray:
            name, part = asked
            there = None if depth is None else depth[part]
            # Not capped: what the parts say beyond their tables still ranks, and the fusion is calibrated itself.
            return self.calibrations[name](raw[name][part], there, capped=False)

        voxels = len(next(iter(raw.values())))
        share = max(1, -(-voxels // ARITHMETIC.threads))
        parts = [slice(first, first + share) for first in range(0, voxels, share)]
        values = list(ARITHMETIC.map(of, [(name, part) for name in raw for part in parts]))
        empty = np.zeros(0, np.float32)
        return {name: np.concatenate([*values[n * len(parts) :][: len(parts)], empty]) for n, name in enumerate(raw)}

    def _join(self, values: Mapping[str, np.ndarray], inside: np.ndarray, organ: np.ndarray) -> np.ndarray:
        """Values (voxels,) of each method → one; masks (B, 1, X, Y, Z) of these voxels, and of those in the organ."""
        mean = functools.reduce(np.add, (share * values[name] for name, share in self.shares.items()))
        if self.smoothing:
            volumes = np.zeros(inside.shape, np.float32)
            volumes[inside] = mean
            mean = ndimage.gaussian_filter(volumes, (0, 0, self.smoothing, self.smoothing, 0))[inside]
        return functools.reduce(np.maximum, (values[name] for name in self.highest), mean)


class GatedFusion(Fused):
    """A fusion in which one part counts as far as another stands out around the voxel, too.

    Flips say that anatomy is not as expected, by places of some millimetres; in scans of other hospitals they say it of
    much that is healthy. Where the UNet of synthetic lesions sees nothing around, they count less
    (docs/decisions/0010-gated-flips.md). The value v of the gated part becomes v^own · m^(1 − own), where m is the mean
    of the values of the other part around the voxel: a weighted geometric mean.

    Args:
        args, kwargs: of `Fused`.
        gated: name of the part that is gated.
        gate: name of the part that gates it.
        around: sigma of the mean, voxels of the model's grid in plane.
        own: weight of the gated part's own value in the geometric mean, between 0 and 1.
    """

    COARSE = 4  # voxels of the model's grid: the mean changes slowly

    def __init__(self, *args: Any, gated: str, gate: str, around: float, own: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in (gated, gate):
            if name not in self.methods:
                raise ValueError(f"{name!r} is none of the methods {', '.join(self.methods)}")
        if around <= 0 or not 0 < own < 1:
            raise ValueError(f"around {around} is no width, or own {own} no weight between 0 and 1")
        self.gated, self.gate, self.around, self.own = gated, gate, around, own

    def _join(self, values: Mapping[str, np.ndarray], inside: np.ndarray, organ: np.ndarray) -> np.ndarray:
        around = self._around(values[self.gate], inside, organ)
        own, other = np.float32(self.own), np.float32(1 - self.own)
        return super()._join({**values, self.gated: values[self.gated] ** own * around**other}, inside, organ)

    def _around(self, value: np.ndarray, inside: np.ndarray, organ: np.ndarray) -> np.ndarray:
        volumes = np.zeros(inside.shape, np.float32)
        volumes[inside] = value
        for volume, mask in zip(volumes, organ, strict=True):
            volume[0] = mean_around(volume[0], mask[0], [self.around] * 2, [self.COARSE] * 2)
        return volumes[inside]
