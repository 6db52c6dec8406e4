# SPDX-License-Identifier: Apache-2.0
"""Find the scans: a file, a folder of them at any depth, a BIDS root, or BraTS as downloaded.

Every finder returns MONAI's kind of datalist: one plain dictionary a case, with ``image`` (a path, or a list of
paths, one a channel), ``name`` (unique within the list, the stem of every output) and, where known, ``subject`` and
``label``.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from .errors import DatasetError
from .io.content import is_file
from .io.volumes import READERS, ending_of
from .left_out import left_out
from .names import AGENT, NotAScan, contrast_by_name, stem
from .other_files import is_archive, kind_of, other_files
from .outputs import is_result

__all__ = [
    "CONTRAST",
    "Sorted",
    "brats_cases",
    "find_scans",
    "lesion_cases",
    "nothing_found",
    "sort_scans",
    "stem",
    "unique_names",
    "volume_files",
    "with_brain_masks",
]

BRAIN_MASK = "brain_mask"
#: Key of a case that says what contrast its scan is, where that is not what the weights are for.
CONTRAST = "contrast"
#: The four contrasts of BraTS in the paper's channel order, by the file endings of 2018–2021 and of 2023 and later.
BRATS_CONTRASTS = (("_t1", "-t1n"), ("_t1ce", "-t1c"), ("_t2", "-t2w"), ("_flair", "-t2f"))
BRATS_LABELS = ("_seg", "-seg")


class Sorted(NamedTuple):
    """What there is below a folder.

    Attributes:
        scans: see `find_scans`.
        left_out: path below the folder → why that file is no scan to be mapped. Results of this project are not named,
            nor, in a BIDS root, files of other suffixes.
    """

    scans: list[dict]
    left_out: dict[str, NotAScan]


def find_scans(root: str | Path, suffix: str | Sequence[str] = "FLAIR") -> list[dict]:
    """List the scans below ``root``.

    Args:
        root: a file of `bundle.io.volumes.READERS`; a BIDS root (it holds ``sub-*/anat`` or ``sub-*/ses-*/anat``), of
            which the files ``*_<suffix>.nii.gz`` are taken and derivatives left alone; or any other folder, of which
            every such file at any depth is taken, apart from results of this project. What its name says to be no
            scan (`bundle.names`) is left out.
        suffix: contrast to take from a BIDS root, or several: suffixes of BIDS, or, for scans after a contrast agent,
            which nobody gets who has not asked for them, values of `bundle.names.AGENT`.

    Returns:
        one dictionary a scan: ``image``, ``name``, ``subject``; sorted by path. A link without content is one, too.

    Raises:
        DatasetError: when ``root`` does not exist, or holds no scan.
    """
    found = sort_scans(root, suffix)
    if not found.scans:
        raise nothing_found(Path(root).expanduser(), suffix, found.left_out)
    return found.scans


def sort_scans(root: str | Path, suffix: str | Sequence[str] = "FLAIR") -> Sorted:
    """The scans below ``root``, and what is left out, with the reason; both may be empty.

    Args:
        root, suffix: see `find_scans`.

    Raises:
        DatasetError: when ``root`` does not exist, or is a file that cannot hold a scan.
    """
    root, asked = Path(root).expanduser(), [suffix] if isinstance(suffix, str) else list(suffix)
    if is_file(root):
        if not ending_of(root):
            kind = kind_of(root)
            raise DatasetError(root, kind.reason, kind.remedy)
        return Sorted([_case(root, stem(root))], {})
    if not root.exists():
        raise DatasetError(root, "no such file or folder", "Give --dataset_dir a scan, a folder or a BIDS root")
    in_bids = is_bids_root(root)
    visible = _visible_files(root, "sub-*/**/anat/**/*" if in_bids else "**/*")
    files = [path for path in visible if _is_volume(path)]
    files = [path for path in files if not is_result(stem(path)) and (not in_bids or _is_asked_for(path, asked))]
    out = left_out(files, root, asked) | {path: kind_of(path) for path in visible if is_archive(path)}
    scans = [path for path in files if path not in out]
    cases = [_case(path, name) for path, name in zip(scans, unique_names(scans, root), strict=True)]
    return Sorted(cases, {path.relative_to(root).as_posix(): why for path, why in out.items()})


def _is_asked_for(path: Path, asked: Sequence[str]) -> bool:
    """Whether a file of a BIDS root has one of these suffixes; scans after a contrast agent count as their own."""
    plain = {agent: contrast for contrast, agent in AGENT.items()}
    endings = {f"_{plain.get(one, one)}": one for one in asked}
    suffixes = [one for ending, one in endings.items() if stem(path).endswith(ending)]
    return any(one not in plain or contrast_by_name(path) == one for one in suffixes)


def nothing_found(root: Path, suffix: str | Sequence[str], out: Mapping[str, NotAScan]) -> DatasetError:
    """The error of a folder without scans, which says what is there instead.

    Args:
        root, suffix: see `find_scans`.
        out: see `Sorted`.
    """
    if out:
        (path, first), more = next(iter(out.items())), len(out) - 1
        also = f", and {more} other files are no scans to be mapped, either" if more else ""
        return DatasetError(root, f"no scan: {path} is {first.reason}{also}", first.remedy)
    asked = [suffix] if isinstance(suffix, str) else list(suffix)
    wanted = f"no {', '.join(READERS)} file at any depth"
    if root.is_dir() and is_bids_root(root):
        wanted = f"no *_{' or *_'.join(f'{one}.nii.gz' for one in asked)} under sub-*/anat"
    others, remedy = other_files(root)
    return DatasetError(root, wanted + (f"; there are {others}" if others else ""), remedy)


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
    return [path for path in _visible_files(root, pattern) if _is_volume(path)]


def _visible_files(root: Path, pattern: str) -> list[Path]:
    shown = [p for p in root.glob(pattern) if not any(part.startswith(".") for part in p.relative_to(root).parts)]
    return sorted(path for path in shown if is_file(path))


def _is_volume(path: Path) -> bool:
    ending = ending_of(path)
    if ending == ".hdr":  # other programs have headers of that ending, too
        return is_file(path.with_suffix(".img"))
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
