"""A batch on this machine: reading, computing and writing overlap; a bad case is a record, and never the end.

`run_case` does one case from file to files and needs nothing of the others: what a cluster engine would be handed.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import FlipmapError, ScanError
from ..io.dicom import DicomSeries
from ..io.nifti import write_map
from .dataset import explain
from .job import Job
from .lock import locked
from .page import write_page
from .picture import save_case_picture
from .plan import DICOM_OUTPUTS, PlannedCase, is_done
from .record import Record, read_record, write_description, write_sidecar, write_table
from .save import write_json

__all__ = ["TABLE", "run_batch", "run_case"]

logger = logging.getLogger(__name__)

TABLE = "batch.csv"


@dataclass
class _Running:
    """A case on its way."""

    case: PlannedCase
    future: Future


def run_case(job: Job, case: PlannedCase, output: Path, timeout: float | None = None) -> Record:
    """One case from file to files.

    Raises:
        FlipmapError: when it cannot be read, scored or written, or takes too long.
    """
    return _complete(job, case, *_infer(job, *_prepare(job, case)), output, timeout)


def run_batch(
    cases: Sequence[PlannedCase],
    job: Job,
    output: Path,
    jobs: int = 2,
    overwrite: bool = False,
    timeout: float | None = None,
    told: Callable[[Record], None] = lambda record: None,
    passed: Mapping[str, str] | None = None,
    viewed: Sequence[str] = (),
) -> list[Record]:
    """Run the cases of a plan.

    Args:
        cases: from `bundle.batch.plan.plan_cases`.
        job: loaded once.
        output: folder of the results; locked while the batch runs.
        jobs: cases that are read, and written, while another one is computed.
        overwrite: do those again that are done.
        timeout: seconds a case may take; a case that is stuck is given up, and its thread left behind.
        told: called with every record as it comes.
        passed: series that are passed over, name → why; they get their rows in the table.
        viewed: cases whose volumes the report shows, see `bundle.batch.page.write_page`.

    Returns:
        a record a case; they stand in ``batch.csv`` too, also when the run is interrupted.

    Raises:
        OutputError: when the folder cannot be used.
    """
    records: list[Record] = []

    def note(record: Record) -> None:
        records.append(record)
        told(record)

    with locked(output):
        write_description(output)
        try:
            todo = _left_to_do(cases, job, output, overwrite, note)
            _pipeline(todo, job, output, jobs, timeout, note)
        finally:
            over = [Record(name, "passed over", reason=why) for name, why in (passed or {}).items()]
            write_table(output / TABLE, [*records, *over])
            write_page(output, cases, [*records, *over], job, viewed)
    return records


def _left_to_do(cases, job, output, overwrite, note) -> deque[PlannedCase]:
    fingerprint = job.fingerprint
    todo: deque[PlannedCase] = deque()
    for case in cases:
        if not overwrite and is_done(case, output, fingerprint):
            note(read_record(case, output))
        else:
            todo.append(case)
    return todo


def _pipeline(todo, job, output, jobs, timeout, note) -> None:
    """Read ahead on some threads, compute on this one, write behind on others; never more than ``jobs`` of each."""
    readers, writers = (ThreadPoolExecutor(jobs, thread_name_prefix=name) for name in ("read", "write"))
    reading: deque[_Running] = deque()
    writing: deque[_Running] = deque()
    try:
        while todo or reading or writing:
            while todo and len(reading) < jobs:
                case = todo.popleft()
                reading.append(_Running(case, readers.submit(_prepare, job, case)))
            if reading:
                current = reading.popleft()
                try:
                    scored = _infer(job, *_in_time(current, timeout))
                except Exception as error:
                    note(_failed(current.case, error))
                else:
                    done = writers.submit(_complete, job, current.case, *scored, output, timeout)
                    writing.append(_Running(current.case, done))
            while writing and (len(writing) >= jobs or not reading or writing[0].future.done()):
                _note_written(writing.popleft(), timeout, note)
    finally:
        # What is still stuck is not waited for: a timeout would mean nothing if it were.
        for pool in (readers, writers):
            pool.shutdown(wait=False, cancel_futures=True)


def _note_written(current: _Running, timeout: float | None, note: Callable[[Record], None]) -> None:
    try:
        note(_in_time(current, timeout))
    except Exception as error:
        note(_failed(current.case, error))


def _in_time(current: _Running, timeout: float | None):
    try:
        return current.future.result(timeout)
    except FutureTimeout as error:
        raise _too_long(current.case, timeout) from error


def _too_long(case: PlannedCase, timeout: float | None) -> ScanError:
    return ScanError(case.where, f"took longer than {timeout:g} s", "Look at the scan, or raise --timeout")


def _prepare(job: Job, case: PlannedCase) -> tuple[dict, float]:
    """The item on the model's grid, and the seconds that it took: a case's clock stands still while it waits."""
    started = time.perf_counter()
    try:
        _ = case.input_hashes  # of what is read now, before the map is made
    except OSError as error:
        raise ScanError(case.where, f"cannot be read ({error.strerror})", "Allow reading it") from error
    return job.prepare(case.case), time.perf_counter() - started


def _infer(job: Job, item: dict, spent: float) -> tuple[dict, float]:
    started = time.perf_counter()
    return job.infer(item), spent + time.perf_counter() - started


def _complete(job: Job, case: PlannedCase, item: dict, spent: float, output: Path, timeout: float | None) -> Record:
    """Finish a scored case and write its files, the sidecar last."""
    started = time.perf_counter() - spent
    item = job.finish(item)
    if timeout is not None and time.perf_counter() - started > timeout:
        raise _too_long(case, timeout)
    meta = item["image"].meta
    for key, (ending, kind) in case.outputs.items():
        path = case.path(output, ending)
        if kind == "json":
            write_json(path, {"scan": case.name, **item[key]})
            continue
        if kind == "png":
            found = item["findings"]["findings"]
            save_case_picture(path, job.read(case.case), item["pred"], item["mask"], found, job.axial)
            continue
        values = np.asarray(item[key].cpu())[0]
        if values.shape != tuple(meta["spatial_shape"]):
            raise ScanError(case.where, f"its map has shape {values.shape}", "Report it")
        write_map(path, values, np.asarray(meta["original_affine"]), np.dtype(kind), meta.get("original_unit", "mm"))
    series = case.inputs["image"]
    if isinstance(series, DicomSeries):
        from ..io.dicom_results import write_parametric_map, write_segmentation

        pred, mask = (np.asarray(item[key].cpu())[0] for key in ("pred", "mask"))
        write_parametric_map(case.path(output, DICOM_OUTPUTS["pred"]), pred, series)
        write_segmentation(case.path(output, DICOM_OUTPUTS["mask"]), mask, series, str(job.settings["method"]))
    seconds = time.perf_counter() - started
    write_sidecar(case, output, job.fingerprint, job.settings, seconds)
    return Record.of(case.name, "done", item["findings"], seconds)


def _failed(case: PlannedCase, error: Exception) -> Record:
    cause: FlipmapError = explain(error, {"name": case.name, "image": case.where})
    where = case.where if isinstance(case.inputs["image"], DicomSeries) else cause.where
    return Record(case.name, "failed", reason=f"{where}: {cause.reason}", remedy=cause.remedy)
