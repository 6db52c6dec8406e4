# SPDX-License-Identifier: Apache-2.0
"""Results as DICOM, tied to the series that they were made from, for the way back to the archive.

They carry the patient of their source, as they must to find their place there. Written by highdicom.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, MutableSequence, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FlipmapError, ScanError
from ..paths import __version__
from .dicom import DicomSeries
from .dicom_pixels import Stack, images_of, stack_of
from .dicom_quiet import quiet, redacted
from .dicom_valid import made_valid
from .files import whole_file

__all__ = [
    "Source",
    "results_of",
    "save_dataset",
    "source_of",
    "write_bands",
    "write_parametric_map",
    "write_segmentation",
]

logger = logging.getLogger("flipmap")

MAKER = {"manufacturer": "flipmap", "manufacturer_model_name": "flipmap", "device_serial_number": "none"}
SERIES_NUMBERS = {"map": 9001, "mask": 9002, "bands": 9004, "findings": 9005, "report": 9006}
WINDOW = (2.0, 4.0)  # centre and width: one healthy voxel in a hundred in the middle
#: Bounds of the bands of a calibrated map → label.
BANDS = {2.0: "rarer than 1 %", 3.0: "rarer than 0.1 %", 4.0: "rarer than 0.01 %"}
NOTICE = "research only"  # in the description of every series; nothing is burnt into pixels


@dataclass(frozen=True)
class Source:
    """The series that results are made from, read once.

    Attributes:
        series: as it was found.
        images: its data sets, each once, with what breaks the standard left empty.
        stack: the volume that they make.
        made_from: what else the content of the results follows from, hashes of inputs, settings and weights: the same
            run gives the same UIDs, any other run gives others.
    """

    series: DicomSeries
    images: list
    stack: Stack
    made_from: Sequence[str]

    def identity(self, kind: str) -> dict:
        """Attributes of a result; its UIDs follow from all that its content follows from."""
        from pydicom.uid import generate_uid

        sources = [self.series.uid, kind, __version__, *self.made_from]
        sources += [self.series.part] if self.series.part else []
        uids = [generate_uid(entropy_srcs=[*sources, level]) for level in ("series", "instance")]
        return {
            "series_instance_uid": uids[0],
            "sop_instance_uid": uids[1],
            "series_number": SERIES_NUMBERS[kind],
            "instance_number": 1,
            "software_versions": __version__,
            **MAKER,
        }

    def pixels(self, values: np.ndarray) -> dict:
        """(X, Y, Z) → pixels, and where they lie, as arguments of highdicom's constructors."""
        from highdicom import PixelMeasuresSequence, PlaneOrientationSequence, PlanePositionSequence

        array = np.ascontiguousarray(np.transpose(values, [2, 1, 0]))
        if self.stack.straight is not None:
            return {"pixel_array": self.stack.straight.with_array(array)}
        affine, system = self.stack.affine, "PATIENT"
        sizes = np.linalg.norm(affine[:3, :3], axis=0)
        axes = affine[:3, :3] / sizes
        return {
            "pixel_array": array,
            "plane_positions": [PlanePositionSequence(system, list(map(float, p))) for p in self.stack.positions],
            "plane_orientation": PlaneOrientationSequence(system, [*map(float, axes[:, 2]), *map(float, axes[:, 1])]),
            "pixel_measures": PixelMeasuresSequence([float(sizes[1]), float(sizes[2])], float(sizes[0])),
        }


def source_of(series: DicomSeries, made_from: Sequence[str]) -> Source:
    """Read a series for its results. What its headers have that breaks the standard is left empty in them, and named
    once in the log.

    Raises:
        ScanError: when it is no longer as it was.
    """
    with quiet():
        images = images_of(series)
        stack = stack_of(images, series)
        changed = made_valid(images, series.uid)
    if changed:
        logger.warning("%s: not valid DICOM, left empty in its results: %s", series.name, ", ".join(changed))
    return Source(series, images, stack, made_from)


@contextmanager
def results_of(series: DicomSeries) -> Iterator[None]:
    """A block that writes the DICOM results of a series, of which the map itself is there already.

    Raises:
        FlipmapError: when one of them cannot be written; it says that the map is there, and not whose it is.
    """
    import pydicom

    there = "the map is written as NIfTI, but not all of its DICOM results"
    try:
        with quiet():
            yield
    except FlipmapError as error:
        raise type(error)(error.where, f"{there}: {error.reason}", error.remedy) from None
    except Exception as error:
        with quiet():
            quoted = pydicom.dcmread(series.files[0], stop_before_pixels=True, force=True)
        reason = f"{there} ({type(error).__name__}: {redacted(error, quoted)})"
        raise ScanError(series.where, reason, "Report it, with what made the series") from None


