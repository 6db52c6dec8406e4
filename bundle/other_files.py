# SPDX-License-Identifier: Apache-2.0
"""Files that no reader of volumes takes, named for what they are, with what to do about them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from .io.volumes import READERS
from .names import NotAScan

__all__ = ["is_archive", "kind_of", "other_files"]

PICTURE = NotAScan(
    "a picture, which has lost the numbers and the geometry of its scan",
    "Give the scan as DICOM or NIfTI; pictures of a retina: --config configs/oct.json",
)
ARCHIVE = NotAScan("an archive", "Unpack it, and give the folder")
DOCUMENT = NotAScan("a document", "Give the scan as DICOM or NIfTI")
#: Endings, small letters → what such a file is, and what to do.
KINDS = {
    (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp"): PICTURE,
    (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar"): ARCHIVE,
    (".dcm", ".dicom", ".ima"): NotAScan(
        "DICOM, but no series of it is to be mapped",
        'See flipmap run --series; reading DICOM needs "flipmap[hospital]"',
    ),
    (".gii", ".annot", ".label", ".stl", ".vtk"): NotAScan("a surface, no volume", "Give the scan itself"),
    (".npy", ".npz", ".mat", ".h5", ".hdf5", ".pt"): NotAScan(
        "numbers without a place in the world", "Save them as NIfTI, with the affine of the scan"
    ),
    (".vol", ".e2e", ".fda", ".oct"): NotAScan("a scan of a retina", "Map it with --config configs/oct.json"),
    (".pdf", ".doc", ".docx", ".txt", ".csv", ".tsv", ".json", ".html", ".xml"): DOCUMENT,
}
OTHER = NotAScan("no file of a known format", f"Give DICOM, or one of {', '.join(READERS)}")
CHECK = "Check the folder, or the contrast asked for"


def kind_of(path: Path) -> NotAScan:
    """What a file is by its ending, that is none of `bundle.io.volumes.READERS`."""
    ending = path.suffix.lower()
    kind = _kind(ending)
    return NotAScan(f"{kind.reason} ({ending})" if ending else kind.reason, kind.remedy)


def is_archive(path: Path) -> bool:
    """Whether scans may be packed into it; a compressed volume is a volume."""
    name = path.name.lower()
    return _kind(path.suffix.lower()) is ARCHIVE and (not name.endswith(".gz") or name.endswith(".tar.gz"))


def other_files(root: Path) -> tuple[str, str]:
    """What lies below a folder that holds no scan, in words, the most frequent ending first; and the remedy for it.

    Documents and the like are not counted: they lie beside any scan.
    """
    endings: Counter[str] = Counter()
    for path in root.rglob("*"):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts):
            endings[path.suffix.lower()] += 1
    kinds = {ending: _kind(ending) for ending in endings}
    telling = [ending for ending, _ in endings.most_common() if kinds[ending] not in (OTHER, DOCUMENT)]
    words = [f"{endings[ending]} {ending} ({kinds[ending].reason})" for ending in telling[:3]]
    return ", ".join(words), kinds[telling[0]].remedy if telling else CHECK


def _kind(ending: str) -> NotAScan:
    return next((kind for endings, kind in KINDS.items() if ending in endings), OTHER)
