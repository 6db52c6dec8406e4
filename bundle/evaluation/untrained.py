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
        calibrates: parts of the split whose healthy tissue makes the odds of findings, None for all of ``parts``; an
            empty one for none, as where a tumour presses on all of the brain.
        slices_alone: only slices without lesion are healthy.
    """

    folder: str
    suffix: str
    split: str | None = None
    parts: tuple[str, ...] = ()
    masked: bool = True
    calibrates: tuple[str, ...] | None = None
    slices_alone: bool = False

    @property
    def makes_odds(self) -> bool:
        """Whether any of them does."""
        return self.calibrates is None or bool(self.calibrates)

    def cases(self, data: Path) -> list[dict]:
        """``image``, ``subject`` and, where there are masks, ``label`` of each.

        Args:
            data: folder of the sets.

        Raises:
            DatasetError: when there is nothing.
        """
        return self._of(data, self.parts)

    def calibrating(self, data: Path) -> list[dict]:
        """Those of `cases` whose healthy tissue makes the odds of findings."""
        return self._of(data, self.parts if self.calibrates is None else self.calibrates)

    def _of(self, data: Path, parts: tuple[str, ...]) -> list[dict]:
        found = (lesion_cases if self.masked else find_scans)(data / self.folder, self.suffix)
        if not self.split:
            return found
        split, there = Path(bundle_root()) / "configs" / "splits" / f"{self.split}.json", {c["subject"] for c in found}
        chosen = [case for part in parts for case in select_subjects(found, split, part)]
        return [case for case in chosen if case["subject"] in there]


SETS = (
    *(
        Scans("brain_lgg", suffix, "lgg_flair", ("validation", "test"), calibrates=("validation",), slices_alone=True)
        for suffix in ("FLAIR", "T1w")
    ),
    Scans("brain_wmh_auto", "FLAIR", "elderly_flair", ("validation",)),
    *(Scans("brain_wml10", suffix, "small_lesions", ("test",)) for suffix in ("FLAIR", "T1w", "T2w")),
    Scans("brain_brats", "FLAIR", calibrates=()),
    Scans("brain_flair_single", "FLAIR", masked=False),
    Scans("brain_t1_healthy", "T1w", "healthy_t1w", ("validation",), masked=False),
    Scans("brain_t1_ixi", "T1w", "healthy_t1w", ("validation",), masked=False),
    Scans("brain_t2_healthy", "T2w", "healthy_t2w", ("validation",), masked=False),
)
