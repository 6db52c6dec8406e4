# SPDX-License-Identifier: Apache-2.0
"""One case of a batch, from file to files: what it needs of the others is nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from monai.data import MetaTensor

from ..errors import ContrastError, FlipmapError, ScanError
from ..io.content import check_content
from ..io.dicom import DicomSeries
from ..io.nifti import geometry_of, write_map
from ..notes import notes_of
from ..pipeline.contrasts import JOB, ContrastJob
from ..pipeline.dataset import explain
from ..pipeline.job import Job
from ..pipeline.save import write_json
from ..report.case_picture import save_case_pictures
from ..report.enface import save_enface
from ..scoring.calibration import UNITS
from ..scoring.findings import label_findings
from ..threads import GivenUp
from ..transforms.recognise import contrast_of
from .head import MEMBERS, TOLD, finish_head, infer_head, prepare_head
from .plan import DICOM_OUTPUTS, ENFACE, PlannedCase
from .record import Record, write_sidecar
from .stages import Clock, Stage, TookTooLong, run_stages

__all__ = ["TIMEOUT", "case_stages", "failure", "run_case"]

SHOWN = "shown"  # key of the scan as it was read, for its pictures
TIMEOUT = 900.0  # seconds a scan may take: a hundred times what one takes on two cores


def run_case(job: Job, case: PlannedCase, output: Path, timeout: float | None = TIMEOUT) -> Record:
    """One case from file to files.

    Raises:
        FlipmapError: when it cannot be read, scored or written, or takes too long.
    """
    ended: list[Record | FlipmapError] = []

    def failed(_: PlannedCase, error: Exception) -> None:
        ended.append(_cause(case, error, timeout))

    run_stages([case], case_stages(job, output, jobs=1), lambda _, record: ended.append(record), failed, timeout)
    if isinstance(ended[0], FlipmapError):
        raise ended[0]
    return ended[0]


def case_stages(job: Job, output: Path, jobs: int, take: Callable[[PlannedCase], None] | None = None) -> list[Stage]:
    """Reading, computing and writing of a case.

    Args:
        job: loaded.
        output: folder of the results.
        jobs: cases that are read, and written, at a time.
        take: called with a case before it is read; what it raises is the end of the case.
    """

    def reading(case: PlannedCase, _: object, clock: Clock) -> dict:
        if take:
            take(case)
        return _prepare(job, case, output)

    return [
        Stage("reading", reading, jobs),
        Stage("computing", lambda case, item, clock: _infer(job, item), 1),
        Stage("writing", lambda case, item, clock: _complete(job, case, item, output, clock), jobs),
    ]


def failure(case: PlannedCase, error: Exception, timeout: float | None = None) -> Record:
    """The row of a case that ended with an error, `TookTooLong` after ``timeout`` seconds included."""
    cause = _cause(case, error, timeout)
    if isinstance(cause, ContrastError):
        return Record(case.name, "skipped", reason=cause.reason, remedy=cause.remedy)
    where = case.where if isinstance(case.inputs["image"], DicomSeries) else cause.where
    return Record(case.name, "failed", reason=f"{where}: {cause.reason}", remedy=cause.remedy)


def _cause(case: PlannedCase, error: Exception, timeout: float | None) -> FlipmapError:
    if isinstance(error, TookTooLong):
        reason = f"took longer than {timeout:g} s, and was given up while {error.doing}"
        return ScanError(case.where, reason, "Look at the scan, or raise --timeout")
    return explain(error, {"name": case.name, "image": case.where})


def _prepare(job: Job, case: PlannedCase, output: Path) -> dict:
    """The item on the model's grid, and the scan as it is, for the pictures: a file is read once."""
    for given in case.inputs.values():
        if isinstance(given, str) and not Path(given).is_dir():
            check_content(Path(given))
    try:
        _ = case.input_hashes  # of what is read now, before the map is made
    except OSError as error:
        raise ScanError(case.where, f"cannot be read ({error.strerror})", "Allow reading it") from error
    scan = job.read(next(iter(case.members.values())).case if case.members else case.case)
    meta = {key: value for key, value in scan.meta.items() if key != "affine"}
    shown = MetaTensor(scan.as_tensor().clone(), affine=scan.affine.clone(), meta=meta)
    if case.members:
        return {**prepare_head(cast(ContrastJob, job), case, output), SHOWN: shown}
    return {**job.prepare({**case.case, "image": scan}), SHOWN: shown}


