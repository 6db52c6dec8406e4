# SPDX-License-Identifier: Apache-2.0
"""Find the scans of a modality; map dataset layouts to training cases; split patients."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from .cases import CONTRAST, Sorted, brats_cases, find_scans, lesion_cases, sort_scans, with_brain_masks
from .errors import EXIT_CODES, DatasetError
from .modalities import modality_of
from .oct_cases import find_oct, normal_oct_cases, oct_cases
from .paths import bundle_root

__all__ = [
    "LAYOUTS",
    "cropped_cases",
    "deal_of",
    "dealt",
    "find_modality",
    "hospital_of",
    "label_map_cases",
    "read_split",
    "scans_to_run",
    "select_subjects",
    "shipped_split",
    "sort_modality",
    "t1w_cases",
    "training_cases",
]

logger = logging.getLogger(__name__)


def hospital_of(subject: str) -> str:
    """sub-CS4941 → CS: the hospital in the names of the data set of lower-grade glioma."""
    return subject.removeprefix("sub-")[:2]


def find_modality(
    root: str | Path, modality: str = "flair", brain_masks: str | Path | None = None, **how: object
) -> list[dict]:
    """The scans of a modality below ``root``.

    Args:
        root: file or folder.
        modality: name of a row of `bundle.modalities.MODALITIES`.
        brain_masks: folder of brain masks (`bundle.cases.with_brain_masks`).
        how: settings of its finder, see `bundle.modalities.Modality`; those of other modalities' finders are not looked
            at.

    Raises:
        FlipmapError: on an unknown modality.
        DatasetError: when there is nothing.
    """
    known = modality_of(modality)
    cases = known.find(root, **{key: value for key, value in how.items() if key in known.found_by})
    return with_brain_masks(cases, brain_masks) if brain_masks else cases


def sort_modality(root: str | Path, modality: str, **how: Any) -> Sorted:
    """The scans of a modality below ``root``, none where there is none, and the files that are left out, with reasons.

    Args:
        root, modality, how: see `find_modality`.

    Raises:
        FlipmapError, DatasetError: see `find_modality`; not where only DICOM or files that are left out are there.
    """
    known = modality_of(modality)
    if known.find is not find_scans:
        return Sorted(find_modality(root, modality, **how), {})
    return sort_scans(root, **{key: value for key, value in how.items() if key in known.found_by})


def scans_to_run(root: str | Path, **how: Any) -> list[dict]:
    """`find_modality` for a config: where there is nothing to do, one clear line and the exit code, no traceback."""
    try:
        return find_modality(root, **how)
    except DatasetError as error:
        logger.error("%s", error)
        raise SystemExit(EXIT_CODES["nothing to do"]) from error


def read_split(path: str | Path) -> dict[str, list[str]]:
    """Read a split file: part (``training``, ``validation``, ``test``) → subjects.

    Raises:
        DatasetError: when a subject stands in two parts.
    """
    parts = json.loads(Path(path).read_text())["subjects"]
    twice = [name for name, n in Counter(name for part in parts.values() for name in part).items() if n > 1]
    if twice:
        raise DatasetError(path, f"in more than one part of the split: {', '.join(twice)}", "Split by patient")
    return parts


def shipped_split(
    root: str | Path, layout: str = "bids_lesion", suffix: str | None = None, split: str | Path | None = None
) -> str | None:
    """The split file of flipmap, where it knows anybody in a data set.

    Args:
        root, layout, suffix: see `training_cases`.
        split: the file; by default that of the patients who trained FLAIR.

    Returns:
        its path; None where nobody in the data set stands in it, or the layout has none: then people are dealt by a
        hash of their names.

    Raises:
        DatasetError: when there is nothing in the data set.
    """
    if split is None and layout != "bids_lesion":
        return None
    path = Path(split or Path(bundle_root()) / "configs" / "splits" / "lgg_flair.json")
    known = {subject for subjects in read_split(path).values() for subject in subjects}
    if known & _subjects(root, layout, suffix):
        return str(path)
    reason = "%s knows nobody in %s: people are dealt by a hash of their names, %s. --split FILE deals them otherwise"
    logger.info(reason, path.name, Path(root).name, "70 % training, 10 % validation, 20 % test")
    return None


def deal_of(
    root: str | Path, layout: str = "bids_lesion", suffix: str | None = None, split: str | Path | None = None
) -> dict[str, list[str]] | None:
    """Part → people of a data set, by a hash of their names; None where a split file deals them.

    Args:
        root, layout, suffix, split: see `training_cases`.
    """
    return None if split else dealt(_subjects(root, layout, suffix))


def _subjects(root: str | Path, layout: str, suffix: str | None) -> set[str]:
    return {case["subject"] for case in _cases_of(root, layout, suffix)}


def dealt(subjects: Iterable[str]) -> dict[str, list[str]]:
    """Part of a split → people, by a hash of their names: some 70 % training, 10 % validation, 20 % test, the same on
    every machine. A part that would be empty gets one of those who would train, as long as two of these are left.
    """
    parts: dict[str, list[str]] = {"training": [], "validation": [], "test": []}
    for subject in sorted(set(subjects), key=_hash):
        parts[_part_of(subject)].append(subject)
    for part in ("validation", "test"):
        if not parts[part] and len(parts["training"]) > 1:
            parts[part].append(parts["training"].pop())
    return parts


def select_subjects(cases: Sequence[dict], split: str | Path, part: str) -> list[dict]:
    """The cases whose subject stands in ``part`` of the split file.

    Raises:
        DatasetError: when the part is unknown or none of its subjects is there.
    """
    parts = read_split(split)
    if part not in parts:
        raise DatasetError(split, f"no part named {part!r}", f"Choose from {', '.join(parts)}")
    chosen = [case for case in cases if case["subject"] in set(parts[part])]
    if not chosen:
        raise DatasetError(split, f"none of its {part} subjects is in the data set", "Check dataset_dir and split")
    return chosen


#: What a training data set may look like on disk → how its cases are found.
LAYOUTS: dict[str, Callable[..., list[dict]]] = {
    "bids_lesion": lesion_cases,
    "bids": find_scans,
    "brats": brats_cases,
    "oct": normal_oct_cases,
    "oct_all": oct_cases,
}
#: Pixel along a B-scan and into depth, µm, where the size was lost: B-scans of OCT2017 are stretched by 1 to 3 across.
CROPPED_UM = (5.75, 3.87)
#: Those whose finders take the suffix of a contrast.
BIDS_LAYOUTS = ("bids_lesion", "bids")


def training_cases(
    root: str | Path | Sequence[str | Path],
    part: str | Sequence[str],
    layout: str = "bids_lesion",
    split: str | Path | None = None,
    suffix: str | None = None,
) -> list:
    """The cases of one part of a data set, or of several parts and data sets.

    Args:
        root: folder of the data set, or a list of them.
        part: ``training``, ``validation`` or ``test``, or a list of them.
        layout: ``bids_lesion`` (BIDS with lesion masks, whose slices are left out), ``bids`` (healthy scans), ``brats``
            (as downloaded), ``oct`` (B-scans in folders by disease, of which NORMAL is taken) or ``oct_all`` (all
            of them, for tests).
        split: split file; without one, subjects are dealt by a hash of their names (`dealt`).
        suffix: BIDS suffix of the contrast, for the layouts of BIDS, not looked at by others; FLAIR by default.

    Raises:
        DatasetError: on an unknown layout or part, or when nothing is left.
    """
    if not isinstance(root, (str, Path)):
        return [case for one in root for case in training_cases(one, part, layout, split, suffix)]
    if not isinstance(part, str):
        return [case for one in part for case in training_cases(root, one, layout, split, suffix)]
    cases = _cases_of(root, layout, suffix)
    if split:
        return select_subjects(cases, split, part)
    parts = dealt(case["subject"] for case in cases)
    if part not in parts:
        raise DatasetError(root, f"no part named {part!r}", f"Choose from {', '.join(parts)}")
    chosen = [case for case in cases if case["subject"] in set(parts[part])]
    if not chosen:
        remedy = "Add people, or give a split file with --split"
        raise DatasetError(root, f"no {part} case among {len(cases)} of {sum(map(len, parts.values()))} people", remedy)
    return chosen


def _cases_of(root: str | Path, layout: str, suffix: str | None) -> list[dict]:
    if layout not in LAYOUTS:
        raise DatasetError(layout, "not a known layout", f"Choose from {', '.join(LAYOUTS)}")
    contrast = {"suffix": suffix} if suffix and layout in BIDS_LAYOUTS else {}
    return LAYOUTS[layout](root, **contrast)


def t1w_cases(
    root: str | Path | Sequence[str | Path], part: str = "training", split: str | Path | None = None
) -> list[dict]:
    """T1w scans of healthy people, said to be T1w, so that they are painted like another contrast.

    Args:
        root: see `bundle.cases.find_scans`; or a list of such folders.
        part: of the split.
        split: split file; without one all scans are taken.
    """
    if not isinstance(root, (str, Path)):
        return [case for one in root for case in t1w_cases(one, part, split)]
    cases = training_cases(root, part, "bids", split, "T1w") if split else find_scans(root, "T1w")
    return [{**case, CONTRAST: "T1w"} for case in cases]


def label_map_cases(root: str | Path, held_back: int = 2) -> list[dict]:
    """Label maps of whole heads, to be painted; the last ``held_back`` by name are left for validation.

    Raises:
        DatasetError: when there are not enough.
    """
    cases = find_scans(root)
    if len(cases) <= held_back:
        raise DatasetError(root, f"{len(cases)} label maps, at least {held_back + 1} needed", "Check the path")
    return cases[: len(cases) - held_back]


def cropped_cases(roots: Sequence[str | Path], part: str) -> list[dict]:
    """B-scans of normal retinas whose size was lost, all below ``roots``, with the size that is taken for theirs.

    Args:
        roots: folders of B-scans, all normal; none gives an empty list.
        part: ``training``, ``validation`` or ``test``, dealt by a hash of their names as in `training_cases`.
    """
    cases = [case for root in roots for case in find_oct(root) if _part_of(case["subject"]) == part]
    return [{**case, "voxel_um": list(CROPPED_UM)} for case in cases]


def _hash(subject: str) -> str:
    return hashlib.sha256(subject.encode()).hexdigest()


def _part_of(subject: str) -> str:
    share = int(_hash(subject), 16) % 10
    return "training" if share < 7 else "validation" if share < 8 else "test"
