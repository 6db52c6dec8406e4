# SPDX-License-Identifier: Apache-2.0
"""A batch on this machine: reading, computing and writing overlap; a bad case is a record, and never the end.

`run_case` does one case from file to files and needs nothing of the others: what a cluster engine would be handed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from monai.data import MetaTensor

from ..errors import ContrastError, FlipmapError, ScanError
from ..io.dicom import DicomSeries
from ..io.nifti import write_map
from ..pipeline.contrasts import JOB
from ..pipeline.dataset import explain
from ..pipeline.job import Job
from ..pipeline.save import write_json
from ..report.case_picture import save_case_picture
from ..report.enface import save_enface
from ..scoring.calibration import UNITS
from ..threads import GivenUp
from ..transforms.recognise import contrast_of
from .claims import Claims, Elsewhere
from .page import Facts, write_page
from .plan import DICOM_OUTPUTS, ENFACE, PlannedCase, is_done
from .record import Record, read_record, write_description, write_sidecar, write_table
from .shards import TABLE, WHOLE, Shard, write_results
from .stages import Clock, Stage, TookTooLong, run_stages

__all__ = ["TABLE", "TIMEOUT", "run_batch", "run_case"]

logger = logging.getLogger(__name__)

SHOWN = "shown"  # key of the scan as it was read, for its pictures
TIMEOUT = 900.0  # seconds a scan may take: a hundred times what one takes on two cores


def run_case(job: Job, case: PlannedCase, output: Path, timeout: float | None = TIMEOUT) -> Record:
    """One case from file to files.

    Raises:
        FlipmapError: when it cannot be read, scored or written, or takes too long.
    """
    records: list[Record] = []
    errors: list[FlipmapError] = []
    stages = _stages(job, output, jobs=1)
    run_stages([case], stages, lambda _, record: records.append(record), _failure_errors(errors, timeout), timeout)
    if errors:
        raise errors[0]
    return records[0]


def run_batch(
    cases: Sequence[PlannedCase],
    job: Job,
    output: Path,
    jobs: int = 2,
    overwrite: bool = False,
    timeout: float | None = TIMEOUT,
    told: Callable[[Record], None] = lambda record: None,
    skipped: Mapping[str, str] | None = None,
    viewed: Sequence[str] = (),
    shard: Shard = WHOLE,
) -> list[Record]:
    """Run the cases of a plan.

    Args:
        cases: from `bundle.batch.plan.plan_cases`.
        job: loaded once.
        output: folder of the results; other runs may work in it at the same time (`bundle.batch.claims`).
        jobs: cases that are read, and written, while another one is computed.
        overwrite: do those again that are done.
        timeout: seconds that a case may take to be read, computed and written; None for any. A case that is stuck is
            given up, its thread left behind, and costs the others nothing but a place for a while.
        told: called with every record as it comes.
        skipped: series that are skipped, name → why; they get their rows in the table.
        viewed: cases whose volumes the report shows, see `bundle.batch.page.write_page`.
        shard: which of several runs over the same input this is; it has no more than its own cases.

    Returns:
        a record a case; they stand in ``batch.csv`` too, or in the table of the shard, also when the run is
        interrupted. A case that another run works on is skipped.

    Raises:
        OutputError: when the folder cannot be used.
    """
    records: list[Record] = []

    def note(record: Record) -> None:
        records.append(record)
        told(record)

    with Claims(output) as claims:
        write_description(output)
        try:
            todo = _left_to_do(cases, job, output, overwrite, note)

            def ended(case: PlannedCase, record: Record) -> None:
                claims.release(case.name)
                note(record)

            failed = _failure_notes(ended, output, timeout)
            run_stages(todo, _stages(job, output, jobs, _taker(claims, job, output, overwrite)), ended, failed, timeout)
        finally:
            over = [Record(name, "skipped", reason=why) for name, why in (skipped or {}).items()]
            facts = Facts.of(job)
            write_results(output, shard, cases, [*records, *over], facts)
            if shard.whole:
                write_table(output / TABLE, [*records, *over])
                write_page(output, cases, [*records, *over], facts, viewed, job.read)
    return records


class _Done(Exception):
    """Another run has done a case meanwhile."""


def _taker(claims: Claims, job: Job, output: Path, overwrite: bool) -> Callable[[PlannedCase], None]:
    def take(case: PlannedCase) -> None:
        claims.take(case.name)
        if not overwrite and is_done(case, output, job.fingerprint):
            raise _Done

    return take


def _left_to_do(
    cases: Sequence[PlannedCase], job: Job, output: Path, overwrite: bool, note: Callable[[Record], None]
) -> list[PlannedCase]:
    fingerprint = job.fingerprint
    todo: list[PlannedCase] = []
    for case in cases:
        if not overwrite and is_done(case, output, fingerprint):
            note(read_record(case, output))
        else:
            todo.append(case)
    return todo


def _stages(job: Job, output: Path, jobs: int, take: Callable[[PlannedCase], None] | None = None) -> list[Stage]:
    def reading(case: PlannedCase, _: object, clock: Clock) -> dict:
        if take:
            take(case)
        return _prepare(job, case)

    return [
        Stage("reading", reading, jobs),
        Stage("computing", lambda case, item, clock: job.infer(item), 1),
        Stage("writing", lambda case, item, clock: _complete(job, case, item, output, clock), jobs),
    ]


def _failure_notes(
    ended: Callable[[PlannedCase, Record], None], output: Path, timeout: float | None
) -> Callable[[PlannedCase, Exception], None]:
    def failed(case: PlannedCase, error: Exception) -> None:
        if isinstance(error, _Done):
            ended(case, read_record(case, output))
        elif isinstance(error, Elsewhere):
            ended(case, Record(case.name, "skipped", reason=f"another run works on it ({error.run})"))
        else:
            ended(case, _failure(case, _too_long(case, error, timeout)))

    return failed


def _failure_errors(errors: list[FlipmapError], timeout: float | None) -> Callable[[PlannedCase, Exception], None]:
    def failed(case: PlannedCase, error: Exception) -> None:
        errors.append(explain(_too_long(case, error, timeout), {"name": case.name, "image": case.where}))

    return failed


def _too_long(case: PlannedCase, error: Exception, timeout: float | None) -> Exception:
    if not isinstance(error, TookTooLong):
        return error
    reason = f"took longer than {timeout:g} s, and was given up while {error.doing}"
    return ScanError(case.where, reason, "Look at the scan, or raise --timeout")


def _prepare(job: Job, case: PlannedCase) -> dict:
    """The item on the model's grid, and the scan as it is, for the pictures: a file is read once."""
    try:
        _ = case.input_hashes  # of what is read now, before the map is made
    except OSError as error:
        raise ScanError(case.where, f"cannot be read ({error.strerror})", "Allow reading it") from error
    scan = job.read(case.case)
    meta = {key: value for key, value in scan.meta.items() if key != "affine"}
    shown = MetaTensor(scan.as_tensor().clone(), affine=scan.affine.clone(), meta=meta)
    return {**job.prepare({**case.case, "image": scan}), SHOWN: shown}


