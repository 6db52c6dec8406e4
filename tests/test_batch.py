# SPDX-License-Identifier: Apache-2.0
"""``flipmap run``: nothing lost, nothing half written, the rest goes on, and a second run does what is left."""

import base64
import contextlib
import csv
import errno
import json
import os
import pickle
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict

import nibabel as nib
import numpy as np
import pytest
from monai.data import MetaTensor

from bundle.batch.case import TIMEOUT, run_case
from bundle.batch.claims import FOLDER, Claims, Elsewhere
from bundle.batch.plan import OUTPUTS, SIDECAR, is_done, plan_cases, sha256_of
from bundle.batch.run import run_batch
from bundle.batch.shards import Shard
from bundle.cases import find_scans
from bundle.cli import main
from bundle.errors import OutputError, ScanError
from bundle.io.nifti import write_map
from bundle.modalities import FLAIR
from bundle.scoring.calibration import UNITS
from bundle.scoring.findings import find_findings
from tests.conftest import ROOT
from tests.test_mri import oblique
from tests.test_nifti import BROKEN

ENDINGS = [ending.format(region="brain") for ending, _ in OUTPUTS.values()] + [SIDECAR]


class QuickJob:
    """A job without a network: the map is the scan, so that the conduct of the batch is what is tested."""

    fingerprint, modality, units = "f", FLAIR, UNITS

    def __init__(self, seconds=0.0):
        self.settings = {"method": "quick", "region": "brain", "threshold": 9.0, "false_findings": 1.0}
        self.seconds = seconds
        self.healthy_case_scores = {"scores": [1.0, 2.0, 2.5], "what": "healthy people"}
        points = [(v, 10.0**-v, float(v)) for v in (1, 2, 3, 4)]
        self.calibration_points = {
            "contrast": "FLAIR",
            "voxels": 1000,
            "patients": 7,
            "percentile": 0.8,
            "end": 9.0,
            "points": points,
        }

    def prepare(self, case):
        from bundle.io.nifti import read_scan

        time.sleep(self.seconds)
        read = isinstance(case["image"], MetaTensor)
        return {"name": case["name"], "image": case["image"] if read else read_scan(case["image"])}

    def read(self, case):
        from bundle.io.nifti import read_scan

        return read_scan(case["image"])

    def infer(self, item):
        return item

    def finish(self, item):
        scan = item["image"]
        found = find_findings(scan[0].numpy(), scan[0].numpy() > 9, scan.affine.numpy(), 9.0)
        top = float(scan.max())
        findings = {"case_score": top, "highest_value": top, "left_out": 0, "findings": [asdict(one) for one in found]}
        return {**item, "pred": scan, "mask": scan > 9, "brain": scan > 1, "findings": findings}


@pytest.fixture
def scans(tmp_path):
    rng = np.random.RandomState(0)
    for number in range(6):
        write_map(tmp_path / "in" / f"s{number}.nii.gz", rng.rand(12, 14, 5) * 10 + number, np.diag([2, 2, 4, 1]))
    return tmp_path / "in"


def plan(folder):
    return plan_cases(find_scans(folder), folder)


def files(folder):
    """Every result with its content; what holds times is left out."""
    return {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("batch.csv", "report.html") and path.suffix != ".log"
        and not path.name.endswith(SIDECAR) and not {FOLDER, "shards"} & set(path.parts)
    }  # fmt: skip


def shown_in(output):
    """What the report has of every case, for its program."""
    page = (output / "report.html").read_text()
    return json.loads(re.search(r'<script type="application/json" id="records">(.*?)</script>', page, re.DOTALL)[1])


def rows(output):
    with (output / "batch.csv").open() as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def test_good_and_broken(scans, tmp_path):
    for kind in set(BROKEN) - {"absent"}:
        BROKEN[kind][0](scans / f"broken {kind}.nii.gz")
    output = tmp_path / "out"
    records = run_batch(plan(scans), QuickJob(), output)
    said = rows(output)
    assert len(said) == len(records) == 6 + len(BROKEN) - 1
    for name, row in said.items():
        if name.startswith("s"):
            assert row["status"] == "done"
            assert all((output / f"{name}_{ending}").is_file() for ending in ENDINGS)
        else:
            assert row["status"] == "failed"
            assert name in row["reason"]
            assert row["remedy"]
    assert next(iter(said)) == "s5", "the highest case score first"
    assert json.loads((output / "dataset_description.json").read_text())["DatasetType"] == "derivative"
    page = (output / "report.html").read_text()
    told = shown_in(output)
    assert sum(row["state"] == "done" for row in told) == 6
    assert all(base64.b64decode(row["picture"]).startswith(b"\x89PNG") for row in told if row["state"] == "done")
    for name, row in said.items():
        assert name in page
        assert row["remedy"] in page
    assert not re.search(r"(src|href)=.(http|/|file)", page), "nothing outside the file"
    provenance = json.loads((output / f"s3_{SIDECAR}").read_text())
    assert provenance["inputs_sha256"]["image"] == sha256_of(scans / "s3.nii.gz")
    assert provenance["Sources"] == ["s3.nii.gz"]
    assert str(tmp_path) not in json.dumps(provenance), "where the files lie says something about people"
    assert {"flipmap", "torch", "monai"} <= set(provenance["versions"])


