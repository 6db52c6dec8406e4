# SPDX-License-Identifier: Apache-2.0
"""Batches that workers do: real schedulers and workers, as processes, which die while they work."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("distributed")

from bundle.batch.cluster import LOST, Engine, Order, _Watch, do_case, engine_on, run_on
from bundle.batch.plan import plan_cases
from bundle.cases import find_scans
from bundle.cli import main
from bundle.errors import EXIT_CODES, FlipmapError
from bundle.io.nifti import write_map
from bundle.pipeline.spec import JobSpec
from bundle.synthesis.sample import synthetic_head

from .deadly import MARK

# What distributed and its event loop leave to the end of the process.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
#: Drawn heads without a name look like no contrast for sure.
RUN = ("run", "--set", "check_contrast=false")
#: Of a run that are the same whoever does it.
SAME = ("map.nii.gz", "mask.nii.gz", "picture.png", "findings.json")


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    for number in range(4):
        scan, _, affine = synthetic_head((72, 84, 8), (2.7, 2.7, 12.0), seed=number)
        write_map(folder / f"head{number}.nii.gz", scan, affine, np.int16)
    (folder / "broken.nii.gz").write_bytes(b"not a scan")
    return folder


@pytest.fixture(scope="module")
def here(scans, tmp_path_factory):
    """What one process makes of them."""
    output = tmp_path_factory.mktemp("here")
    assert main([*RUN, str(scans), str(output), "-q"]) == EXIT_CODES["some case failed"]
    return output


@pytest.fixture
def deadly(tmp_path, monkeypatch):
    """A config whose process dies of some scans."""
    config = tmp_path / "deadly.json"
    config.write_text(json.dumps({"steps#deadly": {"_target_": "tests.deadly.Deadly"}}))
    (tmp_path / "deaths").mkdir()
    monkeypatch.setenv(MARK, str(tmp_path / "deaths"))
    return config


def contents(output):
    return {path.name: path.read_bytes() for path in output.rglob("*") if path.name.endswith(SAME)}


def rows(output):
    with (output / "batch.csv").open() as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def left_over(output):
    return [path for path in (output / ".flipmap").rglob("*") if path.is_file()]


def wait_for(what, seconds=60):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.1)
    return found


@pytest.mark.slow
def test_workers_of_this_machine_make_what_one_process_makes(scans, here, tmp_path):
    code = main(
        [
            *RUN,
            str(scans),
            str(tmp_path / "out"),
            "--on",
            "local",
            "--workers",
            "2",
            "-q",
        ]
    )
    assert code == EXIT_CODES["some case failed"]
    assert contents(tmp_path / "out") == contents(here)
    found, known = rows(tmp_path / "out"), rows(here)
    assert {name: (row["status"], row["reason"]) for name, row in found.items()} == {
        name: (row["status"], row["reason"]) for name, row in known.items()
    }
    assert not left_over(tmp_path / "out")


def test_what_is_done_is_not_done_again(scans, here, tmp_path, monkeypatch):
    monkeypatch.setattr("bundle.batch.cluster.do_case", lambda *_: pytest.fail("asked of a worker"))
    for name in ("head0", "head1"):
        (tmp_path / f"{name}.nii.gz").write_bytes((scans / f"{name}.nii.gz").read_bytes())
    output = tmp_path / "out"
    assert main([*RUN, str(tmp_path), str(output), "-q"]) == 0
    assert (
        main(
            [
                *RUN,
                str(tmp_path),
                str(output),
                "--on",
                "local",
                "--workers",
                "1",
                "-q",
            ]
        )
        == 0
    )
    assert {row["status"] for row in rows(output).values()} == {"done before"}


@pytest.mark.slow
def test_a_death_costs_a_retry_and_a_poisonous_scan_is_given_up_after_two(scans, here, deadly, tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name, source in (("head1", "head1"), ("once", "head0"), ("poison", "head2"), ("head3", "head3")):
        (folder / f"{name}.nii.gz").write_bytes((scans / f"{source}.nii.gz").read_bytes())
    ran = [
        *RUN,
        str(folder),
        str(output),
        "--config",
        str(deadly),
        "--on",
        "local",
        "--workers",
        "2",
        "-q",
    ]
    assert main(ran) == EXIT_CODES["some case failed"]
    table = rows(output)
    assert {name for name, row in table.items() if row["status"] == "done"} == {"head1", "once", "head3"}
    assert "its worker died 2 times while it worked on it" in table["poison"]["reason"]
    deaths = sorted(path.name.partition("-")[0] for path in (tmp_path / "deaths").iterdir())
    assert deaths == ["once.nii.gz", "poison.nii.gz", "poison.nii.gz"]
    made, known = contents(output), contents(here)
    for mine, theirs in (("head1", "head1"), ("once", "head0"), ("head3", "head3")):
        assert made[f"{mine}_desc-anomaly_map.nii.gz"] == known[f"{theirs}_desc-anomaly_map.nii.gz"]
    assert not left_over(output)
    assert not [path for path in output.rglob("*") if "poison" in path.name]


@pytest.fixture
def scheduler(tmp_path):
    """A scheduler of its own: its address, and how a worker is started."""
    started = []

    def start(module, *arguments):
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        with (tmp_path / f"{len(started)}.log").open("w") as log:
            command = [sys.executable, "-m", "distributed.cli." + module, *arguments]
            process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, cwd=tmp_path, start_new_session=True
            )
        started.append(process)
        return process

    file = tmp_path / "scheduler.json"
    start("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file))
    address = wait_for(lambda: file.exists() and file.read_text().endswith("}") and json.loads(file.read_text()))
    arguments = ("--nthreads", "1", "--memory-limit", "0", "--no-dashboard", "--no-nanny")
    yield address["address"], lambda: start("dask_worker", address["address"], *arguments)
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_a_scheduler_that_is_there_and_a_worker_killed_in_the_middle(scans, here, scheduler, tmp_path):
    address, start = scheduler
    first = start()
    output = tmp_path / "out"
    command = [sys.executable, "-m", "bundle.cli", *RUN, str(scans), str(output), "--on", address, "-q"]
    run = subprocess.Popen(command, cwd=Path(__file__).parents[1], stderr=subprocess.DEVNULL)
    wait_for(lambda: list(output.glob("*map.json")))
    wait_for(lambda: list((output / ".flipmap" / "claims").glob("*")))  # the next one is begun
    first.kill()
    start()
    assert run.wait(120) == EXIT_CODES["some case failed"]
    assert contents(output) == contents(here)
    assert not left_over(output)


def test_a_worker_of_another_version_is_refused(scans, tmp_path):
    (case,) = plan_cases(find_scans(scans / "head0.nii.gz"), scans)
    order = Order(JobSpec(), "another fingerprint", tmp_path, "batch", False, None)
    with pytest.raises(FlipmapError, match="other weights, settings or version"):
        do_case(order, case)
    assert not list(order.starts.iterdir())


class _Losing:
    """An executor whose workers die before they begin, so many times."""

    def __init__(self, losses):
        self.losses = losses

    def submit(self, function, order, case):
        future = Future()
        self.losses -= 1
        if self.losses >= 0:
            future.set_exception(ConnectionError("its worker has gone"))
        else:
            future.set_result(case.name)
        return future


@pytest.mark.parametrize("losses", [LOST, LOST + 1])
def test_any_executor_will_do_and_what_it_loses_is_asked_again(losses, scans, tmp_path):
    (case,) = plan_cases(find_scans(scans / "head0.nii.gz"), scans)
    ended = []
    engine = Engine(_Losing(losses), lambda: 1, (ConnectionError,))
    run_on(engine, Order(JobSpec(), "", tmp_path, "batch", False, None), [case], lambda _, record: ended.append(record))
    assert len(ended) == 1
    if losses <= LOST:
        assert ended == ["head0"]
    else:
        assert ended[0].status == "failed"
        assert "its worker has gone" in ended[0].reason


@pytest.mark.slow
def test_workers_that_have_all_gone_end_a_run_with_one_error(scans, scheduler, tmp_path, capsys, monkeypatch):
    """Not in silence, and not at once: others may come."""
    monkeypatch.setattr("bundle.batch.cluster.PATIENCE", 6.0)
    address, start = scheduler
    worker, output = start(), tmp_path / "out"

    def end():
        wait_for(lambda: list(output.glob("*map.json")))
        worker.kill()

    ending = threading.Thread(target=end)
    ending.start()
    code = main([*RUN, str(scans), str(output), "--on", address, "-q"])
    ending.join(60)
    assert code == EXIT_CODES["usage"]
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("flipmap: ")]
    assert len(said) == 1
    assert re.search(r"--on tcp://\S+: no worker for \d+ s, cases are left to do\. Start workers", said[0])
    assert rows(output), "what is done stands in the table"
    assert not left_over(output)


def test_a_queue_may_take_its_time(monkeypatch, caplog):
    """A note, no error; where there is patience, an error at its end."""
    monkeypatch.setattr("bundle.batch.cluster.LOOK", 0.0)
    clock = iter(range(0, 10_000, 1000))
    monkeypatch.setattr("bundle.batch.cluster.time.monotonic", lambda: next(clock))
    queue = _Watch(Engine(_Losing(0), lambda: 0, (), "--on slurm"))
    assert [queue.places(), queue.places()] == [0, 0]
    assert caplog.text.count("--on slurm: no worker at the moment, waiting\n") == 1
    impatient = _Watch(Engine(_Losing(0), lambda: 0, (), "--on local", patience=1500.0))
    assert impatient.places() == 0
    with pytest.raises(FlipmapError, match="no worker for 2000 s"):
        impatient.places()


def test_nobody_answers(scans, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("bundle.batch.cluster.PATIENCE", 0.5)
    from dask import config

    with config.set({"distributed.comm.timeouts.connect": "0.5s"}):
        code = main(
            [
                *RUN,
                str(scans),
                str(tmp_path / "out"),
                "--on",
                "tcp://127.0.0.1:9",
                "-q",
            ]
        )
    assert code == EXIT_CODES["usage"]
    assert "no worker answers" in capsys.readouterr().err


def test_an_engine_that_there_is_not(scans, tmp_path, capsys):
    assert main([*RUN, str(scans), str(tmp_path / "out"), "--on", "cloud"]) == EXIT_CODES["usage"]
    assert "no such engine. Choose from local, slurm" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("queue", "said"), [("slurm", "#SBATCH --cpus-per-task=3"), ("pbs", "ncpus=3"), ("sge", "#$ -q long")]
)
def test_what_a_queue_is_asked_for(queue, said, monkeypatch):
    """One case a worker, with all its threads."""
    scripts = []

    def scale(cluster, jobs):
        scripts.append((cluster.job_script(), jobs))

    dask_jobqueue = pytest.importorskip("dask_jobqueue")
    monkeypatch.setattr(dask_jobqueue.JobQueueCluster, "scale", scale)
    options = {"queue": "long", "walltime": "01:00:00", "interface": "lo"}
    with engine_on(queue, workers=5, threads=3, options=options):
        pass
    script, jobs = max(scripts, key=lambda asked: asked[1])
    assert jobs == 5
    assert said in script
    assert "long" in script
    assert script.rindex("--nthreads 1") > script.index("--nthreads 3")
