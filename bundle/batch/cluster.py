# SPDX-License-Identifier: Apache-2.0
"""Cases on other processes and machines, which see the same folders: dask.distributed as the engine.

All that is asked of an engine is `concurrent.futures.Executor.submit`; another one is an `Engine` of its own. Nothing
of a scan travels: workers are given names of files, and write the results themselves. Needs the extra `cluster`.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FlipmapError, OutputError, ScanError
from ..pipeline.spec import JobSpec
from .case import failure
from .claims import FOLDER, Claims
from .local import run_here
from .plan import PlannedCase
from .record import Record

logger = logging.getLogger("flipmap")

__all__ = ["QUEUES", "Engine", "Order", "do_case", "engine_on", "run_on"]

#: Name of ``--on`` → class of dask_jobqueue.
QUEUES = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "sge": "SGECluster",
    "lsf": "LSFCluster",
    "htcondor": "HTCondorCluster",
    "oar": "OARCluster",
}
MEMORY = "2GiB"  # of a worker: a batch takes some 1.3
STARTS = 2  # of a case: when its worker has died as often, it is given up
LOST = 5  # times that an engine may lose a case that nobody has begun
PATIENCE = 300.0  # seconds that workers may take to come, the first ones and others for those that have gone
LOOK = 1.0  # seconds between looks at how many workers there are


@dataclass(frozen=True)
class Engine:
    """Where cases are done.

    Attributes:
        executor: its `submit` runs a function in some worker.
        places: how many cases are done at a time.
        lost: what a future raises when its worker has died.
        name: for messages.
        patience: seconds without any worker after which a batch is given up; None for a queue, which has its own times.
    """

    executor: Executor
    places: Callable[[], int]
    lost: tuple[type[BaseException], ...]
    name: str = "the engine"
    patience: float | None = None


@dataclass(frozen=True)
class Order:
    """What is to be done to every case of a batch; it can be pickled.

    Attributes:
        spec: of the job, which a worker loads once.
        fingerprint: of the job, as the one who asks has loaded it.
        output: folder of the results.
        batch: name of the run that asks.
        overwrite, timeout: see `bundle.batch.run.run_batch`.
    """

    spec: JobSpec
    fingerprint: str
    output: Path
    batch: str
    overwrite: bool
    timeout: float | None

    @property
    def starts(self) -> Path:
        """Folder of marks: which cases have been begun and not ended."""
        return self.output / FOLDER / "starts" / self.batch


def do_case(order: Order, case: PlannedCase) -> Record:
    """One case, by a worker.

    Raises:
        OutputError: when the folder of the results cannot be used.
    """
    mark = order.starts / hashlib.sha256(case.name.encode()).hexdigest()[:24]
    try:
        begun = int(mark.read_text()) if mark.exists() else 0
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(str(begun + 1))
    except OSError as error:
        reason = f"cannot be written by a worker ({error.strerror})"
        raise OutputError(order.output, reason, "Take a folder that all workers can write") from error
    try:
        if begun >= STARTS:
            reason = f"its worker died {begun} times while it worked on it"
            return failure(case, ScanError(case.where, reason, "Look at the scan, or give workers more memory"))
        return _do(order, case)
    finally:
        mark.unlink(missing_ok=True)


def _do(order: Order, case: PlannedCase) -> Record:
    records: list[Record] = []
    job = order.spec.loaded()
    if job.fingerprint != order.fingerprint:
        reason = "other weights, settings or version than those of the run"
        raise FlipmapError("a worker", reason, "Install the same flipmap everywhere, and compute on the same device")
    with Claims(order.output) as claims:
        run_here(
            [case],
            job,
            order.output,
            claims,
            lambda _, record: records.append(record),
            jobs=1,
            overwrite=order.overwrite,
            timeout=order.timeout,
        )
    return records[0]


def run_on(
    engine: Engine, order: Order, cases: Sequence[PlannedCase], ended: Callable[[PlannedCase, Record], None]
) -> None:
    """Do cases that are not done in an engine. A worker that dies costs a retry and no case; a case that `STARTS`
    workers have died of is given up.

    Args:
        engine: from `engine_on`.
        order: for all of them.
        cases: to do.
        ended: called with every case and its record as it comes.

    Raises:
        FlipmapError: when all workers have gone, and none comes for as long as the engine has patience.
    """
    waiting, flying, losses = deque(cases), dict[Future, PlannedCase](), Counter[str]()
    watch = _Watch(engine)
    try:
        while waiting or flying:
            places = watch.places()
            while waiting and len(flying) < places:
                case = waiting.popleft()
                flying[engine.executor.submit(do_case, order, case)] = case
            if not flying:
                time.sleep(LOOK)
            for future in wait(flying, timeout=LOOK, return_when=FIRST_COMPLETED).done:
                case = flying.pop(future)
                error = future.exception()
                if error is not None and not isinstance(error, Exception):
                    raise error
                if isinstance(error, engine.lost) and losses[case.name] < LOST:
                    losses[case.name] += 1
                    waiting.append(case)
                elif error is not None:
                    ended(case, failure(case, error))
                else:
                    ended(case, future.result())
    finally:
        for future in flying:
            future.cancel()


class _Watch:
    """Looks how many cases an engine can do at a time, and gives it up when that is none for too long."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.since = time.monotonic()
        self.noted = False

    def places(self) -> int:
        """How many there are.

        Raises:
            FlipmapError: when there have been none for too long.
        """
        if places := self.engine.places():
            self.since, self.noted = time.monotonic(), False
            return places
        alone, patience = time.monotonic() - self.since, self.engine.patience
        if patience is not None and alone > patience:
            remedy = "Start workers, and give the same command again: it goes on from here"
            raise FlipmapError(self.engine.name, f"no worker for {alone:.0f} s, cases are left to do", remedy)
        if not self.noted and alone > LOOK:
            self.noted = True
            until = f"; given up after {patience:g} s" if patience is not None else ""
            logger.warning("%s: no worker at the moment, waiting%s", self.engine.name, until)
        return 0


