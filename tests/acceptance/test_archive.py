# SPDX-License-Identifier: Apache-2.0
"""A night of an archive: 500 series by DCMTK's storescu through the real command to storescp, killed twenty times;
FLIPMAP_SERIES for another number of them.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import numpy as np
import pytest

from bundle.batch.plan import DICOM_OUTPUTS
from bundle.cli import main
from bundle.synthesis.sample import synthetic_head
from tests.conftest import ROOT
from tests.test_listen import LOCAL, free_port, reached, wait_for

pydicom = pytest.importorskip("pydicom")
from bundle.archive.replaced import REPLACES  # noqa: E402
from bundle.archive.spool import Spool  # noqa: E402
from tests.dicom_files import write_series  # noqa: E402

SERIES = int(os.environ.get("FLIPMAP_SERIES", "500"))
SLICES = 5  # of a series
KILLS, COMPARED = max(1, SERIES // 25), max(4, SERIES // 20)

pytestmark = pytest.mark.skipif(not shutil.which("storescp"), reason="no DCMTK")


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """Series of as many patients: one head, its intensities a little different each time."""
    root = tmp_path_factory.mktemp("night")
    scan, _, affine = synthetic_head((60, 70, SLICES), (3.2, 3.2, 18.0), seed=2)
    for number in range(SERIES):
        changed = scan * (1 + number / 5000) + np.random.RandomState(number).uniform(0, 2, scan.shape) * (scan > 0)
        tags = {"SeriesDescription": "AX FLAIR", "PatientID": f"P{number:03d}", "PatientName": f"N{number:03d}^A"}
        write_series(root / f"p{number:03d}", changed, affine, **tags)
    return root


class Node:
    """The command, started again whenever it has been killed."""

    def __init__(self, spool, port, receiver):
        self.command = [
            sys.executable,
            "-m",
            "bundle.cli",
            "listen",
            "--spool",
            spool,
            "--port",
            str(port),
            "--host",
            LOCAL,
        ]
        self.command += ["--allow", f"STORESCU@{LOCAL}", "--send-to", f"STORESCP@{LOCAL}:{receiver}"]
        self.command += ["--quiet", "2", "--retry", "1", "--set", "precision=float32"]
        self.port, self.process = port, None

    def start(self):
        self.process = subprocess.Popen(self.command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: reached(self.port), 120)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)


def send_all(night, port):
    """As an archive does: a series that was not taken is sent again."""
    for folder in sorted(night.iterdir()):
        command = ["storescu", "-aec", "FLIPMAP", "+sd", "-to", "20", LOCAL, str(port), folder]
        while subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode:
            time.sleep(1)


def test_five_hundred_series_and_twenty_kills(night, tmp_path):
    got = tmp_path / "got"
    got.mkdir()
    receiver_port, port, spool = free_port(), free_port(), tmp_path / "spool"
    receiver = subprocess.Popen(
        ["storescp", "--accept-all", "--output-directory", got, "--filename-extension", ".dcm", str(receiver_port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    node, moments, started = Node(spool, port, receiver_port), random.Random(0), time.monotonic()
    node.start()
    sender = threading.Thread(target=send_all, args=(night, port), daemon=True)
    sender.start()
    try:
        for _ in range(KILLS):
            time.sleep(moments.uniform(8, 25))
            node.kill()
            node.start()
        sender.join(3600)
        wait_for(lambda: Spool(spool).status()["done"] == SERIES, 3600)
        seconds = time.monotonic() - started
    finally:
        node.kill()
        receiver.kill()
        receiver.wait(30)
    # In the order in which they came: a file's name says only what it is.
    paths = sorted(got.glob("*.dcm"), key=lambda path: path.stat().st_mtime_ns)
    arrived = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
    # DCMTK before 3.6.9 knows no label maps, and is not sent any.
    results = len(DICOM_OUTPUTS) + 1 - (0 if any(one.get("SegmentationType") == "LABELMAP" for one in arrived) else 1)
    by_patient = Counter(str(one.PatientID) for one in arrived)
    assert set(by_patient) == {f"P{number:03d}" for number in range(SERIES)}
    assert all(count % results == 0 for count in by_patient.values()), "results come in whole rounds"
    assert len({one.SOPInstanceUID for one in arrived}) == len(arrived)
    # A kill may cut a series off for longer than the node waits: what it made of the first slices is replaced.
    again = {str(one.PatientID) for one in arrived if one.SeriesDescription.endswith(REPLACES)}
    assert again == {patient for patient, count in by_patient.items() if count > results}
    last = {str(one.PatientID): one for one in arrived if one.Modality == "SEG"}
    for patient, mask in last.items():
        assert len(mask.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == SLICES, f"{patient}: slices lost"
    print(
        f"\n{SERIES} series, {KILLS} kills, {len(arrived)} results, in {seconds:.0f} s; {len(again)} series made again"
    )

    part = tmp_path / "part"
    for folder in sorted(night.iterdir())[:COMPARED]:
        shutil.copytree(folder, part / folder.name)
    assert main(["run", str(part), str(tmp_path / "out"), "-q", "--set", "precision=float32"]) == 0
    # UIDs follow from the files, which a sender writes anew: patient and kind say what is to be the same.
    known = {
        (one.PatientID, one.SeriesDescription.removesuffix(f", {REPLACES}")): path
        for one, path in zip(arrived, paths, strict=True)
    }
    compared = 0
    for path in (tmp_path / "out").glob("*.dcm"):
        mine = pydicom.dcmread(path)
        if (mine.PatientID, mine.SeriesDescription) in known:
            theirs = pydicom.dcmread(known[mine.PatientID, mine.SeriesDescription])
            for keyword in ("PixelData", "FloatPixelData"):
                assert mine.get(keyword) == theirs.get(keyword), path.name
            compared += 1
    assert compared == COMPARED * (results - 1), "the picture is not among the results of flipmap run"
