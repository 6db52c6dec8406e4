# SPDX-License-Identifier: Apache-2.0
"""Find retinal scans: B-scans one by one, folders of them as volumes, NIfTI, vendors' files; OCT2017 and Duke as they
come.

The finders return datalists as in `bundle.cases`; a case may have ``voxel_um``, and ``kind``, the name of the folder
that a data set sorts its diseases into.
"""

from __future__ import annotations

import re
from pathlib import Path

from .cases import stem, unique_names
from .errors import DatasetError
from .io.content import is_file
from .io.oct import DICOM_ENDINGS, NIFTI, PICTURES, VENDORS
from .outputs import is_result

__all__ = ["DUKE", "NORMAL", "find_oct", "normal_oct_cases", "oct_cases"]

NORMAL = "normal"
#: Duke (Fang et al., Medical Image Analysis 2012) names a file by the eye; 6.6 x 6.6 mm in 1000 A-scans.
DUKE = re.compile(r"(eye\d+)_(test|average|\d+)$", re.IGNORECASE)
DUKE_UM = (6.6, 3.23)
#: OCT2017 (Kermany et al., Cell 2018) names a file KIND-PATIENT-NUMBER.
OCT2017 = re.compile(r"[A-Z]+-(\d+)-\d+$")


def find_oct(root: str | Path, stacks: bool = False) -> list[dict]:
    """List the scans below ``root``.

    Args:
        root: a scan, or a folder at any depth.
        stacks: every folder of pictures is one volume, its B-scans sorted by name; otherwise every picture is a scan.

    Returns:
        one dictionary a scan: ``image``, ``name``, ``subject``; sorted by path.

    Raises:
        DatasetError: when ``root`` does not exist, or holds no scan.
    """
    root = Path(root).expanduser()
    if is_file(root):
        return [_case(root, stem(root))]
    if not root.exists():
        raise DatasetError(root, "no such file or folder", "Give --dataset_dir a B-scan, a volume, or a folder")
    files = sorted(path for path in root.rglob("*") if _is_scan(path, root))
    if stacks:
        pictures = [path for path in files if path.suffix.lower() in PICTURES]
        files = sorted({*(path.parent for path in pictures), *(path for path in files if path not in set(pictures))})
    if not files:
        kinds = ", ".join((*PICTURES, *NIFTI, *VENDORS, *DICOM_ENDINGS))
        raise DatasetError(root, f"no scan ({kinds}) at any depth", "Check the folder")
    return [_case(path, name) for path, name in zip(files, unique_names(files, root), strict=True)]


def oct_cases(root: str | Path) -> list[dict]:
    """Scans of a data set that is sorted into folders by what they show, such as OCT2017 and Duke.

    Raises:
        DatasetError: when there is none.
    """
    return [{**case, "kind": Path(case["image"]).parent.name.lower()} for case in find_oct(root)]


def normal_oct_cases(root: str | Path) -> list[dict]:
    """Those of `oct_cases` in folders named normal: what there is to train on.

    Raises:
        DatasetError: when there is none.
    """
    normal = [case for case in oct_cases(root) if case["kind"] == NORMAL]
    if not normal:
        raise DatasetError(root, "no scan in a folder named NORMAL", "Sort the scans into folders, as OCT2017 is")
    return normal


def _is_scan(path: Path, root: Path) -> bool:
    if not is_file(path) or any(part.startswith(".") for part in path.relative_to(root).parts):
        return False
    name, own = path.name.lower(), stem(path)
    if is_result(own):
        return False
    return name.endswith((*NIFTI, *DICOM_ENDINGS)) or path.suffix.lower() in (*PICTURES, *VENDORS)


def _case(path: Path, name: str) -> dict:
    case: dict = {"image": str(path), "name": name, "subject": name}
    own = stem(path)
    if duke := DUKE.match(own):
        # The eyes of either folder have numbers of their own.
        return {**case, "subject": f"{path.parent.name}-{duke[1]}", "voxel_um": list(DUKE_UM)}
    if oct2017 := OCT2017.match(own):
        return {**case, "subject": oct2017[1]}
    return case