def test_a_second_run_does_what_is_left(scans, tmp_path):
    output = tmp_path / "out"
    run_batch(plan(scans), QuickJob(), output)
    before = {path: path.stat().st_mtime_ns for path in output.rglob("s*.nii.gz")}

    (output / f"s1_{SIDECAR}").unlink()
    (output / "s2_desc-anomaly_map.nii.gz").write_bytes(b"cut short")
    write_map(scans / "s3.nii.gz", np.random.RandomState(1).rand(12, 14, 5), np.diag([2, 2, 4, 1]))
    records = {r.name: r.status for r in run_batch(plan(scans), QuickJob(), output)}
    assert [records[f"s{n}"] for n in range(6)] == ["done before", "done", "done", "done", "done before", "done before"]
    after = {path: path.stat().st_mtime_ns for path in output.rglob("s*.nii.gz")}
    same = {path.name[:2] for path in before if before[path] == after[path]}
    assert same == {"s0", "s4", "s5"}

    other = QuickJob()
    other.fingerprint = "another config"
    assert {r.status for r in run_batch(plan(scans), other, output)} == {"done"}
    assert {r.status for r in run_batch(plan(scans), other, output, overwrite=True)} == {"done"}
    assert {r.status for r in run_batch(plan(scans), other, output)} == {"done before"}


STUCK = ("s0", "s1", "s2", "s3")
STAGES = {"reading": "prepare", "computing": "infer", "writing": "finish"}


class StuckJob(QuickJob):
    """Some scans hang in one stage, for ``hangs`` seconds."""

    def __init__(self, stage, hangs, stuck=STUCK):
        super().__init__()
        self.hangs, self.stuck, method = hangs, stuck, STAGES[stage]
        work = getattr(self, method)
        setattr(self, method, lambda item: self._hang(item) or work(item))

    def _hang(self, item):
        if item["name"] in self.stuck:
            time.sleep(self.hangs)


@pytest.mark.parametrize("stage", STAGES)
def test_stuck_scans_cost_only_themselves(scans, tmp_path, stage):
    """Twice as many as are read, computed or written at a time, the first ones of all."""
    started = time.perf_counter()
    records = {r.name: r for r in run_batch(plan(scans), StuckJob(stage, 30), tmp_path / "out", jobs=2, timeout=3)}
    assert time.perf_counter() - started < 12
    for name in STUCK:
        assert records[name].status == "failed"
        assert f"took longer than 3 s, and was given up while {stage}" in records[name].reason
        assert not list((tmp_path / "out").glob(f"{name}_*")), "nothing is half written"
    assert [records[name].status for name in ("s4", "s5")] == ["done"] * 2


def test_what_was_given_up_writes_nothing_later(scans, tmp_path):
    records = run_batch(plan(scans)[:1], StuckJob("writing", 2.5), tmp_path / "out", timeout=1)
    assert records[0].status == "failed"
    time.sleep(2.5)
    assert not is_done(plan(scans)[0], tmp_path / "out", "f")
    assert not list((tmp_path / "out").glob("s0_*"))


def test_waiting_for_others_counts_for_nobody(scans, tmp_path):
    """Six scans of half a second each, one after the other: no one of them took longer than two."""
    job = QuickJob()
    job.infer = lambda item: time.sleep(0.5) or item
    assert {r.status for r in run_batch(plan(scans), job, tmp_path / "out", jobs=6, timeout=2)} == {"done"}


def test_a_single_case_has_a_limit_too(scans, tmp_path):
    with pytest.raises(ScanError, match=r"took longer than 0\.5 s"):
        run_case(StuckJob("reading", 5), plan(scans)[0], tmp_path / "out", timeout=0.5)
    assert TIMEOUT > 60, "there is a limit by default, a generous one"
    assert run_case(QuickJob(), plan(scans)[0], tmp_path / "out").status == "done"


