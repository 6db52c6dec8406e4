# SPDX-License-Identifier: Apache-2.0
"""Inputs that somebody means ill with: they are refused or made harmless, and nothing is written elsewhere.

flipmap unpacks no archives, so there is no path in one that could lead out of a folder.
"""

from __future__ import annotations

import csv
import gzip
import os
import resource
import socket
import struct
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bundle.batch.plan import plain
from bundle.batch.record import Record, write_table
from bundle.batch.run import run_batch
from bundle.cli import main
from bundle.errors import EXIT_CODES, ScanError
from bundle.io.nifti import read_scan, write_map
from bundle.paths import bundle_root
from tests.test_batch import QuickJob, plan, rows, shown_in

BAD_NAMES = (
    "=cmd|' calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(1)",
    "<script>document.title='taken'</script>",
    "<img src=x onerror=document.title='taken'>",
    '"><svg onload=document.title="taken">',
    "{{7*7}}",
    "</script><script>document.title='taken'</script>",
    "bell\x07 line\nbreak",
    "up..and..up",
    "%2e%2e%2fup",
)


@pytest.fixture
def ill_named(tmp_path):
    """Scans with names of every kind; a slash cannot stand in one."""
    folder = tmp_path / "in"
    for number, name in enumerate(BAD_NAMES):
        scan = np.random.RandomState(number).rand(20, 22, 5) * 5 + 8
        write_map(folder / f"x{number}.nii.gz", scan, np.diag([2, 2, 4, 1]))
        (folder / f"x{number}.nii.gz").rename(folder / f"{name.replace('/', '∕')}.nii.gz")
    return folder


NETWORK = ("import urllib.request", "import requests", "import socket", "http.client")


def everything(folder):
    return {path for path in folder.rglob("*") if path.is_file()}


def test_names_are_harmless_in_tables_reports_and_paths(ill_named, tmp_path):
    before = everything(tmp_path)
    records = run_batch(plan(ill_named), QuickJob(), tmp_path / "out")
    assert [record.status for record in records] == ["done"] * len(BAD_NAMES)
    made = everything(tmp_path) - before
    assert all(path.is_relative_to(tmp_path / "out") for path in made)
    with (tmp_path / "out" / "batch.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@", "-"))]
    assert not [cell for cell in cells if "\n" in cell or "\x07" in cell]
    page = (tmp_path / "out" / "report.html").read_text()
    for text in ("<script>document", "<img src=x", "<svg onload"):
        assert text not in page
    assert {row["name"] for row in shown_in(tmp_path / "out")} == {plain(case.name) for case in plan(ill_named)}
    log = "".join(path.read_text() for path in (tmp_path / "out").glob("logs/*.log"))
    assert "\x07" not in log


def test_the_report_runs_nothing_of_a_name(ill_named, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    from tests.test_report_browser import CHROMIUM, QUIET

    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    run_batch(plan(ill_named), QuickJob(), tmp_path / "out")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = browser.new_page()
        page.goto((tmp_path / "out" / "report.html").as_uri())
        title = page.title()
        assert page.locator(".card").count() == len(BAD_NAMES)
        for number in range(len(BAD_NAMES)):
            page.locator(".card").nth(number).click()
            page.keyboard.press("Escape")
        page.locator("#shape").select_option("table")
        assert page.title() == title == f"flipmap: {len(BAD_NAMES)} of {len(BAD_NAMES)} scans"
        browser.close()


def test_names_that_only_differ_in_what_is_replaced_stay_apart():
    assert plain("a\nb") != plain("a\tb")
    assert plain("a b ä") == "a b ä"


def test_reasons_are_harmless_too(tmp_path):
    write_table(tmp_path / "t.csv", [Record("a", "failed", reason="=1+1", remedy="@x")])
    assert (tmp_path / "t.csv").read_text().splitlines()[1].count("'") == 2


def lying_nifti(path, shape, content):
    """A header of a shape, and less behind it."""
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.float32), np.eye(4))
    header = bytearray(image.header.binaryblock)
    struct.pack_into("<8h", header, 40, 3, *shape, 1, 1, 1, 1)
    path.write_bytes(gzip.compress(bytes(header) + b"\0" * 4 + b"\0" * content))


