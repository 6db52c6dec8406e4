# SPDX-License-Identifier: Apache-2.0
"""The results of a case for an archive; among them its picture as a DICOM Secondary Capture, what a reader sees without
a viewer for parametric maps.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..batch.plan import PlannedCase
from ..io.dicom import DicomSeries
from ..io.dicom_results import results_of
from ..io.dicom_valid import made_valid
from ..io.files import whole_file
from ..paths import __version__

__all__ = ["collect_results", "write_picture"]

PICTURE = "desc-anomaly_picture.dcm"


def collect_results(case: PlannedCase, output: Path, folder: Path, fingerprint: str) -> list[Path]:
    """Move what goes back to an archive into a folder; that of several parts of a series has room in one.

    Args:
        case: a DICOM series that is mapped.
        output: folder of its results.
        folder: that they go to; made as needed.
        fingerprint: of the job.

    Raises:
        OutputError: when a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    series = case.inputs["image"]
    part = f"{series.part}_" if isinstance(series, DicomSeries) and series.part else ""
    moved = [Path(shutil.move(case.path(output, ending), folder / f"{part}{ending}")) for ending in case.dicom_endings]
    picture = folder / f"{part}{PICTURE}"
    shown = case.path(output, case.outputs["picture"][0])
    write_picture(picture, shown, series, fingerprint, list(case.input_hashes.values()))
    return [*moved, picture]


def write_picture(
    path: Path, picture: Path, series: DicomSeries | str, fingerprint: str, inputs: Sequence[str] = ()
) -> None:
    """Write a PNG as a Secondary Capture of the study and patient of a series.

    Args:
        path: of the DICOM file.
        picture: PNG.
        series: that it was made from.
        fingerprint: of the job.
        inputs: hashes of what the picture was made from. UIDs follow from these, from the job and from the pixels: the
            same gives the same ones, anything else gives others.

    Raises:
        OutputError: when it cannot be written.
    """
    import pydicom

    if not isinstance(series, DicomSeries):
        raise TypeError("a picture goes back to a DICOM series")
    with Image.open(picture) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    made_from = [series.uid, "picture", __version__, fingerprint, *inputs, hashlib.sha256(pixels.tobytes()).hexdigest()]
    with results_of(series), whole_file(path) as temporary:
        source = pydicom.dcmread(series.files[0], stop_before_pixels=True, force=True)
        made_valid([source], series.uid)
        _capture(source, pixels, made_from).save_as(temporary, enforce_file_format=True)


def _capture(source: Any, pixels: np.ndarray, made_from: Sequence[str]) -> Any:
    """A Secondary Capture of (rows, columns, 3) for the patient and study of a data set."""
    import highdicom
    from pydicom.uid import RLELossless, generate_uid

    uids = [generate_uid(entropy_srcs=[*made_from, level]) for level in "si"]
    capture = highdicom.sc.SCImage.from_ref_dataset(
        ref_dataset=source,
        pixel_array=pixels,
        photometric_interpretation=highdicom.PhotometricInterpretationValues.RGB,
        bits_allocated=8,
        coordinate_system=highdicom.CoordinateSystemNames.PATIENT,
        series_instance_uid=uids[0],
        series_number=9003,
        sop_instance_uid=uids[1],
        instance_number=1,
        manufacturer="flipmap",
        patient_orientation=("L", "P"),
        transfer_syntax_uid=RLELossless,
    )
    capture.SeriesDescription = "flipmap anomaly picture"
    capture.BurnedInAnnotation, capture.BodyPartExamined = (
        "NO",
        "HEAD",
    )  # without the latter, left or right is asked for
    return capture
