# SPDX-License-Identifier: Apache-2.0
"""Which contrast a scan of a brain has, told from its intensities by a small network.

What tells contrasts apart is which tissue is the brighter one. Cortex lies beneath the surface of the brain, white
matter deeper, fluid at the surface and in the middle; so the network is given how intensities are spread at each depth:
as they are, and against the mean around them, which the uneven brightness of a coil does not change.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.networks.nets import FullyConnectedNet
from monai.transforms import MapTransform

from ..errors import ContrastError
from ..networks.weights import load_weights
from .brain import GIVEN
from .brain_depth import depth_in_slices
from .surroundings import mean_around

__all__ = [
    "CONTRASTS",
    "PROFILE",
    "BrainVoxels",
    "RecogniseContrastd",
    "brain_voxels",
    "candidates_of",
    "contrast_network",
    "contrast_of",
    "intensity_profile",
]

CONTRASTS = ("FLAIR", "T1w", "T2w", "PDw")  # in the order of the network's answer
BORDERS_MM = (2.0, 4.0, 7.0, 11.0, 16.0, 24.0, 34.0)  # of depth, between which intensities are looked at
RANKS = 12  # classes of intensity, each with as many voxels of the brain
QUANTILES = (0.02, 0.1, 0.25, 0.75, 0.9, 0.98)
PROFILE = 2 * ((len(BORDERS_MM) + 1) * RANKS + len(QUANTILES))  # numbers that the network is given
AROUND_MM, COARSE_MM = 15.0, 4.0  # sigma of the mean around a voxel, and the grid on which it is taken
MOST_VOXELS = 30_000  # of a brain that are looked at: more say nothing more
MOST_SLICES, FINEST_MM = 48, 0.7  # that are looked at
#: Entries of a scan's meta data: what it is taken for, and the probability of that.
CONTRAST, CERTAINTY = "recognised_contrast", "contrast_probability"
#: Another entry, text, where it is not sure, or looks like another one than is wanted: the two contrasts that it may
#: be, the likelier first.
CANDIDATES = "contrast_candidates"


def contrast_of(scan: torch.Tensor) -> tuple[str, float] | None:
    """What a scan was taken for, and the probability of that; None where nobody looked."""
    meta = scan.meta if isinstance(scan, MetaTensor) else {}
    return (meta[CONTRAST], meta[CERTAINTY]) if CONTRAST in meta else None


def candidates_of(scan: torch.Tensor) -> list[tuple[str, float]]:
    """The two contrasts that a scan may be, and their probabilities, where that is not sure; none where it is, or
    nobody looked.
    """
    meta = scan.meta if isinstance(scan, MetaTensor) else {}
    pairs = [one.split() for one in str(meta.get(CANDIDATES, "")).split(",") if one]
    return [(contrast, float(probability)) for contrast, probability in pairs]


def contrast_network() -> FullyConnectedNet:
    """Profiles (B, `PROFILE`) → logits of `CONTRASTS`."""
    return FullyConnectedNet(PROFILE, len(CONTRASTS), [48, 24], dropout=0.1)


class BrainVoxels(NamedTuple):
    """Some voxels of a brain.

    Attributes:
        values: (N,), in multiples of their median.
        local: (N,), in multiples of the mean of the brain around them in their slice.
        depths: (N,) below the surface, in their slice, mm.
        places: (N, 3), from -1 to 1 along each axis.
    """

    values: np.ndarray
    local: np.ndarray
    depths: np.ndarray
    places: np.ndarray

    def at(self, chosen: np.ndarray) -> BrainVoxels:
        """Those of some indices or of a mask."""
        return BrainVoxels(*(one[chosen] for one in self))


def brain_voxels(volume: np.ndarray, brain: np.ndarray, spacing: Sequence[float]) -> BrainVoxels:
    """At most `MOST_VOXELS` voxels of a brain, of some slices of it.

    Args:
        volume: (X, Y, Z), axial slices along the last axis.
        brain: bool, same shape.
        spacing: mm.
    """
    filled = np.flatnonzero(brain.any((0, 1)))
    chosen = filled[np.unique(np.linspace(0, len(filled) - 1, min(MOST_SLICES, len(filled))).round().astype(int))]
    steps = [2 if size < FINEST_MM else 1 for size in spacing[:2]]
    part = (slice(None, None, steps[0]), slice(None, None, steps[1]), chosen)
    seen, inside = volume[part].astype(np.float32), brain[part]
    in_plane = [step * size for step, size in zip(steps, spacing[:2], strict=True)]
    depth = depth_in_slices(inside, in_plane)
    there = np.flatnonzero(inside)
    there = there[np.linspace(0, len(there) - 1, min(len(there), MOST_VOXELS)).astype(int)]
    values, where = seen.reshape(-1)[there], np.unravel_index(there, inside.shape)
    sigma, step = ([mm / size for size in in_plane] for mm in (AROUND_MM, COARSE_MM))
    around = mean_around(seen, inside, sigma, [max(1, round(one)) for one in step])
    local = values / np.maximum(around.reshape(-1)[there], 1e-6)
    places = 2 * np.stack(where, -1) / np.maximum(np.array(inside.shape) - 1, 1) - 1
    median = max(float(np.median(values)), 1e-6) if len(values) else 1.0
    return BrainVoxels(values / median, local, depth.reshape(-1)[there].astype(np.float32), places.astype(np.float32))


def intensity_profile(voxels: BrainVoxels) -> np.ndarray:
    """How intensities are spread at each depth: shares of `RANKS` classes of equal size, between `BORDERS_MM`, and
    logarithms of `QUANTILES`; in multiples of the median, then of the mean around them.

    Returns:
        float32 (`PROFILE`,).
    """
    layer = np.searchsorted(BORDERS_MM, voxels.depths)
    return np.concatenate([_spread(values, layer) for values in (voxels.values, voxels.local)]).astype(np.float32)


def _spread(values: np.ndarray, layer: np.ndarray) -> np.ndarray:
    bands = len(BORDERS_MM) + 1
    rank = np.searchsorted(np.quantile(values, np.linspace(0, 1, RANKS + 1)[1:-1]), values)
    counts = np.bincount(layer * RANKS + rank, minlength=bands * RANKS).reshape(bands, RANKS)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    tails = np.clip(np.log2(np.maximum(np.quantile(values, QUANTILES), 1e-3)), -3, 3)
    return np.concatenate([RANKS * shares.ravel(), tails])


@lru_cache(maxsize=2)
def _load(path: str, changed: int) -> FullyConnectedNet:
    return load_weights(contrast_network(), path).eval()


class RecogniseContrastd(MapTransform):
    """Tell the contrast of scans of brains, and refuse those that are surely another one than is wanted.

    It changes nothing in the scan but its meta data: `CONTRAST`, `CERTAINTY`, and where there is doubt `CANDIDATES`.

    Args:
        keys: keys of scans (C, X, Y, Z), LPS, background at 0; the mean of their channels is looked at.
        path: weights of `contrast_network`; None looks at nothing.
        wanted: BIDS suffix of the contrast that the job is for; None, or one that the network does not know, refuses
            none.
        sure: probability from which on another contrast is refused; within a mask that the case brought along, none
            is.
        mask_key: of the brain mask (1, X, Y, Z).

    Raises:
        WeightsError: when ``path`` cannot be used.
        ContrastError: on a scan of another contrast.
    """

    changes_nothing = True

    def __init__(
        self,
        keys: KeysCollection,
        path: str | Path | None = None,
        wanted: str | None = None,
        sure: float = 0.9,
        mask_key: str = "brain",
    ) -> None:
        super().__init__(keys)
        changed = Path(path).stat().st_mtime_ns if path and Path(path).exists() else 0
        self.network = _load(str(path), changed) if path else None
        self.wanted, self.sure, self.mask_key = wanted, sure, mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        d = dict(data)
        for key in self.key_iterator(d) if self.network is not None else ():
            scan = d[key]
            told = self._tell(scan, d[self.mask_key])
            contrast = max(told, key=lambda name: told[name])
            # Within a mask of one's own, which may be any region, nobody can be sure.
            sure = told[contrast] >= self.sure and not d[self.mask_key].meta.get(GIVEN)
            if self.wanted in CONTRASTS and contrast != self.wanted and sure:
                raise ContrastError(
                    str(scan.meta.get("filename_or_obj", key)),
                    f"looks like {contrast} ({told[contrast]:.0%} sure), the weights are for {self.wanted}",
                    f"Give {self.wanted}; if it is that, set check_contrast to false",
                    contrast,
                )
            scan.meta |= {CONTRAST: contrast, CERTAINTY: told[contrast]}
            if told[contrast] < self.sure or (self.wanted in CONTRASTS and contrast != self.wanted):
                likely = sorted(told, key=lambda name: -told[name])[:2]
                scan.meta[CANDIDATES] = ",".join(f"{name} {told[name]:.3f}" for name in likely)
        return d

    def _tell(self, scan: MetaTensor, mask: MetaTensor) -> dict[str, float]:
        """Probability of each contrast."""
        spacing = [float(size) for size in scan.pixdim]
        image = np.asarray(scan[0] if len(scan) == 1 else scan.mean(0))
        voxels = brain_voxels(image, np.asarray(mask[0]) > 0, spacing)
        if not len(voxels.values):
            return dict.fromkeys(CONTRASTS, 1 / len(CONTRASTS))
        with torch.no_grad():
            logits = cast(FullyConnectedNet, self.network)(torch.from_numpy(intensity_profile(voxels))[None])
        return dict(zip(CONTRASTS, torch.softmax(logits[0], 0).tolist(), strict=True))