@pytest.mark.parametrize("shape", [(32000, 32000, 32000), (3000, 3000, 3000), (-5, 4, 4), (0, 4, 4)])
def test_a_header_that_claims_more_than_there_is(tmp_path, shape):
    lying_nifti(tmp_path / "a.nii.gz", shape, 4096)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(ScanError):
        read_scan(tmp_path / "a.nii.gz")
    assert time.perf_counter() - started < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500 * 1024, "kilobytes"


def test_a_dicom_that_claims_more_than_there_is(tmp_path, head):
    pytest.importorskip("highdicom")
    from bundle.io.dicom import find_series
    from tests.dicom_files import write_series

    def lie(image, z):
        image.Rows, image.Columns = 60000, 60000

    def path_parts(image, z):
        image.PatientID, image.SeriesDescription = "../../up", "../../../tmp/FLAIR"

    scan, _, affine = head
    write_series(tmp_path / "in" / "lies", scan[:24, :30], affine, lie, SeriesDescription="FLAIR")
    write_series(tmp_path / "in" / "up", scan, affine, path_parts)
    assert all(series.name.startswith("series-") and "/" not in series.name for series in find_series(tmp_path / "in"))
    before = everything(tmp_path)
    assert main(["run", str(tmp_path / "in"), str(tmp_path / "out"), "-q"]) == EXIT_CODES["some case failed"]
    assert {row["status"] for row in rows(tmp_path / "out").values()} == {"failed", "done"}
    assert all(path.is_relative_to(tmp_path / "out") for path in everything(tmp_path) - before)


def test_links_lead_nowhere(tmp_path):
    """A link to a scan is read, as data managers use them; one to a folder is not gone into; results follow none."""
    secret, folder, output = tmp_path / "secret", tmp_path / "in", tmp_path / "out"
    scan = np.random.RandomState(0).rand(20, 22, 5) * 5 + 8
    write_map(secret / "s.nii.gz", scan, np.diag([2, 2, 4, 1]))
    write_map(folder / "sub-01" / "anat" / "sub-01_FLAIR.nii.gz", scan, np.diag([2, 2, 4, 1]))
    (folder / "loop").symlink_to(folder)
    (folder / "away").symlink_to(secret)
    cases = plan(folder)
    assert len(cases) == 1, [case.where for case in cases]
    output.mkdir()
    (output / "sub-01").symlink_to(secret)
    before = everything(secret)
    (record,) = run_batch(cases, QuickJob(), output)
    assert record.status == "failed"
    assert "a link that leaves" in record.reason
    assert everything(secret) == before


def test_a_hundred_connections_at_once_keep_nobody_out(tmp_path):
    pytest.importorskip("pynetdicom")
    from pynetdicom import AE

    from bundle.archive.listener import Listener, Peer
    from bundle.archive.spool import Spool
    from tests.test_listen import LOCAL

    class Idle:
        series = "FLAIR"

    here = Peer("ARCHIVE", LOCAL)
    listener = Listener(Idle(), Spool(tmp_path / "spool"), "FLIPMAP", 0, [here], Peer("ARCHIVE", LOCAL, 9), host=LOCAL)
    listener.start()
    idle = []
    try:
        for _ in range(100):
            one = socket.create_connection((LOCAL, listener.port), timeout=10)
            one.sendall(b"GET / HTTP/1.1\r\n\r\n" if len(idle) % 2 else b"")
            idle.append(one)
        node = AE(ae_title="ARCHIVE")
        node.add_requested_context("1.2.840.10008.1.1")
        until, answered = time.monotonic() + 60, False
        while not answered and time.monotonic() < until:
            link = node.associate(LOCAL, listener.port, ae_title="FLIPMAP")
            answered = link.is_established and link.send_c_echo().Status == 0
            link.release() if link.is_established else time.sleep(1)
        assert answered
    finally:
        for one in idle:
            one.close()
        listener.stop()


def test_nothing_of_ours_asks_a_network():
    """No module opens a connection, but for the DICOM node and what a user asks for by an address."""
    found = [
        path.relative_to(bundle_root()).as_posix()
        for path in Path(bundle_root(), "bundle").rglob("*.py")
        if any(
            word in path.read_text()
            for word in ("import urllib.request", "import requests", "import socket", "http.client")
        )
    ]
    assert set(found) <= {"bundle/archive/listener.py", "bundle/batch/claims.py", "bundle/commands/run.py"}
    assert os.environ.get("HF_HUB_OFFLINE") in (None, "1", "0")