def test_a_case_is_one_run_s(tmp_path):
    with Claims(tmp_path) as first, Claims(tmp_path) as second:
        first.take("a")
        with pytest.raises(Elsewhere, match=str(os.getpid())):
            second.take("a")
        second.take("b")
        first.release("a")
        second.take("a")
    assert not list((tmp_path / FOLDER).rglob("*")) or {p.name for p in (tmp_path / FOLDER).iterdir()} == {
        "runs",
        "claims",
    }
    with Claims(tmp_path) as third:
        third.take("a")


def test_a_run_that_begins_while_others_look_around(tmp_path):
    """Looking whether a run lives takes its lock for a moment: it may be the one that is about to take it."""
    ended = threading.Event()

    def look():
        with Claims(tmp_path) as claims:
            while not ended.is_set():
                claims.clear()

    lookers = [threading.Thread(target=look) for _ in range(3)]
    for one in lookers:
        one.start()
    try:
        for _ in range(60):
            with Claims(tmp_path) as claims:
                claims.take("a")
                claims.release("a")
    finally:
        ended.set()
        for one in lookers:
            one.join(30)


def test_between_look_and_claim_nobody_comes(tmp_path):
    """Many at once want what a dead run left: one has it, the others are told."""
    claims = tmp_path / FOLDER / "claims"
    claims.mkdir(parents=True)
    for round_ in range(20):
        ready, won = threading.Barrier(6), []

        def want(name=f"case {round_}", ready=ready, won=won):
            with Claims(tmp_path) as mine:
                mine._claim_of(name).write_text("a run that is dead")
                ready.wait(30)
                with contextlib.suppress(Elsewhere):
                    mine.take(name)
                    won.append(mine)
                ready.wait(30)

        threads = [threading.Thread(target=want) for _ in range(6)]
        for one in threads:
            one.start()
        for one in threads:
            one.join(60)
        assert len(won) == 1
    assert not list(claims.iterdir()), "nothing is left of claims that were given back"


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(OutputError, match="knows no locks"), Claims(tmp_path):
        pass


CLAIM = f"""
import sys, time
sys.path[:0] = [{str(ROOT)!r}]
from pathlib import Path
from bundle.batch.claims import Claims
with Claims(Path(sys.argv[1])) as claims:
    claims.take("a")
    print("taken", flush=True)
    time.sleep(60)
"""


def test_a_claim_of_a_run_that_was_killed_is_taken_over_once(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", CLAIM, tmp_path], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "taken\n"
    with Claims(tmp_path) as mine, pytest.raises(Elsewhere, match=str(holder.pid)):
        mine.take("a")
    holder.kill()
    holder.wait(30)
    holder.stdout.close()
    with Claims(tmp_path) as first, Claims(tmp_path) as second:
        won = []
        for claims in (first, second):
            with contextlib.suppress(Elsewhere):
                claims.take("a")
                won.append(claims)
        assert won == [first]


def test_runs_at_the_same_time_share_the_cases(scans, tmp_path):
    """Three processes over the same input without shards, one of them killed: in the end every case is done."""
    whole, output = tmp_path / "whole", tmp_path / "out"
    run_batch(plan(scans), QuickJob(), whole)
    processes = [
        subprocess.Popen([sys.executable, "-c", SLOW, scans, output], stdout=subprocess.PIPE) for _ in range(3)
    ]
    for process in processes:
        process.stdout.readline()
    time.sleep(0.1)
    processes[0].kill()
    for process in processes:
        process.wait(60)
        process.stdout.close()
    records = run_batch(plan(scans), QuickJob(), output)
    assert {record.status for record in records} <= {"done", "done before"}
    assert files(output) == files(whole)


def test_shards_deal_every_case_once_and_their_tables_are_joined(scans, tmp_path, capsys):
    shutil.copy(scans / "s0.nii.gz", scans / "t.nii.gz")
    (scans / "broken.nii.gz").write_bytes(b"no scan")
    whole, output, job = tmp_path / "whole", tmp_path / "out", QuickJob()
    run_batch(plan(scans), job, whole)
    shards = [Shard.of(f"{number}/3") for number in (1, 2, 3)]
    names = [[case.name for case in plan(scans) if shard.holds(case.name)] for shard in shards]
    assert sorted(name for some in names for name in some) == sorted(case.name for case in plan(scans))
    for shard in shards[:2]:
        run_batch([case for case in plan(scans) if shard.holds(case.name)], job, output, shard=shard)
    assert not (output / "batch.csv").exists()
    assert main(["report", str(output)]) in (0, 1)
    assert "nothing of shard 3-of-3" in capsys.readouterr().err
    run_batch([case for case in plan(scans) if shards[2].holds(case.name)], job, output, shard=shards[2])
    assert main(["report", str(output)]) == 1, "one of them is broken"
    assert not capsys.readouterr().err
    said, alone = rows(output), rows(whole)
    assert {n: (r["status"], r["case_score"]) for n, r in said.items()} == {
        n: (r["status"], r["case_score"]) for n, r in alone.items()
    }
    assert files(output) == files(whole)
    mine, theirs = ([{**row, "seconds": 0} for row in shown_in(folder)] for folder in (output, whole))
    assert mine == theirs


def test_shards_of_other_settings_are_not_joined(scans, tmp_path, capsys):
    job = QuickJob()
    for number in (1, 2):
        job.fingerprint = f"settings {number}"
        shard = Shard(number, 2)
        run_batch([case for case in plan(scans) if shard.holds(case.name)], job, tmp_path / "out", shard=shard)
    assert main(["report", str(tmp_path / "out")]) == 2
    assert "1-of-2" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "nowhere")]) == 3


