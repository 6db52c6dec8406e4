# SPDX-License-Identifier: Apache-2.0
"""Scans of people who trained nothing, of all places and contrasts, and which of them make the odds of findings."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ..cases import find_scans, lesion_cases
from ..datasets import cropped_cases, select_subjects, shipped_split, training_cases
from ..errors import DatasetError
from ..modalities import OCT, Modality
from ..oct_cases import DUKE
from ..paths import bundle_root

__all__ = ["SETS", "Scans", "cases_for_odds"]

OCT_FOLDER, CROPPED = "oct", "kermany_normal_cropped"


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


def cases_for_odds(data: Path, modality: Modality, split: str | Path | None = None) -> list[tuple[str, bool, dict]]:
    """Scans whose healthy tissue makes the odds of findings: set of scans, whether only slices without lesion are
    healthy, and the case.

    Args:
        data: folder of `SETS`, or of `OCT_FOLDER`; or one data set of one's own, whose validation part is taken.
        modality: of the scans.
        split: file that deals a data set of one's own; None takes that of flipmap where it knows anybody, or a hash.

    Raises:
        DatasetError: when there is nothing, or a split for sets that have their own.
    """
    known = modality is OCT and (data / OCT_FOLDER).is_dir()
    sets = [one for one in SETS if one.suffix == modality.suffix and one.makes_odds and (data / one.folder).is_dir()]
    if split and (known or sets):
        raise DatasetError(
            f"--split {split}", "is for one data set", "Leave it out: these sets have splits of their own"
        )
    if known:
        return _retinas(data / OCT_FOLDER)
    if sets:
        return [(one.folder, one.slices_alone, case) for one in sets for case in one.calibrating(data)]
    masked = (data / "derivatives" / "lesion").is_dir()
    layout = modality.layout if modality is OCT else "bids_lesion" if masked else "bids"
    split = split or shipped_split(data, layout, modality.suffix, modality.split_path)
    cases = training_cases(data, "validation", layout, split, modality.suffix)
    return [(data.name, layout == "bids_lesion", case) for case in cases]


def _retinas(folder: Path) -> list[tuple[str, bool, dict]]:
    """Normal B-scans of three sources: two cameras, and cropped pictures whose size was lost."""
    normal = training_cases(folder, "validation", OCT.layout, OCT.split_path)
    cropped = cropped_cases([folder / CROPPED] if (folder / CROPPED).is_dir() else [], "test")
    sources = [("duke" if DUKE.search(Path(case["image"]).stem) else "oct2017", case) for case in normal]
    return [(name, False, case) for name, case in [*sources, *((CROPPED, case) for case in cropped)]]
