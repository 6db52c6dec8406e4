# SPDX-License-Identifier: Apache-2.0
"""Which contrast a brain MRI is, told by a small network from the image itself; a scan of another one is refused."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.networks.nets import Classifier
from monai.transforms import MapTransform

from ..errors import ScanError
from ..networks.weights import load_weights
from .brain_depth import brain_depth

__all__ = ["CONTRASTS", "CheckContrastd", "ToContrastInputd", "contrast_network", "contrast_probabilities"]

#: What the network tells apart; the last was learned from painted scans alone.
CONTRASTS = ("FLAIR", "T1w", "T2w", "PDw")
SIZE = 64  # pixels of its input, along both axes
SLICES = 12  # that are looked at
LEAST_AREA = 0.4  # of the brain's largest axial area: lower and higher slices say little
SURE = 0.9  # probability of another contrast from which on a scan is refused

logger = logging.getLogger(__name__)


def contrast_network() -> Classifier:
    """(N, 1, 64, 64) slices of the brain alone → logits of `CONTRASTS`."""
    return Classifier((1, SIZE, SIZE), len(CONTRASTS), (8, 16, 32, 64), (2, 2, 2, 2), num_res_units=1, dropout=0.1)


@lru_cache(maxsize=2)
def _loaded(path: str, changed: int) -> Classifier:
    return load_weights(contrast_network(), path).eval()


def network_input(slices: torch.Tensor, brain: torch.Tensor) -> torch.Tensor:
    """Slices (N, C, H, W) on a model's grid and their brain (N, 1, H, W) → (N, 1, 64, 64): the brain alone, coarse."""
    inside = slices.mean(1, keepdim=True).float() * (brain > 0.5)
    return F.adaptive_avg_pool2d(inside, SIZE)


def contrast_probabilities(volume: torch.Tensor, brain: torch.Tensor, network: torch.nn.Module) -> dict[str, float]:
    """How probable each of `CONTRASTS` is, averaged over slices.

    Args:
        volume: (C, X, Y, Z) as the preprocessing scales it, on the model's grid.
        brain: (1, X, Y, Z), bool.
        network: `contrast_network` with its weights.

    Returns:
        equal probabilities where there is no brain.
    """
    area = brain[0].sum((0, 1))
    shown = torch.nonzero((area > 0) & (area >= LEAST_AREA * area.max()))[:, 0]
    if not len(shown):
        return dict.fromkeys(CONTRASTS, 1 / len(CONTRASTS))
    shown = shown[torch.linspace(0, len(shown) - 1, min(SLICES, len(shown))).long()]
    slices, inside = (part[..., shown].movedim(-1, 0) for part in (volume, brain))
    with torch.no_grad():
        probabilities = torch.softmax(network(network_input(slices, inside)), dim=1).mean(0)
    return dict(zip(CONTRASTS, probabilities.tolist(), strict=True))


class CheckContrastd(MapTransform):
    """Refuse a scan that is surely of another contrast than the weights; it passes as it is.

    Args:
        keys: keys of scans (C, X, Y, Z) on the model's grid, with the depth of the brain noted
            (`bundle.transforms.brain_depth`).
        path: weights of `contrast_network`.
        contrast: that the weights of the job are for; one that the network does not know is not checked.
        check: False passes everything.

    Raises:
        WeightsError: when ``path`` cannot be used.
        ScanError: when a scan is of another contrast.
    """

    changes_nothing = True  # so that calibrations need not know of it

    def __init__(self, keys: KeysCollection, path: str | Path, contrast: str, check: bool = True) -> None:
        super().__init__(keys)
        self.contrast = contrast
        self.network: Classifier | None = None
        if check and contrast in CONTRASTS:
            changed = Path(path).stat().st_mtime_ns if Path(path).exists() else 0
            self.network = _loaded(str(path), changed)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        d = dict(data)
        for key in self.key_iterator(d):
            if self.network is None:
                break
            depth = brain_depth(d[key])
            if depth is None:
                continue
            inside = torch.as_tensor(np.broadcast_to(depth, (1, *d[key].shape[1:])) > 0)
            found = contrast_probabilities(d[key].as_tensor(), inside, self.network)
            likely = max(found, key=lambda name: found[name])
            name = d[key].meta.get("filename_or_obj", key)
            logger.debug("%s: %s", name, ", ".join(f"{one} {share:.3f}" for one, share in found.items()))
            if likely != self.contrast and found[likely] >= SURE:
                remedy = f"Give {self.contrast}, or --set check_contrast=false if it is one"
                reason = f"looks like {likely} ({found[likely]:.0%} sure), the weights are for {self.contrast}"
                raise ScanError(name, reason, remedy)
        return d


class ToContrastInputd(MapTransform):
    """What the network of the contrast is trained on: (C, H, W) with its brain → (1, 64, 64).

    Args:
        keys: keys of slices.
        mask_key: of the brain (1, H, W), taken away.
    """

    def __init__(self, keys: KeysCollection, mask_key: str = "brain") -> None:
        super().__init__(keys)
        self.mask_key = mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        d = dict(data)
        brain = torch.as_tensor(d.pop(self.mask_key))[None]
        for key in self.key_iterator(d):
            d[key] = network_input(torch.as_tensor(d[key])[None], brain)[0]
        return d