def test_a_thousand_that_are_done_are_passed_within_seconds(tmp_path):
    """FLIPMAP_CASES for another number of them; hard links stand for the files."""
    first, count = tmp_path / "in" / "s0000.nii.gz", int(os.environ.get("FLIPMAP_CASES", "1000"))
    write_map(first, np.random.RandomState(0).rand(12, 14, 5) * 10, np.diag([2, 2, 4, 1]))
    for number in range(1, count):
        os.link(first, first.with_name(f"s{number:04d}.nii.gz"))
    started = time.perf_counter()
    cases, output = plan(first.parent), tmp_path / "out"
    planned = time.perf_counter() - started
    assert len(cases) == count
    run_batch(cases[:1], QuickJob(), output)
    sidecar = json.loads(cases[0].path(output, SIDECAR).read_text())
    for case in cases[1:]:
        hashes = {}
        for ending in case.endings:
            os.link(cases[0].path(output, ending), case.path(output, ending))
            hashes[case.path(output, ending).name] = sidecar["outputs_sha256"][cases[0].path(output, ending).name]
        case.path(output, SIDECAR).write_text(json.dumps({**sidecar, "outputs_sha256": hashes}))
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    records = run_batch(cases, QuickJob(), output)
    took, more = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"\n{count} cases planned in {planned:.1f} s, passed in {took:.1f} s with {more / 1024:.0f} MiB more")
    assert {record.status for record in records} == {"done before"}
    assert took < 10 + count / 100
    assert (output / "report.html").stat().st_size < 200e6


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0"])
def test_a_shard_that_is_none_is_refused(text, tmp_path, capsys):
    assert main(["run", str(tmp_path), str(tmp_path / "out"), "--shard", text]) == 2
    assert "--shard 3/16" in capsys.readouterr().err


def test_what_a_killed_run_left_is_cleared(scans, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".unfinished_abc.nii.gz").write_bytes(b"half")
    run_batch(plan(scans), QuickJob(), tmp_path / "out")
    assert not list((tmp_path / "out").glob(".unfinished*"))


def test_a_planned_case_can_be_handed_to_another_process(scans, tmp_path):
    """The seam of a cluster engine: a case, pickled, is done from file to files by whoever has a job."""
    case = pickle.loads(pickle.dumps(plan(scans)[2]))
    assert run_case(QuickJob(), case, tmp_path / "out").status == "done"
    assert is_done(plan(scans)[2], tmp_path / "out", "f")


def test_names_of_bids_derivatives(bids_folder, tmp_path):
    planned = plan(bids_folder)
    assert planned[0].path(tmp_path, SIDECAR) == tmp_path / "sub-00" / "anat" / "sub-00_mod-FLAIR_desc-anomaly_map.json"
    assert not is_done(planned[0], tmp_path, "f")


