# SPDX-License-Identifier: Apache-2.0
"""Structured flips: one pass of a denoiser that has learned which bits an anomaly flips.

The denoiser at timestep 0 was trained on z(anomalous twin) ⊕ z(healthy slice), with synthetic anomalies. On a scan
its flip probability f is a map already; undoing the flips softly and decoding, D(z) against D(|z − f|), brings it to
the grid of the image. This step beyond arXiv 2403.11667 is this project's own.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ..diffusion.bernoulli import flip_bits
from ..networks.anomaly_network import AnomalyNetwork
from .base import SliceMethod
from .differences import difference

__all__ = ["StructuredFlips"]

FLIPS = "flips"
BOTH = "both"


class StructuredFlips(SliceMethod[AnomalyNetwork]):
    """One pass as a MONAI inferer.

    Args:
        score_with: ``flips`` for the mean flip probability of the bits at a place; a name from
            `bundle.methods.differences.DIFFERENCES` for D(z) against D(|z − f|); ``both`` for the geometric mean of
            flips and ``distance``.
        distance: the difference that ``both`` takes: ``absolute``, or ``brighter`` for what is brighter than its
            restoration, since flips also mark fluid that is darker than any in training.
        mirrored: average with the map of the slice mirrored left to right.
        shifts: average over copies shifted by so many pixels along both axes, and back. A place of the code is several
            pixels wide; shifts by parts of it make the map finer.
        kwargs: of `SliceMethod`.
    """

    def __init__(
        self,
        score_with: str = BOTH,
        mirrored: bool = False,
        shifts: Sequence[int] = (0,),
        distance: str = "absolute",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.score_with, self.mirrored, self.shifts = score_with, mirrored, tuple(shifts)
        self.difference = difference(distance if score_with in (FLIPS, BOTH) else score_with)

    def score(self, slices: torch.Tensor, numbers: torch.Tensor, network: AnomalyNetwork) -> torch.Tensor:
        scores = []
        for shift in itertools.product(self.shifts, self.shifts):
            moved = slices.roll(shift, dims=(2, 3))  # around the frame, which is air
            here = self._score(moved, network)
            if self.mirrored:
                here = (here + self._score(moved.flip(2), network).flip(2)) / 2
            scores.append(here.roll([-s for s in shift], dims=(2, 3)))
        return torch.stack(scores).mean(0)

    def _score(self, slices: torch.Tensor, network: AnomalyNetwork) -> torch.Tensor:
        code = self.encode(slices, network)
        flips = network.flip_probability(code)
        rate = flips.mean(1, keepdim=True)
        if self.score_with != FLIPS:
            restored = network.decode(flip_bits(code, flips)).float()
            distance = self.difference(network.decode(code).float(), restored)
            if self.score_with != BOTH:
                return distance
        rate = F.interpolate(rate, size=slices.shape[2:], mode="bilinear", align_corners=False)
        return rate if self.score_with == FLIPS else (rate * distance).sqrt()
