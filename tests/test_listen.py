# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402
"""``flipmap listen``: from an archive and back, by real DICOM programs (DCMTK where it is, else pynetdicom)."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("highdicom")
pynetdicom = pytest.importorskip("pynetdicom")

from bundle.archive.listener import Listener, Peer
from bundle.archive.replaced import REPLACES
from bundle.archive.spool import STATES, Spool
from bundle.batch.plan import DICOM_OUTPUTS
from bundle.cli import main
from bundle.errors import FlipmapError
from bundle.pipeline.job import Job
from bundle.synthesis.sample import synthetic_head
from tests.conftest import ROOT
from tests.dicom_files import write_series

DCMTK = all(shutil.which(name) for name in ("storescu", "storescp", "echoscu"))
RESULTS = len(DICOM_OUTPUTS) + 1  # of a series: the picture besides
LOCAL = "127.0.0.1"


def free_port():
    with socket.socket() as one:
        one.bind((LOCAL, 0))
        return one.getsockname()[1]


def wait_for(what, seconds=90):
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it never happened"
        time.sleep(0.1)


class Receiver:
    """An archive that takes what comes, and writes down every instance that it was sent."""

    def __init__(self, port, refuses=()):
        self.port, self.refuses, self.received = port, refuses, []

    def __enter__(self):
        from pynetdicom import AE, AllStoragePresentationContexts, evt

        node = AE(ae_title="ARCHIVE")
        for context in (one for one in AllStoragePresentationContexts if one.abstract_syntax not in self.refuses):
            node.add_supported_context(context.abstract_syntax, pynetdicom.ALL_TRANSFER_SYNTAXES)

        def stored(event):
            self.received.append(event.dataset)
            return 0x0000

        self.server = node.start_server((LOCAL, self.port), block=False, evt_handlers=[(evt.EVT_C_STORE, stored)])
        return self

    def __exit__(self, *_):
        self.server.shutdown()

    @property
    def uids(self):
        return [str(one.SOPInstanceUID) for one in self.received]


def send(paths, port, title="ARCHIVE", stop_after=None):
    """C-STORE of files; after ``stop_after`` of them the connection is torn. Returns the statuses, None if refused."""
    from pynetdicom import AE

    node, statuses = AE(ae_title=title), []
    datasets = [pydicom.dcmread(path) for path in paths]
    for kind, syntax in {(d.SOPClassUID, d.file_meta.TransferSyntaxUID) for d in datasets}:
        node.add_requested_context(kind, syntax)
    link = node.associate(LOCAL, port, ae_title="FLIPMAP")
    if not link.is_established:
        return None
    for number, dataset in enumerate(datasets):
        if number == stop_after:
            link.abort()
            return statuses
        statuses.append(link.send_c_store(dataset).Status)
    link.release()
    return statuses


@pytest.fixture(scope="module")
def job():
    return Job(precision="float32")


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """Two FLAIR series of two patients, and a localizer."""
    root = tmp_path_factory.mktemp("studies")
    for number in range(2):
        scan, _, affine = synthetic_head((72, 84, 10), (2.7, 2.7, 11.0), seed=number)
        tags = {"SeriesDescription": "AX FLAIR", "PatientID": f"P{number}", "PatientName": f"N{number}^A"}
        write_series(root / f"p{number}", scan, affine, **tags)
    write_series(root / "scout", scan[..., :3], affine, SeriesDescription="scout", ImageType=["ORIGINAL", "LOCALIZER"])
    return root


def files(studies, name):
    return sorted((studies / name).iterdir())


@pytest.fixture
def node(job, tmp_path):
    """A listener, its archive, and both on ports of their own."""
    with Receiver(free_port()) as archive:
        listener = Listener(
            job,
            Spool(tmp_path / "spool"),
            "FLIPMAP",
            0,
            [Peer("ARCHIVE", LOCAL), Peer("STORESCU", LOCAL)],
            Peer("ARCHIVE", LOCAL, archive.port),
            quiet=1.0,
            retry=1.0,
            host=LOCAL,
        )
        listener.start()
        yield listener, archive
        listener.stop()


def test_two_studies_at_once_and_back(node, studies, tmp_path):
    listener, archive = node
    if DCMTK:
        command = ["storescu", "-aec", "FLIPMAP", "+sd", LOCAL, str(listener.port)]
        senders = [subprocess.Popen([*command, studies / f"p{n}"], stdout=subprocess.DEVNULL) for n in range(2)]
        assert [sender.wait(60) for sender in senders] == [0, 0]
    else:
        senders = [threading.Thread(target=send, args=(files(studies, f"p{n}"), listener.port)) for n in range(2)]
        for one in senders:
            one.start()
        for one in senders:
            one.join(60)
    wait_for(lambda: listener.spool.status()["done"] == 2)
    assert sorted(str(one.PatientID) for one in archive.received) == ["P0"] * RESULTS + ["P1"] * RESULTS
    kinds = {one.SOPClassUID.name for one in archive.received}
    assert kinds == {
        "Segmentation Storage",
        "1.2.840.10008.5.1.4.1.1.66.7",  # Label Map Segmentation Storage, which has no name in pydicom yet
        "Parametric Map Storage",
        "Secondary Capture Image Storage",
        "Comprehensive 3D SR Storage",
    }
    source = pydicom.dcmread(files(studies, "p0")[0])
    own = [one for one in archive.received if one.PatientID == "P0"]
    assert {str(one.StudyInstanceUID) for one in own} == {str(source.StudyInstanceUID)}
    assert len(set(archive.uids)) == 2 * RESULTS
    # The same once more changes nothing: the series is known.
    assert send(files(studies, "p0"), listener.port) == [0] * 10
    time.sleep(3)
    assert len(archive.received) == 2 * RESULTS


def test_who_is_not_on_the_list_is_refused(node, studies):
    listener, _ = node
    assert send(files(studies, "p0")[:1], listener.port, title="STRANGER") is None
    assert listener.spool.status()["incoming"] == 0


@pytest.mark.skipif(not DCMTK, reason="DCMTK is not here")
def test_echo(node):
    listener, _ = node
    command = ["echoscu", "-aet", "ARCHIVE", "-aec", "FLIPMAP", LOCAL, str(listener.port)]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    command[2] = "STRANGER"
    assert subprocess.run(command, check=False, capture_output=True).returncode != 0


def test_what_is_not_meant_is_told_and_kept(node, studies):
    listener, archive = node
    assert send(files(studies, "scout"), listener.port) == [0] * 3
    wait_for(lambda: listener.spool.status()["failed"] == 1)
    assert not archive.received
    assert "localizer" in str(listener.spool.status()["reasons"]).lower()


def test_a_series_that_is_cut_off_is_waited_for(node, studies):
    listener, archive = node
    paths = files(studies, "p1")
    assert send(paths, listener.port, stop_after=4) == [0] * 4
    time.sleep(3)  # longer than the quiet time
    assert listener.spool.status()["incoming"] == 1
    assert send(paths, listener.port) == [0] * 10
    wait_for(lambda: listener.spool.status()["done"] == 1)
    segment = next(one for one in archive.received if one.Modality == "SEG")
    assert len(segment.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 10


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # pynetdicom leaves a socket
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_receiver_that_is_down_is_tried_again(job, studies, tmp_path):
    port = free_port()
    listener = Listener(
        job, Spool(tmp_path / "spool"), "FLIPMAP", 0, [Peer("ARCHIVE", LOCAL)], Peer("ARCHIVE", LOCAL, port),
        quiet=0.5, retry=1.0, host=LOCAL,
    )  # fmt: skip
    listener.start()
    try:
        send(files(studies, "p0"), listener.port)
        wait_for(lambda: listener.spool.status()["results"] == 1)
        time.sleep(2)
        assert listener.spool.status()["done"] == 0
        with Receiver(port) as archive:
            wait_for(lambda: listener.spool.status()["done"] == 1)
            assert len(archive.received) == RESULTS
    finally:
        listener.stop()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_an_archive_that_knows_no_label_maps_gets_the_rest(job, studies, tmp_path, caplog):
    with Receiver(free_port(), refuses=("1.2.840.10008.5.1.4.1.1.66.7",)) as archive:
        listener = Listener(
            job, Spool(tmp_path / "spool"), "FLIPMAP", 0, [Peer("ARCHIVE", LOCAL)],
            Peer("ARCHIVE", LOCAL, archive.port), quiet=0.5, retry=1.0, host=LOCAL,
        )  # fmt: skip
        listener.start()
        try:
            send(files(studies, "p0"), listener.port)
            wait_for(lambda: listener.spool.status()["done"] == 1)
        finally:
            listener.stop()
    assert len(archive.received) == RESULTS - 1
    assert "left out" in caplog.text


def test_one_that_cannot_be_mapped_or_is_refused_holds_up_nobody(node, studies, monkeypatch):
    """Whatever goes wrong with one series, the next one is mapped and sent."""
    listener, archive = node
    whole, first = Listener._map, str(pydicom.dcmread(files(studies, "p0")[0]).SeriesInstanceUID)

    def broken(self, folder, work):
        if folder.name == first:
            raise ValueError("something that nobody thought of")
        whole(self, folder, work)

    monkeypatch.setattr(Listener, "_map", broken)
    listener.spool.add("1.2.3", "1.2.3.1", b"an image")
    refused = listener.spool.folder("1.2.3")
    with listener.spool.working_copy(refused) as work:
        (work / "results").mkdir()
        shutil.copy(files(studies, "p0")[0], work / "results" / "map.dcm")
        assert listener.spool.mapped(refused, work, work / "results")
    answer = Listener._send
    monkeypatch.setattr(Listener, "_send", lambda self, paths: "1.2.3/" not in str(paths) and answer(self, paths))
    send(files(studies, "p0"), listener.port)
    send(files(studies, "p1"), listener.port)
    wait_for(lambda: listener.spool.status()["done"] == 1 and listener.spool.status()["failed"] == 1)
    assert len(archive.received) == RESULTS
    assert "nobody thought of" in str(listener.spool.status()["reasons"])
    assert listener.spool.state_of("1.2.3") == "results"


def test_slices_that_come_while_a_series_is_mapped_and_sent(node, studies, monkeypatch):
    """One arrives while the series is mapped, one while its results are sent: the last results are of all slices, and
    say that they replace others.
    """
    listener, archive = node
    paths = sorted(files(studies, "p0"), key=lambda path: pydicom.dcmread(path).ImagePositionPatient[2])  # no gaps
    mapping, sending = Listener._map, Listener._send
    late = [paths[9], paths[8]]  # while it is mapped, while it is sent

    def map_meanwhile(self, folder, work):
        if len(late) == 2:
            assert send([late.pop()], listener.port) == [0]
        mapping(self, folder, work)

    def send_meanwhile(self, results):
        if len(late) == 1:
            assert send([late.pop()], listener.port) == [0]
        return sending(self, results)

    monkeypatch.setattr(Listener, "_map", map_meanwhile)
    monkeypatch.setattr(Listener, "_send", send_meanwhile)
    send(paths[:8], listener.port)
    wait_for(lambda: listener.spool.status()["done"] == 1)
    assert not late
    folder = listener.spool.series("done")[0]
    assert len(listener.spool.instances(folder)) == 10
    masks = [one for one in archive.received if one.Modality == "SEG" and len(one.SegmentSequence) == 1]
    sizes = [len(one.ReferencedSeriesSequence[0].ReferencedInstanceSequence) for one in masks]
    assert sizes[0] == 9, "the round that a slice came into was not sent"
    assert sizes[-1] == 10
    assert len(archive.uids) == len(set(archive.uids)) == 2 * RESULTS
    described = [str(one.SeriesDescription) for one in archive.received]
    assert not any(REPLACES in one for one in described[:RESULTS])
    assert all(one.endswith(REPLACES) for one in described[RESULTS:])


def test_the_log_names_a_series_once_and_no_patient(node, studies, caplog):
    caplog.set_level("INFO", logger="flipmap")
    listener, _ = node
    source = pydicom.dcmread(files(studies, "p0")[0])
    send(files(studies, "p0"), listener.port)
    wait_for(lambda: listener.spool.status()["done"] == 1)
    lines = [one.getMessage() for one in caplog.records if str(source.SeriesInstanceUID) in one.getMessage()]
    assert [line.split(": ")[1].split()[0] for line in lines] == ["arrives", "mapped,", str(RESULTS)]
    assert len({line.split(": ")[0] for line in lines}) == 1
    assert lines[0].startswith(f"AX FLAIR, accession {source.AccessionNumber}, UID {source.SeriesInstanceUID}: ")
    assert str(source.PatientName) not in caplog.text


#: Of a node: all but the last end by SIGKILL. `make acceptance` has twenty.
TURNS = 4


@pytest.mark.slow
def test_killed_at_any_moment_nothing_is_lost_or_doubled(studies, tmp_path):
    """The real command, SIGKILL again and again while slices come one by one and ``--status`` is asked; at the end the
    archive has the results of all slices, each once.
    """
    port, spool = free_port(), tmp_path / "spool"
    with Receiver(free_port()) as archive:
        command = [sys.executable, "-m", "bundle.cli", "listen", "--spool", spool, "--port", str(port)]
        command += ["--host", LOCAL, "--allow", f"ARCHIVE@{LOCAL}", "--send-to", f"ARCHIVE@{LOCAL}:{archive.port}"]
        command += ["--quiet", "0.5", "--retry", "1", "--set", "precision=float32"]
        moments = np.random.RandomState(1)
        paths = files(studies, "p0") + files(studies, "p1")
        acknowledged = 0
        for turn in range(TURNS):
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ
            )
            try:
                wait_for(lambda: reached(port))
                ending = time.monotonic() + moments.uniform(1.0, 4.0)
                while acknowledged < len(paths) and (turn == TURNS - 1 or time.monotonic() < ending):
                    some = paths[acknowledged : acknowledged + moments.randint(1, 5)]
                    acknowledged += sum(status == 0 for status in send(some, port) or [])
                    look = Spool(spool).status(quiet=0.5)
                    assert sum(look[state] for state in STATES) >= bool(acknowledged)
                    time.sleep(moments.uniform(0, 0.8))
                time.sleep(max(0.0, ending - time.monotonic()))
            finally:
                if turn < TURNS - 1:
                    process.send_signal(signal.SIGKILL)
                    process.wait(30)
            kept = {path.stem for path in spool.glob("series/*/instances/*.dcm")}
            known = {
                str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in paths[:acknowledged]
            }
            assert known <= kept
        try:
            wait_for(lambda: Spool(spool).status()["done"] == 2)
            refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            assert refused.returncode == 2
            assert "another flipmap listens" in refused.stderr
        finally:
            process.kill()
            process.wait(30)
        masks = [one for one in archive.received if one.Modality == "SEG" and len(one.SegmentSequence) == 1]
        whole = [one for one in masks if len(one.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 10]
        assert {str(one.PatientID) for one in whole} == {"P0", "P1"}
        assert len({str(one.SOPInstanceUID) for one in whole}) == 2, "a result has one UID, however often it was sent"
    assert main(["listen", "--status", "--spool", str(spool)]) == 0


def reached(port):
    with socket.socket() as one:
        one.settimeout(0.5)
        return one.connect_ex((LOCAL, port)) == 0


def test_usage(tmp_path, capsys):
    assert main(["listen", "--spool", str(tmp_path / "spool")]) == 2
    assert "--send-to" in capsys.readouterr().err
    with pytest.raises(FlipmapError, match="AE@host:port"):
        Peer.of("ARCHIVE@host", with_port=True)
    Spool(tmp_path / "spool").open()
    assert main(["listen", "--status", "--spool", str(tmp_path / "spool")]) == 0
    assert json.loads(capsys.readouterr().out)["incoming"] == 0


LUA = """
function OnStableSeries(series, tags, metadata)
  if tags['Modality'] == 'MR' and string.find(tags['SeriesDescription'] or '', 'FLAIR') then
    RestApiPost('/modalities/flipmap/store', series)
  end
