# SPDX-License-Identifier: Apache-2.0
"""Workers with real scans: how much faster more of them are, and what a kill costs. Figures in docs/batches.md."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from bundle.cases import find_scans
from tests.conftest import ROOT, data_folder
from tests.test_batch import rows

pytest.importorskip("distributed")
psutil = pytest.importorskip("psutil")

SCANS, KILLS = 24, 5
COMMAND = [sys.executable, "-m", "bundle.cli", "run"]


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    for case in find_scans(data_folder("brain_lgg"))[:SCANS]:
        shutil.copy(case["image"], folder)
    return folder


def maps(output):
    return {path.name: path.read_bytes() for path in output.glob("*map.nii.gz")}


def run(scans, output, *more):
    """Seconds that a run takes."""
    started = time.perf_counter()
    subprocess.run([*COMMAND, scans, output, "-q", *more], cwd=ROOT, check=True)
    return time.perf_counter() - started


def test_two_workers_are_faster_and_make_the_same(scans, tmp_path):
    alone = run(scans, tmp_path / "alone", "--threads", "1", "--jobs", "1")
    one = run(scans, tmp_path / "one", "--on", "local", "--workers", "1", "--threads", "1")
    two = run(scans, tmp_path / "two", "--on", "local", "--workers", "2", "--threads", "1")
    whole = run(scans, tmp_path / "whole")
    print(
        f"\n{SCANS} scans: one process of one thread {alone:.1f} s, one worker {one:.1f} s, two workers {two:.1f} s "
        f"({one / two:.2f} times), one process on all cores {whole:.1f} s"
    )
    assert maps(tmp_path / "alone") == maps(tmp_path / "one") == maps(tmp_path / "two") == maps(tmp_path / "whole")
    assert two < one


def workers_of(process):
    """Processes that dask's nannies have started for a run."""
    return [
        child.pid
        for child in psutil.Process(process.pid).children(recursive=True)
        if "spawn_main" in " ".join(child.cmdline())
    ]


def test_workers_killed_while_they_work(scans, tmp_path):
    output, moments, killed = tmp_path / "out", random.Random(1), 0
    command = [*COMMAND, scans, output, "-q", "--on", "local", "--workers", "2", "--threads", "1"]
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT)
    while killed < KILLS and process.poll() is None:
        time.sleep(moments.uniform(6, 10))
        if found := workers_of(process):
            os.kill(moments.choice(found), signal.SIGKILL)
            killed += 1
    assert process.wait(900) == 0
    assert killed >= 3
    seconds = time.perf_counter() - started
    table = rows(output)
    assert {row["status"] for row in table.values()} == {"done"}
    assert len(table) == SCANS
    assert not [path for path in (output / ".flipmap").rglob("*") if path.is_file()]
    undisturbed = tmp_path / "undisturbed"
    run(scans, undisturbed)
    assert maps(output) == maps(undisturbed)
    print(f"\n{SCANS} scans, {killed} workers killed, none lost: {seconds:.1f} s")