def _infer(job: Job, item: dict) -> dict:
    return infer_head(cast(ContrastJob, job), item) if MEMBERS in item else job.infer(item)


def _complete(job: Job, case: PlannedCase, item: dict, output: Path, clock: Clock) -> Record:
    """Finish a scored case and write its files, the sidecar last."""
    shown = item[SHOWN]
    item = {**(finish_head(cast(ContrastJob, job), item) if MEMBERS in item else job.finish(item)), SHOWN: shown}
    for key, (ending, kind) in case.outputs.items():
        if clock.given_up:
            raise GivenUp
        if kind != "png":
            _write_output(_Output(key, case.path(output, ending), kind), job, case, item)
    _write_pictures(job, case, item, output)
    if isinstance(case.inputs["image"], DicomSeries):
        _write_dicom(job, case, item, output)
    if clock.given_up:
        raise GivenUp
    seconds = clock.seconds
    told, notes = item.get(TOLD) or contrast_of(item["image"]), notes_of(item["image"].meta)
    write_sidecar(case, output, job.fingerprint, item.get(JOB, job).settings, seconds, told, notes)
    return Record.of(case.name, "done", item["findings"], seconds, told, notes)


class _Output(NamedTuple):
    """A result of a case, its file, and how it is written (`bundle.batch.plan.OUTPUTS`)."""

    key: str
    path: Path
    kind: str


def _write_output(one: _Output, job: Job, case: PlannedCase, item: dict) -> None:
    if one.kind == "json":
        write_json(one.path, {"scan": case.name, **item[one.key]})
        return
    meta, values = item["image"].meta, np.asarray(item[one.key].cpu())[0]
    if values.shape != tuple(meta["spatial_shape"]):
        raise ScanError(case.where, f"its map has shape {values.shape}", "Report it")
    described = case.units if one.key == "pred" else ""
    write_map(one.path, values, dtype=np.dtype(one.kind), description=described, **geometry_of(meta))


def _write_pictures(job: Job, case: PlannedCase, item: dict, output: Path) -> None:
    """Slices through the findings, and of a volume of pictures the view from the front."""
    scan, anomaly, axial = item[SHOWN], item["pred"], job.modality.axial
    picture, sheet = (case.path(output, case.outputs[key][0]) for key in ("picture", "sheet"))
    save_case_pictures(picture, sheet, scan, anomaly, item["mask"], item["findings"]["findings"], axial)
    front, values = case.path(output, ENFACE), np.asarray(anomaly.cpu())[0]
    if axial or values.shape[2] < 2:
        front.unlink(missing_ok=True)  # of another scan of that name
        return
    save_enface(front, scan, values, np.asarray(item[job.region].cpu())[0])


def _write_dicom(job: Job, case: PlannedCase, item: dict, output: Path) -> None:
    from ..io.dicom_report import write_findings
    from ..io.dicom_results import results_of, source_of, write_bands, write_parametric_map, write_segmentation

    series = cast(DicomSeries, case.inputs["image"])
    paths = {key: case.path(output, ending) for key, ending in DICOM_OUTPUTS.items() if ending in case.dicom_endings}
    pred, mask = (np.asarray(item[key].cpu())[0] for key in ("pred", "mask"))
    title = "flipmap anomaly map" if case.units == UNITS else "flipmap raw scores, not calibrated"
    method, found = str(job.settings["method"]), item["findings"]["findings"]
    with results_of(series):
        source = source_of(series, [job.fingerprint, *case.input_hashes.values()])
        write_parametric_map(paths["pred"], pred, source, case.units, title)
        write_segmentation(paths["mask"], mask, source, method)
        if "bands" in paths:
            write_bands(paths["bands"], np.where(mask > 0, pred, 0), source, method)
        write_findings(paths["segments"], paths["report"], label_findings(mask, found), found, source, method)
