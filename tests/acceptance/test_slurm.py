# SPDX-License-Identifier: Apache-2.0
"""Batches on SLURM: its daemons on this machine (Debian's slurm-wlm), run by root, in a folder of their own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bundle.cli import main
from bundle.io.nifti import write_map
from bundle.synthesis.sample import synthetic_head
from tests.test_cluster import wait_for

ROOT = Path(__file__).parents[2]
CONF = """
ClusterName=flipmap
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}
SlurmdSpoolDir={folder}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=6000
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

pytestmark = pytest.mark.skipif(
    not shutil.which("slurmctld") or os.geteuid() != 0, reason="no slurmctld, or not root to run it"
)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def asked(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A cluster of one node; SLURM_CONF says where it is."""
    folder = tmp_path_factory.mktemp("slurm")
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=socket.gethostname(), ports=free_ports(2), folder=folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(conf))
        patch.setenv("PYTHONPATH", str(ROOT))
        daemons = []
        for name in ("slurmctld", "slurmd"):
            with (folder / f"{name}.out").open("w") as log:
                daemons.append(subprocess.Popen([name, "-D"], stdout=log, stderr=log))
            time.sleep(2)
        wait_for(lambda: "idle" in subprocess.run(["sinfo"], capture_output=True, text=True).stdout, 120)
        yield folder
        subprocess.run(["scancel", "--user=root"], check=False)
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    for number in range(6):
        scan, _, affine = synthetic_head((96, 112, 12), (2.0, 2.0, 9.0), seed=number)
        write_map(folder / f"head{number}.nii.gz", scan, affine, np.int16)
    return folder


@pytest.fixture(scope="module")
def here(scans, tmp_path_factory):
    output = tmp_path_factory.mktemp("here")
    assert main(["run", str(scans), str(output), "-q"]) == 0
    return output


def maps(output):
    return {path.name: path.read_bytes() for path in output.glob("*map.nii.gz")}


def test_workers_as_jobs_of_the_queue_one_of_them_cancelled(slurm, scans, here, tmp_path):
    output = tmp_path / "out"
    command = [sys.executable, "-m", "bundle.cli", "run", str(scans), str(output), "--on", "slurm", "--workers", "2"]
    command += ["--threads", "1", "--on-set", "interface=lo", "--on-set", "walltime=00:20:00"]
    run = subprocess.Popen([*command, "--on-set", f"log_directory={tmp_path}", "-q"], cwd=ROOT)
    running = ("squeue", "--noheader", "--states=running", "--format=%A")
    jobs = wait_for(lambda: (both := asked(*running).split()) and len(both) == 2 and both, 120)
    wait_for(lambda: list(output.glob("*map.json")), 120)
    asked("scancel", jobs[0])
    assert run.wait(300) == 0
    assert maps(output) == maps(here)
    assert len(maps(output)) == 6


def test_shards_as_an_array(slurm, scans, here, tmp_path):
    output = tmp_path / "out"
    shard = f'{sys.executable} -m bundle.cli run {scans} {output} --shard "$SLURM_ARRAY_TASK_ID/3" --threads 1 -q'
    array = asked(
        "sbatch", "--parsable", "--array=1-3", f"--chdir={ROOT}", f"--output={tmp_path}/%a.log", "--wrap", shard
    )
    joined = f"{sys.executable} -m bundle.cli report {output}"
    after = f"--dependency=afterany:{array.strip()}"
    asked("sbatch", after, f"--chdir={ROOT}", f"--output={tmp_path}/report.log", "--wrap", joined)
    wait_for((output / "batch.csv").exists, 300)
    assert maps(output) == maps(here)
