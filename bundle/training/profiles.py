# SPDX-License-Identifier: Apache-2.0
"""Profiles of brains whose contrast is known, to learn to tell contrasts (`bundle.transforms.recognise`)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from ..errors import DatasetError, ScanError, cause_of
from ..synthesis.seeded_dataset import SeededDataset
from ..transforms.recognise import CONTRASTS, BrainVoxels, brain_voxels, intensity_profile

__all__ = ["BrainProfiles"]

logger = logging.getLogger(__name__)

LEAST_VOXELS = 500


class BrainProfiles(SeededDataset):
    """Profiles of random scans, as other scanners, strippings and fields of view would have them.

    An item is ``image``, a profile, and ``label``, the number of its contrast in `CONTRASTS`.

    Args:
        sources: groups of scans, each with ``contrast``, ``data`` (a datalist) and ``preprocessing`` (case → ``image``
            (1, X, Y, Z) and ``brain``, LPS); ``share``, how often it is taken among those of its contrast, is 1 unless
            it is said. Every contrast is taken as often.
        length: items an epoch.
        drawn: False gives every scan as it is, one after the other, whatever ``length``.
        seed: see `SeededDataset`.

    Raises:
        DatasetError: when a contrast is left without a scan.
    """

    def __init__(self, sources: Sequence[Mapping], length: int, drawn: bool = True, seed: int | None = None) -> None:
        self.seed, self.drawn = seed, drawn
        self.groups: dict[str, list[tuple[float, list[BrainVoxels]]]] = {}
        for source in sources:
            voxels = [one for case in source["data"] if (one := self._read(case, source["preprocessing"])) is not None]
            if voxels:
                self.groups.setdefault(source["contrast"], []).append((source.get("share", 1.0), voxels))
            logger.info("%s: %d scans of %d", source["contrast"], len(voxels), len(source["data"]))
        if not self.groups:
            raise DatasetError("the training cases", "no scan in them", "Check the folders")
        self.flat = [(name, one) for name, groups in self.groups.items() for _, group in groups for one in group]
        self.length = length if drawn else len(self.flat)

    def _read(self, case: Mapping, preprocessing: Callable) -> BrainVoxels | None:
        try:
            item = preprocessing(dict(case))
        except Exception as error:  # MONAI wraps what its components raise
            if not isinstance(cause := cause_of(error), ScanError):
                raise
            logger.error("left out of training: %s", cause)
            return None
        scan = item["image"]
        spacing = [float(size) for size in scan.pixdim]
        return brain_voxels(np.asarray(scan[0]), np.asarray(item["brain"][0]) > 0.5, spacing)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        self.seed_item(index)
        if not self.drawn:
            contrast, voxels = self.flat[index]
        else:
            contrast = list(self.groups)[self.R.randint(len(self.groups))]
            shares = np.array([share for share, _ in self.groups[contrast]])
            group = self.groups[contrast][self.R.choice(len(shares), p=shares / shares.sum())][1]
            voxels = self._elsewhere(group[self.R.randint(len(group))])
        return {
            "image": torch.from_numpy(intensity_profile(voxels)),
            "label": torch.tensor(CONTRASTS.index(contrast)),
        }

    def _elsewhere(self, voxels: BrainVoxels) -> BrainVoxels:
        """The voxels as another scanner would show them: field of view, margin of the mask, bias field, noise. What is
        seen against the mean around it has no bias field left.
        """
        low = self.R.uniform(-1, 0.4)
        slab = np.abs(voxels.places[:, 2] - low - 0.5) < 0.5
        if self.R.rand() < 0.35 and slab.sum() >= LEAST_VOXELS:
            voxels = voxels.at(slab)
        linear, square = (self.R.uniform(-0.2, 0.2, 3) * (self.R.rand() < 0.7) for _ in range(2))
        bias = np.exp(voxels.places @ linear + voxels.places**2 @ square)
        noise = self.R.uniform(0, 0.12) * self.R.standard_normal(len(bias))
        power = np.exp(self.R.uniform(-0.25, 0.25))
        values, local = (np.maximum(one + noise, 0) ** power for one in (voxels.values * bias, voxels.local))
        depths = voxels.depths * self.R.uniform(0.85, 1.15) - self.R.uniform(-2, 3) * (self.R.rand() < 0.6)
        changed = BrainVoxels(values, local, depths, voxels.places)
        if (inside := depths > 0).sum() >= LEAST_VOXELS:
            changed = changed.at(inside)
        return changed._replace(values=changed.values / max(float(np.median(changed.values)), 1e-6))
