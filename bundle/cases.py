# SPDX-License-Identifier: Apache-2.0
"""Find the scans: a file, a folder of them at any depth, a BIDS root, or BraTS as downloaded.

Every finder returns MONAI's kind of datalist: one plain dictionary a case, with ``image`` (a path, or a list of
paths, one a channel), ``name`` (unique within the list, the stem of every output) and, where known, ``subject`` and
``label``.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from .errors import DatasetError
from .io.volumes import READERS, ending_of

__all__ = [
    "CONTRAST",
    "OUTPUT_SUFFIXES",
    "brats_cases",
    "find_scans",
    "lesion_cases",
    "stem",
    "unique_names",
    "volume_files",
    "with_brain_masks",
]

#: Of what else a scan may come in; points within a name are no endings.
OTHER_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".vol", ".e2e", ".fda", ".oct", ".dcm", ".dicom")
#: What this project writes itself; such files are results, never input.
OUTPUT_SUFFIXES = (
    "_anomaly",
    "_anomaly_mask",
    "_brain_mask",
    "_desc-anomaly_map",
    "_desc-anomaly_mask",
    "_desc-brain_mask",
    "_retina_mask",
    "_desc-retina_mask",
    "_rawscore",
    "_rawscore_mask",
    "_desc-rawscore_map",
    "_desc-rawscore_mask",
)
BRAIN_MASK = "brain_mask"
#: Key of a case that says what contrast its scan is, where that is not what the weights are for.
CONTRAST = "contrast"
#: The four contrasts of BraTS in the paper's channel order, by the file endings of 2018–2021 and of 2023 and later.
BRATS_CONTRASTS = (("_t1", "-t1n"), ("_t1ce", "-t1c"), ("_t2", "-t2w"), ("_flair", "-t2f"))
BRATS_LABELS = ("_seg", "-seg")


def stem(path: str | Path) -> str:
    """Name of a file without its ending (``.nii.gz`` is one), or of a folder."""
    name = Path(path).name
    for ending in (*READERS, *OTHER_ENDINGS):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def find_scans(root: str | Path, suffix: str | Sequence[str] = "FLAIR") -> list[dict]:
    """List the scans below ``root``.

    Args:
        root: a file of `bundle.io.volumes.READERS`; a BIDS root (it holds ``sub-*/anat`` or ``sub-*/ses-*/anat``), of
            which the files ``*_<suffix>.nii.gz`` are taken and derivatives left alone; or any other folder, of which
            every such file at any depth is taken, apart from results of this project.
        suffix: BIDS suffix of the contrast to take from a BIDS root, or several.

    Returns:
        one dictionary a scan: ``image``, ``name``, ``subject``; sorted by path.

    Raises:
        DatasetError: when ``root`` does not exist, or holds no scan.
    """
    root = Path(root).expanduser()
    if not root.exists():
        raise DatasetError(root, "no such file or folder", "Give --dataset_dir a scan, a folder or a BIDS root")
    if root.is_file():
        return [_case(root, stem(root))]
    if is_bids_root(root):
        endings = tuple(f"_{one}" for one in ([suffix] if isinstance(suffix, str) else suffix))
        found = [path for path in volume_files(root, "sub-*/**/anat/**/*") if stem(path).endswith(endings)]
        wanted = f"no *{' or *'.join(f'{one}.nii.gz' for one in endings)} under sub-*/anat"
    else:
        found = [path for path in volume_files(root, "**/*") if not stem(path).endswith(OUTPUT_SUFFIXES)]
        wanted = f"no {', '.join(READERS)} file at any depth"
    if not found:
        raise DatasetError(root, wanted, "Check the folder, or the contrast asked for")
    return [_case(path, name) for path, name in zip(found, unique_names(found, root), strict=True)]


def with_brain_masks(cases: Sequence[dict], folder: str | Path) -> list[dict]:
    """Add ``brain``, a mask of the user's own, to the cases that have one: ``<name of the scan>_brain_mask.nii.gz``.

    Raises:
        DatasetError: when the folder is missing, or holds a mask for none of the scans.
    """
    folder = Path(folder).expanduser()
    masks = {stem(path): str(path) for path in volume_files(folder, "**/*")} if folder.is_dir() else {}
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
    for label in [path for path in volume_files(root, "**/*") if stem(path).endswith(BRATS_LABELS)]:
        subject = stem(label)[: -len(BRATS_LABELS[0])]
        image = []
        for endings in BRATS_CONTRASTS:
            files = [label.with_name(subject + e + n) for e in endings for n in READERS]
            present = [path for path in files if path.is_file()]
            if not present:
                raise DatasetError(label.parent, f"no contrast {' or '.join(endings)}", "Complete or remove the case")
            image.append(str(present[0]))
        cases.append({"image": image, "label": str(label), "name": subject, "subject": subject})
    if not cases:
        raise DatasetError(root, "no BraTS case (*_seg.nii.gz or *-seg.nii.gz)", "Give the folder of the download")
    return cases


def volume_files(root: Path, pattern: str) -> list[Path]:
    """Files of volumes (`bundle.io.volumes.READERS`) that match a pattern, sorted; hidden ones left alone."""
    shown = [p for p in root.glob(pattern) if not any(part.startswith(".") for part in p.relative_to(root).parts)]
    return sorted(p for p in shown if p.is_file() and _is_volume(p))


def _is_volume(path: Path) -> bool:
    ending = ending_of(path)
    if ending == ".hdr":  # other programs have headers of that ending, too
        return path.with_suffix(".img").is_file()
    return bool(ending) and ending != ".img"  # the other half of such a header, or DICOM


def _case(path: Path, name: str) -> dict:
    subject = next((part for part in path.name.split("_") if part.startswith("sub-")), name)
    return {"image": str(path), "name": name, "subject": subject}


def unique_names(paths: Sequence[Path], root: Path) -> list[str]:
    """File stems; where two files share one, the folders join in, and a hash where even that is ambiguous."""
    names = [stem(path) for path in paths]
    longer = ["_".join((*path.relative_to(root).parts[:-1], stem(path))) for path in paths]
    count = Counter(names)
    names = [long if count[name] > 1 else name for name, long in zip(names, longer, strict=True)]
    count = Counter(names)
    tags = [hashlib.sha256(str(path.relative_to(root)).encode()).hexdigest()[:8] for path in paths]
    return [f"{name}_{tag}" if count[name] > 1 else name for name, tag in zip(names, tags, strict=True)]
