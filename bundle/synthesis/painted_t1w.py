# SPDX-License-Identifier: Apache-2.0
"""T1w scans of healthy people that look like another contrast: healthy anatomy where its own scans are few."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable
from sklearn.mixture import GaussianMixture

from ..cases import CONTRAST
from ..errors import ScanError

__all__ = ["RandPaintT1wd", "tissue_intensities"]

VOXELS = 20_000  # that the tissues are found in
QUANTILES = (0.08, 0.4, 0.8)  # of the brain: where fluid, grey and white matter are looked for first


def tissue_intensities(volume: np.ndarray, brain: np.ndarray, rng: np.random.RandomState) -> tuple[float, ...]:
    """Mean T1w intensity of fluid, grey and white matter, rising: three Gaussians over the voxels of the brain.

    Args:
        volume: (X, Y, Z), not negative.
        brain: bool, same shape.
        rng: which voxels are looked at.

    Raises:
        ValueError: when the brain has no three intensities.
    """
    inside = volume[brain & (volume > 0)]
    if len(np.unique(inside)) < 3:
        raise ValueError("no three tissues in the brain")
    some = inside[rng.randint(len(inside), size=VOXELS)].astype(float)[:, None]
    first = np.quantile(some, QUANTILES)[:, None]
    return tuple(np.sort(GaussianMixture(3, means_init=first, random_state=0).fit(some).means_.ravel()).tolist())


class RandPaintT1wd(MapTransform, Randomizable):
    """Paint T1w scans with the intensities of another contrast; the defaults are those of FLAIR: dark fluid, grey
    matter a little brighter than white.

    Intensities run in straight lines between those of the tissues, so partial volume stays what it is; a rim of grey
    around the ventricles, where white matter meets fluid, comes with it. Other scans pass as they are.

    Args:
        keys: keys of scans (C, X, Y, Z) of cases whose `CONTRAST` is ``T1w``.
        mask_key: of the brain mask (1, X, Y, Z).
        fluid, grey, white: intensity of a tissue on that contrast, least and most: only their ratios count, and they
            vary by scanner. Every order of darkness of fluid is as likely.
        bend: least and most power of intensities below white matter, in multiples of it: partial volume of fluid.

    Raises:
        ScanError: when a brain has no three tissues.
    """

    def __init__(
        self,
        keys: KeysCollection,
        mask_key: str = "brain",
        fluid: tuple[float, float] = (0.25, 0.55),
        grey: tuple[float, float] = (1.05, 1.25),
        white: tuple[float, float] = (0.85, 1.0),
        bend: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        super().__init__(keys)
        self.mask_key, self.fluid, self.grey, self.white, self.bend = mask_key, fluid, grey, white, bend

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        d = dict(data)
        if d.get(CONTRAST) != "T1w":
            return d
        for key in self.key_iterator(d):
            scan, brain = d[key], d[self.mask_key].numpy()[0] > 0
            try:
                painted = [torch.from_numpy(self._paint(channel, brain)) for channel in scan.numpy()]
            except ValueError as error:
                name = scan.meta.get("filename_or_obj", key)
                raise ScanError(name, str(error), "Check that this is a T1w scan of a brain") from error
            d[key] = MetaTensor(torch.stack(painted), meta=scan.meta, applied_operations=scan.applied_operations)
        return d

    def _paint(self, volume: np.ndarray, brain: np.ndarray) -> np.ndarray:
        fluid, grey, white = tissue_intensities(volume, brain, self.R)
        tissues = [np.exp(self.R.uniform(*np.log(self.fluid))), *(self.R.uniform(*t) for t in (self.grey, self.white))]
        seen = [0, fluid / 2, fluid, grey, white, 2 * white]
        shown = [0, 0.8 * tissues[0], *tissues, 1.1 * tissues[2]]
        painted, top = np.interp(volume, seen, shown), tissues[2]
        bent = top * (painted / top) ** self.R.uniform(*self.bend)
        return np.where(painted < top, bent, painted).astype(np.float32)