@quiet()
def write_segmentation(path: str | Path, mask: np.ndarray, source: Source, method: str) -> None:
    """The mask as a DICOM Segmentation, one segment, binary.

    Args:
        path: of the file.
        mask: (X, Y, Z) on the grid of `bundle.io.dicom.read_series`.
        source: from `source_of`.
        method: name, for the algorithm.

    Raises:
        OutputError: when the file cannot be written.
    """
    segments = (np.asarray(mask) > 0).astype(np.uint8)
    said = {"content_label": "ANOMALY", "content_description": "Above the threshold of the anomaly map"}
    dataset = segmentation(segments, {1: "anomaly"}, source, "mask", method, labelmap=False, **said)
    save_dataset(path, dataset)


@quiet()
def write_bands(path: str | Path, anomaly: np.ndarray, source: Source, method: str) -> None:
    """The bands of a calibrated map as a label map segmentation (DICOM Supplement 243): how rare a value is.

    Args:
        path: of the file.
        anomaly: calibrated map (X, Y, Z).
        source: from `source_of`.
        method: name, for the algorithm.

    Raises:
        OutputError: when the file cannot be written.
    """
    bands = np.digitize(anomaly, list(BANDS)).astype(np.uint8)
    labels = dict(enumerate(BANDS.values(), start=1))
    said = {"content_label": "BANDS", "content_description": "Bands of the anomaly map"}
    save_dataset(path, segmentation(bands, labels, source, "bands", method, labelmap=True, **said))


def segmentation(
    segments: np.ndarray,
    labels: Mapping[int, str],
    source: Source,
    kind: str,
    method: str,
    labelmap: bool,
    **said: Any,
) -> Any:
    """A DICOM Segmentation.

    Args:
        segments: (X, Y, Z), numbers of segments, 0 for none.
        labels: number → its label.
        source: from `source_of`.
        kind: of the result, one of `SERIES_NUMBERS`.
        method: name, for the algorithm.
        labelmap: one label map, or binary.
        said: label and description of the content.
    """
    import highdicom
    from pydicom.sr.codedict import codes

    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=f"flipmap {method}", family=codes.DCM.ArtificialIntelligence, version=__version__
    )
    described = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.MorphologicallyAbnormalStructure,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number, label in labels.items()
    ]
    types = highdicom.seg.SegmentationTypeValues
    dataset = highdicom.seg.Segmentation(
        source_images=source.images,
        **source.pixels(segments),
        segmentation_type=types.LABELMAP if labelmap else types.BINARY,
        segment_descriptions=described,
        omit_empty_frames=bool(segments.any()),
        series_description=f"flipmap anomaly {kind} ({NOTICE})",
        **said,
        **source.identity(kind),
    )
    _name_frames(dataset, source.series)
    return dataset


def _name_frames(dataset: Any, series: DicomSeries) -> None:
    """References to frames of a volume that was taken out of an object: by the numbers that they have in it."""
    for group in dataset.PerFrameFunctionalGroupsSequence if series.frames else ():
        for item in (image for one in group.get("DerivationImageSequence", ()) for image in one.SourceImageSequence):
            if "ReferencedFrameNumber" in item:
                given = item.ReferencedFrameNumber
                numbers = given if isinstance(given, MutableSequence) else [given]
                item.ReferencedFrameNumber = [series.frames[int(number) - 1] + 1 for number in numbers]


@quiet()
def write_parametric_map(path: str | Path, anomaly: np.ndarray, source: Source, units: str, title: str) -> None:
    """The map as a DICOM Parametric Map, float32; ``units`` of its values in words, ``title`` of its series; else as
    `write_segmentation`.
    """
    import highdicom
    from pydicom.sr.codedict import codes

    values = np.asarray(anomaly, dtype=np.float32)
    mapping = highdicom.pm.RealWorldValueMapping(
        lut_label="ANOMALY",
        lut_explanation=units,
        unit=codes.UCUM.NoUnits,
        value_range=(float(values.min()), float(max(values.max(), values.min() + 1e-3))),
        slope=1.0,
        intercept=0.0,
    )
    dataset = highdicom.pm.ParametricMap(
        source_images=source.images,
        **source.pixels(values),
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[highdicom.VOILUTTransformation(*WINDOW)],
        content_label="ANOMALY",
        content_description="Anomaly map",
        series_description=f"{title} ({NOTICE})",
        **source.identity("map"),
    )
    _name_frames(dataset, source.series)
    save_dataset(path, dataset)


def save_dataset(path: str | Path, dataset: Any) -> None:
    """Write a result, whole or not at all.

    Raises:
        OutputError: when it cannot be written.
    """
    if "Rows" in dataset and not dataset.get("BodyPartExamined"):
        dataset.BodyPartExamined = "HEAD"  # without it, the standard wants to know left or right
    from pydicom.uid import generate_uid

    # highdicom draws this one; made to follow from the result's own, the same run gives the same file but for its time.
    dimensions = generate_uid(entropy_srcs=[dataset.SOPInstanceUID, "dimensions"])
    for item in (*dataset.get("DimensionOrganizationSequence", ()), *dataset.get("DimensionIndexSequence", ())):
        item.DimensionOrganizationUID = dimensions
    with whole_file(path) as temporary:
        dataset.save_as(temporary)
