# SPDX-License-Identifier: Apache-2.0
"""Healthy slices of labelled or unlabelled scans, held in memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch

from ..errors import DatasetError, ScanError, cause_of
from ..synthesis.seeded_dataset import SeededDataset
from ..transforms.head import free_slices

__all__ = ["SliceDataset"]

logger = logging.getLogger(__name__)


class SliceDataset(SeededDataset):
    """Slices of scans on the model's grid.

    An item is ``image`` (C, H, W), ``donor``, a slice of another scan, for synthetic anomalies to take patches from,
    and, where the preprocessing found one, the mask ``region_key`` (1, H, W).

    Args:
        data: datalist with ``image`` and, where known, ``label``: slices that touch a label are left out,
            and so are their neighbours.
        preprocessing: case → dictionary of ``image`` (C, X, Y, Z) and, if the case has one, ``label``.
        transform: random transforms of an item.
        min_foreground: least part of the frame that must not be air.
        min_region: least part of the frame that must lie in the mask.
        region_key: of the mask of the organ.
        seed: makes every item draw its own reproducible randomness (for validation); None draws anew each time.
        every: take every so many slices of a scan; neighbours in thin slices are much alike.

    Raises:
        DatasetError: when no slice is left.
    """

    def __init__(
        self,
        data: Sequence[dict],
        preprocessing: Callable,
        transform: Callable | None = None,
        min_foreground: float = 0.05,
        min_region: float = 0.0,
        region_key: str = "brain",
        seed: int | None = None,
        every: int = 1,
    ) -> None:
        self.transform, self.seed, self.every = transform, seed, every
        self.min_foreground, self.min_region, self.region_key = min_foreground, min_region, region_key
        self.slices: list[torch.Tensor] = []
        self.regions: list[torch.Tensor] = []
        self.scan_of: list[int] = []
        for number, case in enumerate(data):
            try:
                self._add(number, preprocessing(dict(case)))
            except Exception as error:  # MONAI wraps what its components raise
                if not isinstance(cause := cause_of(error), ScanError):
                    raise
                logger.error("left out of training: %s", cause)
        if not self.slices:
            raise DatasetError("the training cases", "no healthy slice in them", "Check the labels and the split")
        logger.info("%d healthy slices of %d scans", len(self.slices), len(set(self.scan_of)))

    def _add(self, number: int, case: dict) -> None:
        image = torch.as_tensor(np.asarray(case["image"])).half().movedim(-1, 0)
        healthy = (image > 0.05).float().mean((1, 2, 3)) >= self.min_foreground
        healthy &= torch.arange(len(image)) % self.every == 0
        if "label" in case:
            healthy &= torch.from_numpy(free_slices(np.asarray(case["label"]).max(0) > 0))
        if (self.region_key in case) != bool(self.regions) and self.slices:
            raise ScanError(
                case["image"].meta.get("filename_or_obj"),
                f"some scans have a {self.region_key} mask, others none",
                "Give one to all",
            )
        if self.region_key in case:
            region = torch.as_tensor(np.asarray(case[self.region_key])).movedim(-1, 0) > 0.5
            healthy &= region.float().mean((1, 2, 3)) >= self.min_region
            self.regions.extend(region[healthy].clone())
        self.slices.extend(image[healthy].clone())
        self.scan_of.extend([number] * int(healthy.sum()))

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, index: int) -> dict:
        self.seed_item(index)
        item = {"image": self.slices[index].float(), "donor": self.slices[self._donor(index)].float()}
        if self.regions:
            item[self.region_key] = self.regions[index].float()
        return self.transform(item) if self.transform is not None else item

    def _donor(self, index: int) -> int:
        """A random slice of another scan; the slice itself when there is only one scan."""
        for _ in range(20):
            donor = int(self.R.randint(len(self.slices)))
            if self.scan_of[donor] != self.scan_of[index]:
                return donor
        return index
