# SPDX-License-Identifier: Apache-2.0
"""Findings as DICOM: a segment each, and a Structured Report (TID 1500, Measurement Report) that points at them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..paths import __version__
from .dicom_quiet import quiet
from .dicom_results import NOTICE, Source, save_dataset, segmentation

__all__ = ["MOST", "write_findings"]

MOST = 50  # findings that become segments: the foremost


@quiet()
def write_findings(
    segments_path: Path, report_path: Path, ranks: np.ndarray, findings: Sequence[Mapping], source: Source, method: str
) -> None:
    """The findings as binary segments, which more viewers know than label maps, and the report of them: volume, highest
    and mean value of each.

    Args:
        segments_path, report_path: of the two files.
        ranks: of findings, voxel by voxel (`bundle.scoring.findings.label_findings`), (X, Y, Z).
        findings: of the case, the foremost first.
        source: from `bundle.io.dicom_results.source_of`.
        method: name, for the algorithm.

    Raises:
        OutputError: when a file cannot be written.
    """
    foremost = findings[:MOST]
    labels = {one["rank"]: f"finding {one['rank']}" for one in foremost} or {1: "finding (there is none)"}
    said = {"content_label": "FINDINGS", "content_description": "Findings of the anomaly map"}
    marked = np.where(ranks <= MOST, ranks, 0).astype(np.uint8)
    segments = segmentation(marked, labels, source, "findings", method, labelmap=False, **said)
    save_dataset(segments_path, segments)
    save_dataset(report_path, _report(segments, foremost, source, method))


def _report(segments: Any, findings: Sequence[Mapping], source: Source, method: str) -> Any:
    from highdicom import sr
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code
    from pydicom.uid import generate_uid

    identity = source.identity("report")
    device = sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=generate_uid(entropy_srcs=["flipmap", __version__, method]), name="flipmap", model_name=method
        ),
    )
    groups = [_group(segments, one, source) for one in findings] or [_nothing(segments)]
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=device),
        procedure_reported=Code("113091000", "SCT", "Magnetic resonance imaging"),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    dataset = sr.Comprehensive3DSR(
        evidence=[*source.images, segments],
        content=report,
        is_complete=True,
        **identity,
    )
    dataset.SeriesDescription = f"flipmap findings ({NOTICE})"
    return dataset


def _nothing(segments: Any) -> Any:
    """The group of a report without findings, since a report has one at least: an anomalous volume of 0 ml."""
    from highdicom import sr
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code
    from pydicom.uid import generate_uid

    none = sr.Measurement(name=codes.SCT.Volume, value=0.0, unit=Code("ml", "UCUM", "milliliter"))
    uid = generate_uid(entropy_srcs=[segments.SOPInstanceUID, "nothing"])
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=uid, identifier="nothing beyond what healthy people have"),
        finding_type=codes.SCT.MorphologicallyAbnormalStructure,
        measurements=[none],
    )


def _group(segments: Any, finding: Mapping, source: Source) -> Any:
    """A finding's measurements, and the segment that they are of."""
    from highdicom import sr
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code
    from pydicom.uid import generate_uid

    rank, uid = finding["rank"], generate_uid(entropy_srcs=[segments.SOPInstanceUID, str(finding["rank"])])
    measured = [
        sr.Measurement(name=codes.SCT.Volume, value=float(finding["volume_ml"]), unit=Code("ml", "UCUM", "milliliter")),
        sr.Measurement(name=codes.SCT.Maximum, value=float(finding["peak"]), unit=codes.UCUM.NoUnits),
        sr.Measurement(name=codes.SCT.Mean, value=float(finding["mean"]), unit=codes.UCUM.NoUnits),
    ]
    if finding.get("expected") is not None:
        expected = Code("EXPECTED", "99FLIPMAP", "Findings as extreme in a healthy scan")
        measured.append(sr.Measurement(name=expected, value=float(finding["expected"]), unit=codes.UCUM.NoUnits))
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=uid, identifier=f"finding {rank}"),
        referenced_segment=sr.ReferencedSegment(
            sop_class_uid=segments.SOPClassUID,
            sop_instance_uid=segments.SOPInstanceUID,
            segment_number=rank,
            source_series=sr.SourceSeriesForSegmentation(referenced_series_instance_uid=source.series.uid),
        ),
        finding_type=codes.SCT.MorphologicallyAbnormalStructure,
        measurements=measured,
    )
