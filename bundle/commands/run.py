# SPDX-License-Identifier: Apache-2.0
"""Map every scan of a folder: volumes, pictures, DICOM series, or a BIDS root."""

from __future__ import annotations

import argparse
import json
import logging
import os
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import EXIT_CODES, DatasetError, OutputError
from ..io.volumes import READERS
from .options import add_models, add_settings, models_of, positive, seconds, settings_of

if TYPE_CHECKING:
    from ..batch.cluster import Engine
    from ..batch.plan import PlannedCase
    from ..batch.record import Record
    from ..batch.shards import Shard
    from ..pipeline.job import Job
    from ..pipeline.spec import JobSpec

__all__ = ["add_arguments", "run", "run_shard"]

logger = logging.getLogger("flipmap")

#: Of a run with --jobs 2 on scans of 24 slices, as its acceptance test measures it (docs/batches.md).
MEMORY_MIB = 1300


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "input", type=Path, help=f"a scan, a folder of scans at any depth, or a BIDS root; DICOM, {', '.join(READERS)}"
    )
    parser.add_argument("output", type=Path, help="folder of the results; a run that was cut short goes on")
    parser.add_argument(
        "--config", action="append", default=[], help="config file over configs/inference.json; repeatable"
    )
    add_models(parser)
    parser.add_argument(
        "--false-findings",
        metavar="NUMBER",
        help="findings are kept as long as a healthy scan has at most so many like them: 0.1, 10, all (default: 1)",
    )
    add_settings(parser)
    parser.add_argument(
        "--contrast",
        metavar="SUFFIX",
        help="take all scans for this contrast, FLAIR, T1w or T2w, whatever they look like; by default all three are "
        "mapped, each by the weights of the contrast that it looks like",
    )
    parser.add_argument(
        "--apart", action="store_true", help="no further map of all contrasts of a head that has several"
    )
    parser.add_argument("--suffix", help="contrast to take from a BIDS root, whatever the weights are for")
    parser.add_argument(
        "--series",
        metavar="WORDS",
        help="DICOM series whose description holds this, a regular expression (default: those described as FLAIR, T1w "
        "or T2w)",
    )
    parser.add_argument("--derived", action="store_true", help="take derived DICOM series too, reformats for instance")
    parser.add_argument("--brain-masks", type=Path, help="folder of masks of your own, <name>_brain_mask.nii.gz")
    parser.add_argument("--overwrite", action="store_true", help="do again what is done")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--json", action="store_true", help="with --dry-run: as JSON, with what a case needs")
    parser.add_argument(
        "--shard", metavar="N/M", help="do the Nth of M parts of the cases; any number of them may run at a time"
    )
    parser.add_argument(
        "--on",
        metavar="WHERE",
        help="let workers do the cases: local (processes of this machine), slurm (or pbs, sge, lsf, htcondor, oar), or "
        "the address of a dask scheduler, tcp://HOST:PORT; all of them must see the folders under the same names",
    )
    parser.add_argument("--workers", type=positive, default=2, help="how many, with --on (default %(default)s)")
    parser.add_argument(
        "--on-set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of the queue, of dask_jobqueue's class for it, queue=long for instance; repeatable",
    )
    parser.add_argument("--jobs", type=positive, default=2, help="scans read and written while another is computed")
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=900.0,
        metavar="SECONDS",
        help="that one scan may take, read to written; then it is given up (default %(default)g; 0 for any time)",
    )
    parser.add_argument("--threads", type=positive, help="most threads of arithmetic (default: all cores)")
    parser.add_argument(
        "--viewer",
        action="append",
        default=[],
        metavar="CASE|N",
        help="show the volumes of this case, or of the N highest scores, in the report; repeatable",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="say more")
    parser.add_argument("-q", "--quiet", action="store_true", help="say failures only")


def run(options: argparse.Namespace) -> int:
    from ..batch.shards import Shard  # here and below: what brings PyTorch along would make --help wait

    return run_shard(options, Shard.of(options.shard) if options.shard else Shard())


def run_shard(options: argparse.Namespace, shard: Shard, wanted: Callable[[PlannedCase], bool] | None = None) -> int:
    """Run the cases of a shard; of these, where that is said, the wanted ones.

    Raises:
        DatasetError: when there is nothing to map.
    """
    from ..batch.head import heads_of
    from ..batch.sources import plan_of
    from ..pipeline.contrasts import ContrastJob

    spec = _spec(options)
    job = spec.load()
    plan, skipped = plan_of(options.input, job, options.series, options.brain_masks, options.derived)
    if isinstance(job, ContrastJob) and not options.apart and not job.uncalibrated:
        plan += heads_of(plan, job)
    plan = [case for case in plan if shard.holds(case.name) and (wanted is None or wanted(case))]
    if wanted and not plan:
        raise DatasetError(options.input, "no scan of these participants and sessions", "Check the labels")
    skipped = {name: why for name, why in skipped.items() if shard.holds(name)}
    if options.dry_run:
        _tell(plan, skipped, job, options)
        return EXIT_CODES["all good"]
    with _workers(options) as engine:
        return _run_plan(plan, skipped, job, shard, options, (engine, spec) if engine else None)


