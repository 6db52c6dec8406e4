# SPDX-License-Identifier: Apache-2.0
"""Results as DICOM, tied to the series that they were made from, for the way back to the archive.

They carry the patient of their source, as they must to find their place there. Written by highdicom.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ScanError
from ..paths import __version__
from .dicom import DicomSeries
from .files import whole_file

__all__ = ["write_parametric_map", "write_segmentation"]

MAKER = {"manufacturer": "flipmap", "manufacturer_model_name": "flipmap", "device_serial_number": "none"}
SERIES_NUMBERS = {"map": 9001, "mask": 9002}
WINDOW = (2.0, 4.0)  # centre and width: one healthy voxel in a hundred in the middle


def write_segmentation(
    path: str | Path, mask: np.ndarray, series: DicomSeries, method: str, made_from: Sequence[str]
) -> None:
    """The mask as a DICOM Segmentation, one segment, binary.

    Args:
        path: of the file.
        mask: (X, Y, Z) on the grid of `bundle.io.dicom.read_series`.
        series: that it was made from.
        method: name, for the algorithm.
        made_from: what else its content follows from, hashes of inputs, settings and weights: the same run gives the
            same UIDs, any other run gives others.

    Raises:
        ScanError: when the series is no longer as it was.
        OutputError: when the file cannot be written.
    """
    import highdicom
    from pydicom.sr.codedict import codes

    sources, geometry = _sources(series)
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=f"flipmap {method}", family=codes.DCM.ArtificialIntelligence, version=__version__
    )
    segment = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label="anomaly",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.MorphologicallyAbnormalStructure,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
    )
    dataset = highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=_as_volume((np.asarray(mask) > 0).astype(np.uint8), geometry),
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[segment],
        omit_empty_frames=bool((np.asarray(mask) > 0).any()),
        content_label="ANOMALY",
        content_description="Above the threshold of the anomaly map",
        series_description="flipmap anomaly mask",
        **_identity("mask", series, made_from),
    )
    _save(path, dataset)


def write_parametric_map(
    path: str | Path, anomaly: np.ndarray, series: DicomSeries, units: str, title: str, made_from: Sequence[str]
) -> None:
    """The map as a DICOM Parametric Map, float32; ``units`` of its values in words, ``title`` of its series; else as
    `write_segmentation`.
    """
    import highdicom
    from pydicom.sr.codedict import codes

    sources, geometry = _sources(series)
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
        source_images=sources,
        pixel_array=_as_volume(values, geometry),
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        window_center=WINDOW[0],
        window_width=WINDOW[1],
        content_label="ANOMALY",
        content_description="Anomaly map",
        series_description=title,
        **_identity("map", series, made_from),
    )
    _save(path, dataset)


def _identity(kind: str, series: DicomSeries, made_from: Sequence[str]) -> dict:
    """Attributes of a result; its UIDs follow from all that its content follows from."""
    from pydicom.uid import generate_uid

    sources = [series.uid, kind, __version__, *made_from]
    uids = [generate_uid(entropy_srcs=[*sources, level]) for level in ("series", "instance")]
    return {
        "series_instance_uid": uids[0],
        "sop_instance_uid": uids[1],
        "series_number": SERIES_NUMBERS[kind],
        "instance_number": 1,
        "software_versions": __version__,
        **MAKER,
    }


def _sources(series: DicomSeries) -> tuple[list, Any]:
    """The images of a series, each once, and the volume that they make."""
    import highdicom
    import pydicom

    from .dicom import volume_of

    try:
        if len(series.files) == 1:
            image = highdicom.imread(series.files[0])
            return [image], image.get_volume()
        unique = {d.SOPInstanceUID: d for d in map(pydicom.dcmread, series.files)}
        return list(unique.values()), volume_of(list(unique.values()))
    except Exception as error:
        raise ScanError(series.where, f"no longer readable ({error})", "Leave it while it is worked on") from error


def _as_volume(values: np.ndarray, geometry: Any) -> Any:
    """(X, Y, Z) → highdicom's volume, (slices, rows, columns)."""
    return geometry.with_array(np.ascontiguousarray(np.transpose(values, [2, 1, 0])))


def _save(path: str | Path, dataset: Any) -> None:
    if not dataset.get("BodyPartExamined"):
        dataset.BodyPartExamined = "HEAD"  # without it, the standard wants to know left or right
    from pydicom.uid import generate_uid

    # highdicom draws this one; made to follow from the result's own, the same run gives the same file but for its time.
    dimensions = generate_uid(entropy_srcs=[dataset.SOPInstanceUID, "dimensions"])
    for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimensions
    with whole_file(path) as temporary:
        dataset.save_as(temporary)
