# SPDX-License-Identifier: Apache-2.0
"""Cases on this machine: reading, computing and writing overlap, and each case is claimed before it is begun."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import OutputError
from ..pipeline.job import Job
from .case import case_stages, failure
from .claims import Claims, Elsewhere
from .plan import PlannedCase, is_done
from .record import Record, read_record
from .stages import run_stages

__all__ = ["run_here"]


class _Done(Exception):
    """Another run has done a case meanwhile."""


def run_here(
    cases: Sequence[PlannedCase],
    job: Job,
    output: Path,
    claims: Claims,
    ended: Callable[[PlannedCase, Record], None],
    jobs: int,
    overwrite: bool,
    timeout: float | None,
) -> None:
    """Do cases that are not done; see `bundle.batch.run.run_batch`.

    Args:
        cases: to do.
        job: loaded.
        output: folder of the results.
        claims: of this run.
        ended: called with every case and its record as it comes.
        jobs, overwrite, timeout: see there.
    """

    def take(case: PlannedCase) -> None:
        _check_inside(case, output)
        claims.take(case.name)
        if not overwrite and is_done(case, output, job.fingerprint):
            raise _Done

    def done(case: PlannedCase, record: Record) -> None:
        claims.release(case.name)
        ended(case, record)

    def failed(case: PlannedCase, error: Exception) -> None:
        if isinstance(error, _Done):
            done(case, read_record(case, output))
        elif isinstance(error, Elsewhere):
            done(case, Record(case.name, "skipped", reason=f"another run works on it ({error.run})"))
        else:
            done(case, failure(case, error, timeout))

    run_stages(cases, case_stages(job, output, jobs, take), done, failed, timeout)


def _check_inside(case: PlannedCase, output: Path) -> None:
    """Results stay in the folder of the results, whatever links lie in it.

    Raises:
        OutputError: when they would not.
    """
    folder = (output / case.stem).parent.resolve()
    if not folder.is_relative_to(output.resolve()):
        raise OutputError(output / case.stem.parent, f"a link that leaves {output}, to {folder}", "Remove the link")
