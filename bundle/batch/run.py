# SPDX-License-Identifier: Apache-2.0
"""A batch: a bad case is a record, and never the end; what is done is not done again.

Cases are done on this machine (`bundle.batch.local`), or by the workers of an engine (`bundle.batch.cluster`).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..pipeline.job import Job
from .case import TIMEOUT
from .claims import Claims
from .local import run_here
from .page import Facts, write_page
from .plan import PlannedCase, SkipReason, is_done
from .record import Record, read_record, with_series, write_description, write_table
from .shards import TABLE, WHOLE, Shard, write_results

if TYPE_CHECKING:
    from ..pipeline.spec import JobSpec
    from .cluster import Engine

__all__ = ["TABLE", "run_batch"]


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
    workers: tuple[Engine, JobSpec] | None = None,
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
        workers: an engine whose workers do the cases (`bundle.batch.cluster`), and the job that they load; None for
            this process.

    Returns:
        a record a case; they stand in ``batch.csv`` too, or in the table of the shard, also when the run is
        interrupted. A case that another run works on is skipped.

    Raises:
        OutputError: when the folder cannot be used.
    """
    records: list[Record] = []

    series = {case.name: case.series for case in cases}

    def note(record: Record) -> None:
        record = with_series(record, series[record.name])
        records.append(record)
        told(record)

    with Claims(output) as claims:
        write_description(output)
        try:
            for todo in _in_turn(_left_to_do(cases, job, output, overwrite, note)):
                if workers:
                    _run_elsewhere(workers, todo, job, claims, lambda _, record: note(record), overwrite, timeout)
                else:
                    run_here(todo, job, output, claims, lambda _, record: note(record), jobs, overwrite, timeout)
        finally:
            over = [
                with_series(Record(name, "skipped", reason=why), [why.series] if isinstance(why, SkipReason) else [])
                for name, why in (skipped or {}).items()
            ]
            facts = Facts.of(job)
            write_results(output, shard, cases, [*records, *over], facts)
            if shard.whole:
                write_table(output / TABLE, [*records, *over])
                write_page(output, cases, [*records, *over], facts, viewed, job.read)
    return records


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


def _in_turn(cases: Sequence[PlannedCase]) -> list[list[PlannedCase]]:
    """Single scans, and then heads of several, whose maps are made of those that the single ones leave."""
    groups = ([case for case in cases if not case.members], [case for case in cases if case.members])
    return [group for group in groups if group]


def _run_elsewhere(
    workers: tuple[Engine, JobSpec],
    cases: Sequence[PlannedCase],
    job: Job,
    claims: Claims,
    ended: Callable[[PlannedCase, Record], None],
    overwrite: bool,
    timeout: float | None,
) -> None:
    from .cluster import Order, run_on

    engine, spec = workers
    order = Order(spec.elsewhere(), job.fingerprint, claims.output.resolve(), claims.run, overwrite, timeout)
    try:
        run_on(engine, order, cases, ended)
    finally:
        shutil.rmtree(order.starts, ignore_errors=True)
        claims.clear()
