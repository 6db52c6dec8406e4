# SPDX-License-Identifier: Apache-2.0
"""What the data sets of training have in common: draws that follow from one seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from monai.transforms import Randomizable
from torch.utils.data import Dataset

__all__ = ["SeededDataset"]

# The state of NumPy takes no more.
MOST_SEED = 2**31 - 1


class SeededDataset(Dataset, Randomizable):
    """A data set that draws, and whose ``transform`` draws.

    With a ``seed`` an item is the same whenever it is asked for; without one it is drawn anew.
    """

    transform: Callable | None = None
    seed: int | None = None

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> SeededDataset:
        """Seed draws, transform and inner data sets (``datasets``): MONAI seeds a data set in every worker of a loader,
        and looks no further.
        """
        super().set_random_state(seed, state)
        for part in self._parts():
            part.set_random_state(None if seed is None else int(self.R.randint(MOST_SEED)))
        return self

    def seed_item(self, index: int) -> None:
        """Before an item is drawn: with a ``seed``, the draws of that item."""
        if self.seed is not None:
            super().set_random_state(self.seed + index)
            for part in self._parts():
                part.set_random_state(self.seed + index)

    def _parts(self) -> Iterator[Randomizable]:
        """What draws beside it: its transform, and the data sets that it takes items from."""
        for one in (self.transform, *vars(self).get("datasets", ())):
            if isinstance(one, Randomizable):
                yield one
