"""Find the scans: a NIfTI file, a folder of them at any depth, a BIDS root, or BraTS as downloaded.

Every finder returns MONAI's kind of datalist: one plain dictionary a case, with ``image`` (a path, or a list of
paths, one a channel), ``name`` (unique within the list, the stem of every output) and, where known, ``subject`` and
``label``.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from .errors import EXIT_CODES, DatasetError

__all__ = [
    "LAYOUTS",
    "OUTPUT_SUFFIXES",
    "brats_cases",
    "find_scans",
    "lesion_cases",
    "read_split",
    "scans_to_run",
    "select_subjects",
    "stem",
    "training_cases",
    "with_brain_masks",
]

logger = logging.getLogger(__name__)

NIFTI_ENDINGS = (".nii.gz", ".nii")
#: What this project writes itself; such files are results, never input.
OUTPUT_SUFFIXES = (
    "_anomaly",
    "_anomaly_mask",
    "_brain_mask",
    "_desc-anomaly_map",
    "_desc-anomaly_mask",
    "_desc-brain_mask",
)
BRAIN_MASK = "brain_mask"
#: The four contrasts of BraTS in the paper's channel order, by the file endings of 2018–2021 and of 2023 and later.
BRATS_CONTRASTS = (("_t1", "-t1n"), ("_t1ce", "-t1c"), ("_t2", "-t2w"), ("_flair", "-t2f"))
BRATS_LABELS = ("_seg", "-seg")


def stem(path: str | Path) -> str:
    """File name without ``.nii`` or ``.nii.gz``."""
    name = Path(path).name
    for ending in NIFTI_ENDINGS:
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def find_scans(root: str | Path, suffix: str = "FLAIR") -> list[dict]:
    """List the scans below ``root``.

    Args:
        root: a NIfTI file; a BIDS root (it holds ``sub-*/anat`` or ``sub-*/ses-*/anat``), of which the files
            ``*_<suffix>.nii[.gz]`` are taken and derivatives left alone; or any other folder, of which every NIfTI
            file at any depth is taken, apart from results of this project.
        suffix: BIDS suffix of the contrast to take from a BIDS root.

    Returns:
        one dictionary a scan: ``image``, ``name``, ``subject``; sorted by path.

    Raises:
        DatasetError: when ``root`` does not exist, or holds no scan.
    """
    root = Path(root).expanduser()
    if not root.exists():
        raise DatasetError(root, "no such file or folder", "Give --dataset_dir a NIfTI file, a folder or a BIDS root")
    if root.is_file():
        return [_case(root, stem(root))]
    if is_bids_root(root):
        found = [path for path in _nifti_files(root, "sub-*/**/anat/**/*") if stem(path).endswith(f"_{suffix}")]
        wanted = f"no *_{suffix}.nii.gz under sub-*/anat"
    else:
        found = [path for path in _nifti_files(root, "**/*") if not stem(path).endswith(OUTPUT_SUFFIXES)]
        wanted = "no .nii or .nii.gz file at any depth"
    if not found:
        raise DatasetError(root, wanted, "Check the folder, or the contrast asked for")
    return [_case(path, name) for path, name in zip(found, _unique_names(found, root), strict=True)]


def scans_to_run(root: str | Path, suffix: str = "FLAIR", brain_masks: str | Path | None = None) -> list[dict]:
    """`find_scans` for a config: where there is nothing to do, one clear line and the exit code, no traceback.

    Args:
        root, suffix: of `find_scans`.
        brain_masks: folder of brain masks (`with_brain_masks`).
    """
    try:
        cases = find_scans(root, suffix)
        return with_brain_masks(cases, brain_masks) if brain_masks else cases
    except DatasetError as error:
        logger.error("%s", error)
        raise SystemExit(EXIT_CODES["nothing to do"]) from error


def with_brain_masks(cases: Sequence[dict], folder: str | Path) -> list[dict]:
    """Add ``brain``, a mask of the user's own, to the cases that have one: ``<name of the scan>_brain_mask.nii.gz``.

    Raises:
        DatasetError: when the folder is missing, or holds a mask for none of the scans.
    """
    folder = Path(folder).expanduser()
    masks = {stem(path): str(path) for path in _nifti_files(folder, "**/*")} if folder.is_dir() else {}
    masked = [
        {**case, "brain": masks[name]} if (name := f"{case['name']}_{BRAIN_MASK}") in masks else dict(case)
        for case in cases
    ]
    if not any("brain" in case for case in masked):
        wanted = f"{cases[0]['name']}_{BRAIN_MASK}.nii.gz"
        raise DatasetError(folder, "no brain mask for any of the scans in it", f"Name them as in {wanted}")
    return masked


def is_bids_root(root: Path) -> bool:
    """Whether ``root`` follows the BIDS layout; a missing dataset_description.json is forgiven."""
    return any(root.glob("sub-*/anat")) or any(root.glob("sub-*/ses-*/anat"))


def lesion_cases(root: str | Path, suffix: str = "FLAIR", derivative: str = "lesion") -> list[dict]:
    """Scans of a BIDS root with their lesion masks (``derivatives/<derivative>/…_label-lesion_mask.nii.gz``).

    Raises:
        DatasetError: when a scan has no mask: an unlabelled scan must not pass for a healthy one.
    """
    root = Path(root).expanduser()
    cases = find_scans(root, suffix)
    for case in cases:
        image = Path(case["image"])
        name = f"{stem(image).removesuffix(f'_{suffix}')}_label-lesion_mask.nii.gz"
        label = root / "derivatives" / derivative / image.parent.relative_to(root) / name
        if not label.is_file():
            raise DatasetError(label, f"the lesion mask of {image.name} is missing", "Add it, or take the scan out")
        case["label"] = str(label)
    return cases


def brats_cases(root: str | Path) -> list[dict]:
    """Cases of a BraTS download: four contrasts as four channels (T1, T1 with contrast, T2, FLAIR) and the label.

    Raises:
        DatasetError: when ``root`` holds no case, or a case lacks a contrast or its label.
    """
    root = Path(root).expanduser()
    cases = []
    for label in [path for path in _nifti_files(root, "**/*") if stem(path).endswith(BRATS_LABELS)]:
        subject = stem(label)[: -len(BRATS_LABELS[0])]
        image = []
        for endings in BRATS_CONTRASTS:
            files = [label.with_name(subject + e + n) for e in endings for n in NIFTI_ENDINGS]
            present = [path for path in files if path.is_file()]
            if not present:
                raise DatasetError(label.parent, f"no contrast {' or '.join(endings)}", "Complete or remove the case")
            image.append(str(present[0]))
        cases.append({"image": image, "label": str(label), "name": subject, "subject": subject})
    if not cases:
        raise DatasetError(root, "no BraTS case (*_seg.nii.gz or *-seg.nii.gz)", "Give the folder of the download")
    return cases


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


def _nifti_files(root: Path, pattern: str) -> list[Path]:
    hidden = [p for p in root.glob(pattern) if not any(part.startswith(".") for part in p.relative_to(root).parts)]
    return sorted(p for p in hidden if p.is_file() and p.name.lower().endswith(NIFTI_ENDINGS))


def _case(path: Path, name: str) -> dict:
    subject = next((part for part in path.name.split("_") if part.startswith("sub-")), name)
    return {"image": str(path), "name": name, "subject": subject}


def _unique_names(paths: Sequence[Path], root: Path) -> list[str]:
    """File stems; where two files share one, the folders join in, and a hash where even that is ambiguous."""
    names = [stem(path) for path in paths]
    longer = ["_".join((*path.relative_to(root).parts[:-1], stem(path))) for path in paths]
    count = Counter(names)
    names = [long if count[name] > 1 else name for name, long in zip(names, longer, strict=True)]
    count = Counter(names)
    tags = [hashlib.sha256(str(path.relative_to(root)).encode()).hexdigest()[:8] for path in paths]
    return [f"{name}_{tag}" if count[name] > 1 else name for name, tag in zip(names, tags, strict=True)]


#: What a training data set may look like on disk → how its cases are found.
LAYOUTS = {"bids_lesion": lesion_cases, "bids": find_scans, "brats": brats_cases}


def training_cases(root: str | Path, part: str, layout: str = "bids_lesion", split: str | Path | None = None) -> list:
    """The cases of one part of a data set.

    Args:
        root: folder of the data set.
        part: ``training``, ``validation`` or ``test``.
        layout: ``bids_lesion`` (BIDS with lesion masks, whose slices are left out), ``bids`` (healthy scans) or
            ``brats`` (as downloaded).
        split: split file; without one, subjects are dealt by a hash of their name: 70 % training, 10 % validation,
            20 % test, the same on every machine.

    Raises:
        DatasetError: on an unknown layout or part, or when nothing is left.
    """
    if layout not in LAYOUTS:
        raise DatasetError(layout, "not a known layout", f"Choose from {', '.join(LAYOUTS)}")
    cases = LAYOUTS[layout](root)
    if split:
        return select_subjects(cases, split, part)
    chosen = [case for case in cases if _dealt(case["subject"]) == part]
    if not chosen:
        raise DatasetError(root, f"no {part} case among {len(cases)}", "Give a split file with --split")
    return chosen


def _dealt(subject: str) -> str:
    share = int(hashlib.sha256(subject.encode()).hexdigest(), 16) % 10
    return "training" if share < 7 else "validation" if share < 8 else "test"
