# SPDX-License-Identifier: Apache-2.0
"""Scans of people who trained nothing, of all places and contrasts."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ..cases import find_scans, lesion_cases
from ..datasets import select_subjects
from ..paths import bundle_root

__all__ = ["SETS", "Scans"]


class Scans(NamedTuple):
    """Scans of one place and contrast.

    Attributes:
        folder: of the data set.
        suffix: BIDS suffix of the contrast.
        split: name of the split file that says who trained; None where nobody did.
        parts: of the split, that did not.
        masked: whether there are masks of lesions; otherwise all are healthy.
        healthy: whether what is not lesion is healthy: not where a tumour presses on all of the brain.
    """

    folder: str
    suffix: str
    split: str | None = None
    parts: tuple[str, ...] = ()
    masked: bool = True
    healthy: bool = True

    def cases(self, data: Path) -> list[dict]:
        """``image``, ``subject`` and, where there are masks, ``label`` of each.

        Args:
            data: folder of the sets.

        Raises:
            DatasetError: when there is nothing.
        """
        found = (lesion_cases if self.masked else find_scans)(data / self.folder, self.suffix)
        if not self.split:
            return found
        split, there = Path(bundle_root()) / "configs" / "splits" / f"{self.split}.json", {c["subject"] for c in found}
        chosen = [case for part in self.parts for case in select_subjects(found, split, part)]
        return [case for case in chosen if case["subject"] in there]


SETS = (
    Scans("brain_lgg", "FLAIR", "lgg_flair", ("validation", "test")),
    Scans("brain_lgg", "T1w", "lgg_flair", ("validation", "test")),
    Scans("brain_wmh_auto", "FLAIR", "elderly_flair", ("validation",)),
    *(Scans("brain_wml10", suffix, "small_lesions", ("test",)) for suffix in ("FLAIR", "T1w", "T2w")),
    Scans("brain_brats", "FLAIR", healthy=False),
    Scans("brain_flair_single", "FLAIR", masked=False),
    Scans("brain_t1_healthy", "T1w", "healthy_t1w", ("validation",), masked=False),
    Scans("brain_t1_ixi", "T1w", "healthy_t1w", ("validation",), masked=False),
    Scans("brain_t2_healthy", "T2w", "healthy_t2w", ("validation",), masked=False),
)