SLOW = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}]
from tests.test_batch import QuickJob, plan
from bundle.batch.run import run_batch
from pathlib import Path
print("go", flush=True)
run_batch(plan(Path(sys.argv[1])), QuickJob(0.02), Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_killed_and_started_again_it_ends_the_same(scans, tmp_path):
    """SIGKILL at random moments; then once to the end: the same bytes as an undisturbed run."""
    whole, output = tmp_path / "whole", tmp_path / "out"
    run_batch(plan(scans), QuickJob(), whole)
    moments = random.Random(0)
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", SLOW, scans, output], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(moments.uniform(0, 0.25))
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        process.stdout.close()
        for path in output.rglob("s*.nii.gz"):
            assert nib.load(path).get_fdata().shape == (12, 14, 5), "whole, or not there"
    run_batch(plan(scans), QuickJob(), output)
    assert files(output) == files(whole)


def test_the_command(tmp_path, head, capsys):
    scan, _, affine = head
    write_map(tmp_path / "in" / "a.nii.gz", scan, affine, np.int16)
    write_map(tmp_path / "in" / "b.nii.gz", np.ones((20, 20, 5)), affine)
    arguments = ["run", str(tmp_path / "in"), str(tmp_path / "out"), "--set", "precision=float32"]

    assert main([*arguments, "--dry-run"]) == 0
    assert "a: to do" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert main([*arguments, "-q"]) == 1
    error = capsys.readouterr().err
    assert "b.nii.gz: every voxel is 1" in error
    assert "\na:" not in error
    assert len(list((tmp_path / "out" / "logs").iterdir())) == 1
    (tmp_path / "in" / "b.nii.gz").unlink()
    assert main(arguments) == 0
    assert rows(tmp_path / "out")["a"]["status"] == "done before"

    mapped = nib.load(tmp_path / "out" / "a_desc-anomaly_map.nii.gz")
    assert mapped.shape == scan.shape
    np.testing.assert_allclose(mapped.affine, affine, atol=1e-5)


def test_dicom_in_the_command(tmp_path, head):
    """A series beside a NIfTI file, a broken series and a localizer; nobody's name in anything that is written."""
    dicom_files = pytest.importorskip("tests.dicom_files", reason="the extra `hospital` is not installed")
    from bundle.io.dicom import find_series, read_series

    scan, _, affine = head
    root, output = tmp_path / "in", tmp_path / "out"
    write_map(root / "a.nii.gz", scan, affine, np.int16)
    dicom_files.write_series(root / "DOE^JANE" / "1", scan, oblique(affine), SeriesNumber=1)
    dicom_files.write_series(root / "DOE^JANE" / "2", scan, affine, lambda i, z: z != 5, SeriesNumber=2)
    dicom_files.write_series(root / "DOE^JANE" / "3", scan, affine, SeriesDescription="DWI tra", SeriesNumber=3)
    good, gap, other = find_series(root)

    assert main(["run", str(root), str(output), "-q", "--set", "precision=float32"]) == 1
    said = rows(output)
    assert {name: row["status"] for name, row in said.items()} == {
        "a": "done", good.name: "done", gap.name: "failed", other.name: "skipped",
    }  # fmt: skip
    assert "1 slices are missing" in said[gap.name]["reason"]
    assert "described as 'DWI tra head', which is not FLAIR, T1w without contrast" in said[other.name]["reason"]
    assert said[good.name]["series_uid"] == good.uid
    assert said[other.name]["series_uid"] == other.uid
    mapped, source = nib.load(output / f"{good.name}_desc-anomaly_map.nii.gz"), read_series(good)
    assert mapped.shape == tuple(source.shape[1:])
    np.testing.assert_allclose(mapped.affine, source.affine.numpy(), atol=1e-4)
    for path in output.rglob("*"):
        if path.suffix == ".dcm" or not path.is_file():  # a DICOM result belongs to its patient, or finds no archive
            continue
        text = path.read_bytes()
        for identifier in (b"Doe^Jane", b"DOE^JANE", b"19700101"):
            assert identifier not in text, path.name
        found_by_uid = path.name == "batch.csv" or path.parent.name == "shards"  # so that archives are asked for it
        assert found_by_uid or good.uid.encode() not in text, path.name


def test_usage_and_nothing_to_do(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["run", str(tmp_path / "empty"), str(tmp_path / "out")]) == 3
    assert "no .nii" in capsys.readouterr().err
    shutil.copy(ROOT / "setup.cfg", tmp_path / "file")
    write_map(tmp_path / "in" / "a.nii.gz", np.eye(20)[..., None].repeat(5, 2), np.eye(4))
    assert main(["run", str(tmp_path / "in"), str(tmp_path / "file")]) == 2
    assert main(["run", str(tmp_path / "in"), str(tmp_path / "out"), "--set", "threshold"]) == 2
    assert main(["run", str(tmp_path / "in"), str(tmp_path / "out"), "--set", "treshold=3"]) == 2
    assert "Did you mean threshold?" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["walk"])
    assert caught.value.code == 2