def _complete(job: Job, case: PlannedCase, item: dict, output: Path, clock: Clock) -> Record:
    """Finish a scored case and write its files, the sidecar last."""
    item = job.finish(item)
    for key, (ending, kind) in case.outputs.items():
        if clock.given_up:
            raise GivenUp
        _write_output(_Output(key, case.path(output, ending), kind), job, case, item)
    if isinstance(case.inputs["image"], DicomSeries):
        _write_dicom(job, case, item, output)
    _write_enface(job, case, item, output)
    if clock.given_up:
        raise GivenUp
    seconds = clock.seconds
    told = contrast_of(item["image"])
    write_sidecar(case, output, job.fingerprint, item.get(JOB, job).settings, seconds, told)
    return Record.of(case.name, "done", item["findings"], seconds, told)


class _Output(NamedTuple):
    """A result of a case, its file, and how it is written (`bundle.batch.plan.OUTPUTS`)."""

    key: str
    path: Path
    kind: str


def _write_output(one: _Output, job: Job, case: PlannedCase, item: dict) -> None:
    if one.kind == "json":
        write_json(one.path, {"scan": case.name, **item[one.key]})
        return
    if one.kind == "png":
        found = item["findings"]["findings"]
        save_case_picture(one.path, item[SHOWN], item["pred"], item["mask"], found, job.modality.axial)
        return
    meta, values = item["image"].meta, np.asarray(item[one.key].cpu())[0]
    if values.shape != tuple(meta["spatial_shape"]):
        raise ScanError(case.where, f"its map has shape {values.shape}", "Report it")
    affine, unit = np.asarray(meta["original_affine"]), meta.get("original_unit", "mm")
    write_map(one.path, values, affine, np.dtype(one.kind), unit, case.units if one.key == "pred" else "")


def _write_enface(job: Job, case: PlannedCase, item: dict, output: Path) -> None:
    """The view from the front, of a volume of pictures."""
    path, anomaly = case.path(output, ENFACE), np.asarray(item["pred"].cpu())[0]
    if job.modality.axial or anomaly.shape[2] < 2:
        path.unlink(missing_ok=True)  # of another scan of that name
        return
    save_enface(path, item[SHOWN], anomaly, np.asarray(item[job.region].cpu())[0])


def _write_dicom(job: Job, case: PlannedCase, item: dict, output: Path) -> None:
    from ..io.dicom_results import write_parametric_map, write_segmentation

    series = cast(DicomSeries, case.inputs["image"])
    pred, mask = (np.asarray(item[key].cpu())[0] for key in ("pred", "mask"))
    made_from = [job.fingerprint, *case.input_hashes.values()]
    title = "flipmap anomaly map" if case.units == UNITS else "flipmap raw scores, not calibrated"
    write_parametric_map(case.path(output, DICOM_OUTPUTS["pred"]), pred, series, case.units, title, made_from)
    method = str(job.settings["method"])
    write_segmentation(case.path(output, DICOM_OUTPUTS["mask"]), mask, series, method, made_from)


def _failure(case: PlannedCase, error: Exception) -> Record:
    cause: FlipmapError = explain(error, {"name": case.name, "image": case.where})
    if isinstance(cause, ContrastError):
        return Record(case.name, "skipped", reason=cause.reason, remedy=cause.remedy)
    where = case.where if isinstance(case.inputs["image"], DicomSeries) else cause.where
    return Record(case.name, "failed", reason=f"{where}: {cause.reason}", remedy=cause.remedy)
