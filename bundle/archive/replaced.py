# SPDX-License-Identifier: Apache-2.0
"""Results that take the place of others in an archive: it keeps both, so a reader must see which is which."""

from __future__ import annotations

from pathlib import Path

from ..io.files import whole_file

__all__ = ["REPLACES", "mark_as_replacing"]

REPLACES = "replaces earlier"  # ends the description of a series that takes the place of another
LONGEST = 64  # characters of a description (DICOM PS3.5, VR LO)


def mark_as_replacing(folder: Path) -> None:
    """Say in the description of every result below ``folder`` that it replaces an earlier one.

    Its UIDs are others already, since more instances went into it.

    Raises:
        OutputError: when a file cannot be written.
    """
    import pydicom

    for path in sorted(folder.rglob("*.dcm")):
        dataset = pydicom.dcmread(path)
        before = str(dataset.get("SeriesDescription") or "flipmap")
        dataset.SeriesDescription = f"{before[: LONGEST - len(REPLACES) - 2]}, {REPLACES}"
        with whole_file(path) as temporary:
            dataset.save_as(temporary, enforce_file_format=True)