end
"""


@pytest.fixture
def orthanc(tmp_path):
    """A real archive that sends every stable FLAIR series on by a rule of its own: its URL, its port, ours."""
    if shutil.which("Orthanc") is None:
        pytest.skip("no Orthanc on this machine")
    web, dicom, ours = free_port(), free_port(), free_port()
    (tmp_path / "route.lua").write_text(LUA)
    settings = {
        "StorageDirectory": str(tmp_path / "db"), "IndexDirectory": str(tmp_path / "db"), "HttpPort": web,
        "DicomPort": dicom, "DicomAet": "ORTHANC", "AuthenticationEnabled": False, "StableAge": 1,
        "LuaScripts": [str(tmp_path / "route.lua")], "DicomModalities": {"flipmap": ["FLIPMAP", LOCAL, ours]},
        "UnknownSopClassAccepted": True,
    }  # fmt: skip
    (tmp_path / "orthanc.json").write_text(json.dumps(settings))
    with (tmp_path / "orthanc.log").open("w") as log:
        process = subprocess.Popen(["Orthanc", str(tmp_path / "orthanc.json")], stdout=log, stderr=log)
        url = f"http://{LOCAL}:{web}"

        def up():
            try:
                return bool(answer_of(f"{url}/system"))
            except OSError:
                return False

        wait_for(up)
        yield url, dicom, ours
        process.terminate()
        process.wait(30)


def answer_of(url, data=None):
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=30) as answer:
        return json.loads(answer.read())


def test_an_orthanc_sends_by_its_rules_and_gets_the_results(job, studies, orthanc, tmp_path):
    """Two studies at once; all results lie in each of them afterwards, once."""
    url, dicom, ours = orthanc
    listener = Listener(
        job, Spool(tmp_path / "spool"), "FLIPMAP", ours, [Peer("ORTHANC", LOCAL)], Peer("ORTHANC", LOCAL, dicom),
        quiet=1.0, retry=1.0, host=LOCAL,
    )  # fmt: skip
    listener.start()
    try:
        for path in (one for one in sorted(studies.rglob("*")) if one.is_file()):
            answer_of(f"{url}/instances", path.read_bytes())

        def kinds():
            found = {}
            for study in answer_of(f"{url}/studies?expand"):
                series = [answer_of(f"{url}/series/{one}")["MainDicomTags"]["Modality"] for one in study["Series"]]
                found[study["PatientMainDicomTags"]["PatientID"]] = sorted(series)
            return found

        complete = ["MR", *["SEG"] * 3, "SR", "OT", "OT"]  # mask, bands and findings; map and picture
        wait_for(lambda: [len(kinds().get(name, [])) for name in ("P0", "P1")] == [len(complete)] * 2, 60)
        time.sleep(3)  # nothing comes twice, nor is a result sent on as a scan
        found = kinds()
        assert found["P0"] == found["P1"] == sorted(complete)
    finally:
        listener.stop()
