# SPDX-License-Identifier: Apache-2.0
"""The spool of the DICOM node: whatever comes, and whenever the process ends, nothing acknowledged is lost."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from bundle.archive import spool as spool_module
from bundle.archive.spool import BEGUN, INSTANCES, MAPPED, STATES, Spool
from bundle.errors import FlipmapError, OutputError
from tests.conftest import ROOT

SERIES = st.sampled_from(["1.2.1", "1.2.2", "not a UID"])
INSTANCE = st.integers(0, 5)
CONTENT = st.sampled_from([b"one", b"other"])


class Killed(BaseException):
    """The process ends here: nothing of its own is tidied up."""


class Mortal:
    """Ends the process before the so-many-th change of the disk from now on."""

    CHANGES = ((os, "rename"), (os, "replace"), (os, "link"), (shutil, "rmtree"), (Path, "unlink"), (Path, "mkdir"))

    def __init__(self, patch, changes):
        self.left = changes
        for owner, name in self.CHANGES:
            patch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, change):
        def counted(*args, **kwargs):
            self.left -= 1
            if self.left < 0:
                raise Killed
            return change(*args, **kwargs)

        return counted


class SeriesOfEveryKind(RuleBasedStateMachine):
    """Arrivals, mappings and sendings that overlap in every way, with the process ending in the middle of any."""

    def __init__(self):
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="flipmap-spool-"))
        self.acknowledged = {}  # series → instance → content
        self.settled = {}  # series → instances that were sent, or failed, when it was forgotten
        self.sent = {}  # series → content of the results that the archive has
        self.begin()

    def begin(self):
        self.spool = Spool(self.root)
        self.spool.open()
        self.mapping, self.sending = None, None

    def die(self):
        """As SIGKILL does it: the lock is free, all else stays as it is."""
        if self.mapping:
            self.mapping[0].pop_all()  # its clearing up is not run
        self.spool.close()
        self.begin()

    def teardown(self):
        self.spool.close()
        shutil.rmtree(self.root, ignore_errors=True)

    def mortal(self, changes, step):
        """A step during which the process may end; whether it lived."""
        with pytest.MonkeyPatch.context() as patch:
            Mortal(patch, changes)
            try:
                step()
                return True
            except Killed:
                pass
        self.die()
        return False

    @rule(series=SERIES, instance=INSTANCE, content=CONTENT, changes=st.integers(0, 30))
    def arrive(self, series, instance, content, changes):
        if self.mortal(changes, lambda: self.spool.add(series, str(instance), content)):
            self.acknowledged.setdefault(series, {})[instance] = content
        elif instance in self.acknowledged.get(series, {}):  # either of the two is there now, and it will come again
            self.acknowledged[series][instance] = None

    @precondition(lambda self: self.mapping is None)
    @rule(changes=st.integers(0, 30))
    def begin_mapping(self, changes):
        for folder in self.spool.ready(0)[:1]:
            stack = ExitStack()
            state = {}

            def begin(folder=folder, stack=stack, state=state):
                state["work"] = stack.enter_context(self.spool.working_copy(folder))

            if self.mortal(changes, begin):
                self.mapping = (stack, folder, state["work"])

    @precondition(lambda self: self.mapping is not None)
    @rule(good=st.booleans(), changes=st.integers(0, 30))
    def end_mapping(self, good, changes):
        stack, folder, work = self.mapping
        (work / "results").mkdir()
        mapped = {path.stem: path.read_text() for path in (work / INSTANCES).glob("*.dcm")}
        (work / "results" / "map.dcm").write_text(json.dumps(mapped))

        def end():
            if good:
                self.spool.mapped(folder, work, work / "results")
            else:
                self.spool.fail(folder, work, "why")

        if self.mortal(changes, end):
            stack.close()
            self.mapping = None

    @precondition(lambda self: self.sending is None)
    @rule()
    def begin_sending(self):
        for folder in self.spool.series("results")[:1]:
            outgoing = self.spool.to_send(folder)
            self.sending = (folder, outgoing, [path.read_text() for path in outgoing.files])

    @precondition(lambda self: self.sending is not None)
    @rule(changes=st.integers(0, 10))
    def end_sending(self, changes):
        folder, outgoing, contents = self.sending
        self.sent.setdefault(folder.name, []).extend(contents)
        self.sending = None
        self.mortal(changes, lambda: self.spool.sent(folder, outgoing))

    @rule()
    def sender_breaks_off(self):
        self.spool.hold("1.2.1", 0.0)

    @rule(changes=st.integers(0, 30))
    def forget(self, changes):
        """Only what is done, or failed, with all there is of it."""
        before = {name: self.spool.state_of(name) for name in self.acknowledged}
        self.mortal(changes, lambda: self.spool.forget(0, 0))
        for name, state in before.items():
            if self.spool.state_of(name) is None and self.acknowledged[name]:
                assert state in ("done", "failed"), (name, state)
                if state == "done":
                    self.has_sent(name)
                self.acknowledged[name] = {}

    @rule()
    def killed(self):
        self.die()

    @rule()
    def somebody_looks(self):
        status = Spool(self.root).status(quiet=0)
        # More may be there: an instance that was kept, and then the process ended.
        assert sum(status[state] for state in STATES) >= sum(bool(known) for known in self.acknowledged.values())

    @rule()
    def a_second_node_is_refused(self):
        with pytest.raises(FlipmapError, match="another flipmap listens"):
            Spool(self.root).open()

    @invariant()
    def nothing_is_lost(self):
        for name, known in self.acknowledged.items():
            folder = self.spool.folder(name) / INSTANCES
            for instance, content in known.items():
                path = folder / f"{spool_module.safe_name(str(instance))}.dcm"
                assert path.is_file(), (name, instance, self.spool.state_of(name))
                assert content is None or path.read_bytes() == content

    @invariant()
    def what_is_done_was_sent_with_all_of_it(self):
        for name, known in self.acknowledged.items():
            if known and self.spool.state_of(name) == "done":
                self.has_sent(name)

    def has_sent(self, name):
        folder = self.spool.folder(name)
        known = {str(key): value for key, value in self.acknowledged[name].items() if value is not None}
        sent = [json.loads(one) for one in self.sent.get(folder.name, [])]
        stems = {spool_module.safe_name(key): value.decode() for key, value in known.items()}
        assert any(stems.items() <= one.items() for one in sent), (name, stems, sent)


def test_nothing_is_lost_whatever_comes_and_whenever_it_ends():
    """FLIPMAP_SPOOL_STEPS raises the number of steps; 10 000 were run."""
    steps = int(os.environ.get("FLIPMAP_SPOOL_STEPS", "1500"))
    run_state_machine_as_test(
        SeriesOfEveryKind,
        settings=settings(
            max_examples=max(1, steps // 50),
            stateful_step_count=50,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.fixture
def spool(tmp_path):
    one = Spool(tmp_path / "spool")
    one.open()
    yield one
    one.close()


def map_it(spool, folder, content=b"map"):
    """A round of mapping, without pictures; whether it counted."""
    with spool.working_copy(folder) as work:
        (work / "results").mkdir()
        (work / "results" / "map.dcm").write_bytes(content)
        return spool.mapped(folder, work, work / "results")


def test_an_instance_that_comes_while_its_series_is_mapped_is_mapped_with_the_next_round(spool):
    spool.add("1.2", "1.2.1", b"one")
    (folder,) = spool.ready(0)
    with spool.working_copy(folder) as work:
        spool.add("1.2", "1.2.2", b"two")
        assert [path.name for path in (work / INSTANCES).iterdir()] == ["1.2.1.dcm"], "what is mapped stays as it was"
        (work / "results").mkdir()
        assert not spool.mapped(folder, work, work / "results")
    assert spool.state_of("1.2") == "incoming"
    assert spool.instances("1.2") == {"1.2.1", "1.2.2"}


def test_a_failure_does_not_count_either_when_more_has_come(spool):
    spool.add("1.2", "1.2.1", b"one")
    (folder,) = spool.ready(0)
    with spool.working_copy(folder) as work:
        spool.add("1.2", "1.2.2", b"two")
        assert not spool.fail(folder, work, "one slice alone")
    assert spool.state_of("1.2") == "incoming"
    with spool.working_copy(folder) as work:
        assert spool.fail(folder, work, "no image")
    assert spool.status()["reasons"] == {"1.2": "no image"}
    spool.add("1.2", "1.2.3", b"three")
    assert spool.state_of("1.2") == "incoming"


def test_late_instances_bring_a_series_back_with_all_of_it(spool):
    spool.add("1.2", "1.2.1", b"one")
    (folder,) = spool.ready(0)
    assert map_it(spool, folder)
    spool.add("1.2", "1.2.1", b"one")
    assert spool.status()["results"] == 1, "known"
    spool.sent(folder, spool.to_send(folder))
    assert spool.status()["done"] == 1
    spool.add("1.2", "1.2.2", b"two")
    assert spool.status()["done"] == 0
    assert spool.ready(0) == [folder]
    assert spool.instances("1.2") == {"1.2.1", "1.2.2"}
    assert spool.was_sent(folder), "what is sent next replaces what the archive has"


def test_an_answer_to_old_results_is_none_to_new_ones(spool):
    """While the first results are sent, more comes and is mapped; the second results are sent all the same."""
    spool.add("1.2", "1.2.1", b"one")
    (folder,) = spool.ready(0)
    map_it(spool, folder)
    first = spool.to_send(folder)
    spool.add("1.2", "1.2.2", b"two")
    assert spool.to_send(folder) is None
    map_it(spool, folder, b"a better map")
    spool.sent(folder, first)
    assert spool.state_of("1.2") == "results"
    second = spool.to_send(folder)
    assert second.files[0].read_bytes() == b"a better map"
    spool.sent(folder, second)
    assert spool.state_of("1.2") == "done"


def test_other_content_of_a_known_instance_counts(spool):
    spool.add("1.2", "1.2.1", b"one")
    (folder,) = spool.ready(0)
    with spool.working_copy(folder) as work:
        spool.add("1.2", "1.2.1", b"one, mended")
        (work / "results").mkdir()
        assert not spool.mapped(folder, work, work / "results")


def test_what_is_done_or_failed_is_forgotten_in_time(spool):
    for series in ("1.1", "1.2", "1.3"):
        spool.add(series, f"{series}.1", b"one")
    map_it(spool, spool.folder("1.1"))
    spool.sent(spool.folder("1.1"), spool.to_send(spool.folder("1.1")))
    spool.fail(spool.folder("1.2"), None, "why")
    assert spool.forget(3600, 3600) == []
    assert spool.forget(3600, 0) == ["1.2"]
    assert spool.forget(0, 0) == ["1.1"]
    assert spool.state_of("1.3") == "incoming", "what waits is kept"


def test_a_look_changes_nothing_and_a_second_node_is_refused(spool):
    work = spool.root / f"{spool_module.WORK}abc"
    work.mkdir()
    spool.add("1.2", "1.2.1", b"one")
    half = spool.folder("1.2") / INSTANCES / f"{spool_module.UNFINISHED}1.dcm"
    half.write_bytes(b"half")
    command = [sys.executable, "-m", "bundle.cli", "listen", "--spool", str(spool.root)]
    answer = subprocess.run([*command, "--status"], cwd=ROOT, capture_output=True, text=True, check=True)
    status = json.loads(answer.stdout)
    assert status["incoming"] + status["ready"] == 1
    assert work.is_dir()
    assert half.exists()
    with pytest.raises(FlipmapError, match="another flipmap listens"):
        Spool(spool.root).open()


def test_a_status_of_no_spool_is_an_error(tmp_path):
    command = [sys.executable, "-m", "bundle.cli", "listen", "--status", "--spool", str(tmp_path / "spoool")]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert "no such folder" in answer.stderr
    assert not (tmp_path / "spoool").exists()


def test_one_at_which_the_process_ends_holds_up_nobody(tmp_path):
    spool = Spool(tmp_path)
    spool.open()
    for series in ("1.1", "1.2"):
        spool.add(series, f"{series}.1", b"one")
    for _ in range(3):
        first = spool.ready(0)[0]
        suppressed = spool.working_copy(spool.folder("1.1"))
        suppressed.__enter__()
        spool.close()  # and ends
        spool = Spool(tmp_path)
        spool.open()
    assert first == spool.folder("1.2")
    assert spool.tries(spool.folder("1.1")) == 3
    assert not list(tmp_path.glob(f"{spool_module.WORK}*"))
    spool.close()


@pytest.mark.parametrize("method", ["write_bytes", "unlink"])
def test_a_full_disk_is_an_error_and_nothing_half_written(spool, monkeypatch, method):
    spool.add("1.2", "1.2.1", b"one")
    map_it(spool, spool.folder("1.2"))

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, method, full)
        with pytest.raises(OutputError, match="No space left"):
            spool.add("1.2", "1.2.2", b"two")
    assert spool.instances("1.2") == {"1.2.1"}


def test_a_spool_of_an_earlier_version_is_taken_over(tmp_path):
    """Before 0.18.0 a state was a folder: incoming, ready, results, done, failed."""
    kept = {"results": "instances", "done": "instances"}  # beside what was to be sent
    for state in ("incoming", "ready", "failed", "results", "done"):
        folder = tmp_path / state / f"1.{len(state)}" / kept.get(state, "")
        folder.mkdir(parents=True)
        (folder / "1.1.dcm").write_bytes(state.encode())
        (folder / "1.2.dcm").write_bytes(state.encode())
    (tmp_path / "results" / "1.7" / "map.dcm").write_bytes(b"map")
    spool = Spool(tmp_path)
    spool.open()
    assert spool.status()["done"] == 1
    assert len(spool.series("incoming")) == 4
    assert {path.name for path in (tmp_path / "series").iterdir()} == {"1.8", "1.5", "1.6", "1.7", "1.4"}
    assert all(len(list((path / INSTANCES).iterdir())) == 2 for path in (tmp_path / "series").iterdir())
    assert not (tmp_path / "incoming").exists()
    spool.close()


def test_a_note_that_knows_of_fewer_instances_does_not_count(tmp_path):
    """After a power cut a file system may have kept the instance and lost that its series waits again."""
    spool = Spool(tmp_path)
    spool.open()
    spool.add("1.2", "1.2.1", b"one")
    map_it(spool, spool.folder("1.2"))
    (spool.folder("1.2") / INSTANCES / "1.2.2.dcm").write_bytes(b"two")
    spool.close()
    spool.open()
    assert spool.state_of("1.2") == "incoming"
    with suppress(FileNotFoundError):
        assert not (spool.folder("1.2") / MAPPED).exists()
    assert not (spool.folder("1.2") / BEGUN).exists()
    spool.close()