def _workers(options: argparse.Namespace) -> AbstractContextManager[Engine | None]:
    """The engine of ``--on``, open; None where this process does the cases."""
    if not options.on:
        return nullcontext()
    from ..batch.cluster import engine_on

    return engine_on(options.on, options.workers, options.threads, settings_of(options.on_set))


def _tell(plan: list[PlannedCase], skipped: dict[str, str], job: Job, options: argparse.Namespace) -> None:
    """What would be done, as text or as JSON."""
    from ..batch.plan import is_done

    done = {case.name for case in plan if not options.overwrite and is_done(case, options.output, job.fingerprint)}
    rows = [{"name": c.name, "status": "done before" if c.name in done else "to do", "where": c.where} for c in plan]
    if options.json:
        over = [{"name": name, "status": "skipped", "reason": why} for name, why in skipped.items()]
        needs = {"least_threads": 1, "memory_mib": MEMORY_MIB}
        print(json.dumps({"cases": rows + over, "needs": needs, "settings": job.settings}, indent=1))
        return
    for row in rows:
        print(f"{row['name']}: {row['status']} ({row['where']})")
    for name, why in skipped.items():
        print(f"{name}: skipped, {why}")


def _spec(options: argparse.Namespace) -> JobSpec:
    """The job of the config files and settings given."""
    from ..pipeline.spec import AUTO, JobSpec

    settings = {**settings_of(options.set), **models_of(options)}
    if options.false_findings is not None:
        settings["false_findings"] = options.false_findings
    if options.suffix:
        settings["suffix"] = options.suffix
    if threads := _threads(options):
        settings["threads"] = threads
    return JobSpec(options.config, settings, options.contrast or AUTO)


def _threads(options: argparse.Namespace) -> int | None:
    """Of arithmetic, of each process; where several share this machine, each has its share of the cores."""
    if options.threads or options.on != "local":
        return options.threads
    return max(1, (os.cpu_count() or 1) // options.workers)


def _run_plan(
    plan: list[PlannedCase],
    skipped: dict[str, str],
    job: Job,
    shard: Shard,
    options: argparse.Namespace,
    workers: tuple[Engine, JobSpec] | None,
) -> int:
    from tqdm import tqdm

    from ..batch.run import run_batch
    from ..batch.shards import FOLDER, TABLE

    started = time.strftime("%Y%m%dT%H%M%S")
    with _Logs(options, options.output / "logs" / f"{started}_{socket.gethostname()}_{os.getpid()}.log"):
        bar = tqdm(total=len(plan), unit="scan", disable=True if options.quiet else None)

        def told(record: Record) -> None:
            bar.update()
            if record.status == "failed":
                logger.error("%s: FAILED %s. %s", record.name, record.reason, record.remedy)
            elif record.status == "skipped":
                logger.info("%s: skipped, %s", record.name, record.reason)
            else:
                logger.info("%s: %s, %s", record.name, record.status, record.in_words)

        with bar:
            records = run_batch(
                plan,
                job,
                options.output,
                options.jobs,
                options.overwrite,
                options.timeout,
                told,
                skipped,
                options.viewer,
                shard,
                workers,
            )
        failed = sum(record.status == "failed" for record in records)
        done = sum(record.status.startswith("done") for record in records)
        table = TABLE if shard.whole else Path(FOLDER) / f"{shard.name}.csv"
        logger.info("%d of %d done, %d failed: %s", done, len(plan), failed, options.output / table)
        logger.info("results: %s", options.output.resolve())
    return EXIT_CODES["some case failed" if failed else "all good"]


class _Terminal(logging.StreamHandler):
    """Lines above the progress bar, if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        with tqdm.external_write_mode(self.stream):
            super().emit(record)


class _Logs:
    """Lines to the terminal, and all of them to a file of the run."""

    def __init__(self, options: argparse.Namespace, path: Path) -> None:
        level = logging.DEBUG if options.verbose else logging.ERROR if options.quiet else logging.INFO
        self.terminal, self.path = _Terminal(), path
        self.terminal.setLevel(level)
        self.loggers = [logging.getLogger("flipmap"), logging.getLogger("bundle")]

    def __enter__(self) -> _Logs:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = logging.FileHandler(self.path, encoding="utf-8")
        except OSError as error:
            raise OutputError(self.path, f"cannot be written ({error.strerror})", "Allow writing there") from error
        self.file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        for log in self.loggers:
            log.setLevel(logging.DEBUG)
            log.propagate = False
            for handler in (self.terminal, self.file):
                log.addHandler(handler)
        return self

    def __exit__(self, *_: Any) -> None:
        for log in self.loggers:
            log.propagate = True
            for handler in (self.terminal, self.file):
                log.removeHandler(handler)
        self.file.close()