@contextmanager
def engine_on(
    where: str, workers: int = 1, threads: int | None = None, options: Mapping[str, Any] | None = None
) -> Iterator[Engine]:
    """An engine of dask.distributed.

    Args:
        where: ``local`` for processes of this machine; a name of `QUEUES`; or the address of a scheduler that is there,
            ``tcp://host:port`` or ``tls://host:port``.
        workers: processes, or jobs of the queue; a scheduler that is there has its own.
        threads: that a job of the queue asks for.
        options: of the class of dask_jobqueue, beside what its own configuration says.

    Raises:
        FlipmapError: when there is no such engine, its package is absent, or no worker comes.
    """
    try:
        from dask import config
        from distributed import Client, KilledWorker, LocalCluster
        from distributed.client import FutureCancelledError
    except ImportError as error:
        raise FlipmapError(f"--on {where}", "needs dask.distributed", 'pip install ".[cluster]"') from error
    given = dict(options or {})
    with config.set({"distributed.scheduler.allowed-failures": LOST, "logging.distributed": "error"}):
        if where.startswith(("tcp://", "tls://")):
            cluster: Any = where
        elif where == "local":
            cluster = LocalCluster(
                n_workers=workers, threads_per_worker=1, memory_limit=None, dashboard_address=None, **given
            )
        else:
            cluster = _queue(where, workers, threads, given)
        try:
            with _client(Client, cluster, where) as client:

                def places() -> int:
                    try:
                        return sum(client.nthreads().values())
                    except (OSError, TimeoutError, RuntimeError):  # its scheduler has gone, too
                        return 0

                patience = None if where in QUEUES else PATIENCE
                lost = (KilledWorker, FutureCancelledError)
                yield Engine(client.get_executor(), places, lost, f"--on {where}", patience)
        finally:
            if not isinstance(cluster, str):
                cluster.close()


def _client(client: Callable, cluster: Any, where: str) -> Any:
    try:
        found = client(cluster)
        if where.partition(":")[0] not in QUEUES:
            found.wait_for_workers(1, timeout=PATIENCE)
    except (OSError, TimeoutError) as error:
        raise FlipmapError(
            f"--on {where}", f"no worker answers ({error})", "Start its scheduler and workers"
        ) from error
    return found


def _queue(where: str, workers: int, threads: int | None, options: dict[str, Any]) -> Any:
    if where not in QUEUES:
        known = ", ".join(["local", *QUEUES])
        raise FlipmapError(f"--on {where}", "no such engine", f"Choose from {known}, or give tcp://HOST:PORT")
    try:
        import dask_jobqueue
    except ImportError as error:
        raise FlipmapError(f"--on {where}", "needs dask-jobqueue", 'pip install ".[cluster]"') from error
    # A worker does one case at a time, with all its threads.
    extra = [*options.pop("worker_extra_args", []), "--nthreads", "1"]
    asked = {"cores": threads or 1, "processes": 1, "memory": MEMORY, **options, "worker_extra_args": extra}
    asked["scheduler_options"] = {"dashboard": False, **asked.get("scheduler_options", {})}
    cluster = getattr(dask_jobqueue, QUEUES[where])(**asked)
    cluster.scale(jobs=workers)
    return cluster
