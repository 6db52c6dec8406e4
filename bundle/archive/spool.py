# SPDX-License-Identifier: Apache-2.0
"""Series on disk between arrival and the way back: nothing that was acknowledged is lost, whenever the process ends.

A series has one folder, which never moves while anything of it is needed:

    series/<series>/instances/*.dcm   what was acknowledged
    series/<series>/mapped.json       a round of mapping had all of it
    series/<series>/failed.json       it cannot be mapped, and why; it had all of it
    series/<series>/results/*.dcm     what is to be sent; trusted beside mapped.json alone
    series/<series>/begun             results of an earlier round, or of this one, have begun to be sent
    series/<series>/tries             times that a mapping began and did not end

Its state is what is there:

    state     is                                          next                      by
    incoming  no note, and instances came lately          ready, after a quiet time   time
    ready     no note, and nothing came for a while       mapped or failed            the mapping thread
    results   mapped.json and results                     done, when all are sent     the sending thread
    done      mapped.json, no results                     forgotten after a time      the mapping thread
    failed    failed.json                                 forgotten after a time      the mapping thread

A new instance, in whatever state, removes the notes *before* it is written, so the series waits again with all that
there is of it. Mapping works on links to the instances that it found (`Spool.working_copy`), and its outcome counts
only if no other instance has come meanwhile. So no step but `Spool.forget` removes an instance, and that one only of
series that are done or failed with all they have.

One process owns a spool: it holds the lock of the operating system on ``lock`` from `Spool.open` to `Spool.close`,
and changes of its threads are under one lock in memory. `Spool.status` only reads, and needs neither.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from ..errors import FlipmapError, OutputError
from ..io.files import UNFINISHED, whole_file
from .old_spool import adopt

__all__ = ["INSTANCES", "MOST_TRIES", "STATES", "Outgoing", "Spool"]

STATES = ("incoming", "ready", "results", "done", "failed")
SERIES, INSTANCES, RESULTS = "series", "instances", "results"
MAPPED, FAILED, BEGUN, TRIES = "mapped.json", "failed.json", "begun", "tries"
EACH = "[!.]*.dcm"  # what is being written begins with a dot
WORK = ".mapping_"  # begins the folder of a series that is being mapped
FORGOTTEN = ".forgotten_"  # begins the folder of a series that is being removed
MOST_TRIES = 5  # mappings that may begin and not end, since the last instance came, before a series has failed
HOLD = 10  # times the quiet time, that a series is waited for whose sender broke off


class Outgoing(NamedTuple):
    """Results that are being sent.

    Attributes:
        files: to send.
        round: which round of mapping made them.
    """

    files: list[Path]
    round: tuple[int, int]


class Spool:
    """The series of a DICOM node on disk.

    Args:
        root: folder; made by `open`.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._changing = threading.RLock()
        self._owned = FileLock(self.root / "lock")

    # One owner

    def open(self) -> None:
        """Own the spool, and clear away what a process left that ended in the middle.

        Raises:
            FlipmapError: when another process owns it.
            OutputError: when it cannot be written, or its file system knows no locks.
        """
        try:
            (self.root / SERIES).mkdir(parents=True, exist_ok=True)
            self._owned.acquire(timeout=0)
        except Timeout as error:
            raise FlipmapError(
                self.root, "another flipmap listens with this spool", "Stop it, or give another"
            ) from error
        except NotImplementedError as error:  # filelock's word for a file system without flock
            reason = "a file system that knows no locks"
            raise OutputError(self.root, reason, "Take a folder on another one") from error
        except OSError as error:
            raise _unwritten(self.root, error) from error
        for left in self.root.rglob(f"{UNFINISHED}*"):  # not acknowledged: it will come again
            left.unlink(missing_ok=True)
        for pattern in (f"{WORK}*", f"{FORGOTTEN}*", f"{SERIES}/*/{FORGOTTEN}*"):
            for left in self.root.glob(pattern):
                shutil.rmtree(left)
        for folder in (self.root / SERIES).iterdir():
            for note in (folder / MAPPED, folder / FAILED):
                if note.exists() and read_note(note).get("instances") != len(_stems(folder / INSTANCES)):
                    note.unlink()  # a power cut kept an instance, and lost that its series waits again
        adopt(self.root, self.add, lambda series, count: self._note(self.folder(series) / MAPPED, {"instances": count}))

    def close(self) -> None:
        """Let another process own it."""
        self._owned.release()

    # Arrival

    def add(self, series: str | Path, instance: str, content: bytes) -> None:
        """Keep an instance; on return it is on the disk, and its series waits to be mapped with it.

        One that is there with the same content changes nothing.

        Raises:
            OutputError: when it cannot be written.
        """
        folder = self.folder(series)
        path = folder / INSTANCES / f"{safe_name(instance)}.dcm"
        with self._changing:
            try:
                if path.is_file() and path.read_bytes() == content:
                    return
                self._wait_again(folder)
                with whole_file(path) as temporary:
                    temporary.write_bytes(content)
                    _to_disk(temporary)
                _to_disk(path.parent)
            except OSError as error:
                raise OutputError(
                    path, f"cannot be written ({error.strerror})", "Free space or allow writing"
                ) from error

    @staticmethod
    def _wait_again(folder: Path) -> None:
        """Before an instance comes: ended in between, the series is mapped once more, and that is all."""
        fresh = not (folder / INSTANCES).is_dir()
        (folder / INSTANCES).mkdir(parents=True, exist_ok=True)
        notes = [path for path in (folder / MAPPED, folder / FAILED, folder / TRIES) if path.exists()]
        for path in notes:
            path.unlink()
        if notes or fresh:
            _to_disk(folder)
            _to_disk(folder.parent)

    def hold(self, series: str, quiet: float) -> None:
        """Wait longer for a series whose sender broke off: it may try again."""
        later = time.time() + (HOLD - 1) * quiet
        with self._changing, suppress(FileNotFoundError):
            os.utime(self.folder(series) / INSTANCES, (later, later))

    # Mapping

    def ready(self, quiet: float) -> list[Path]:
        """Folders of series that wait and that nothing has come for in so many seconds.

        Those whose mapping was begun least often come first, so that one at which the process ends stops no other;
        then the oldest.
        """
        with self._changing:
            waiting = [path for path in self.series("incoming") if time.time() - _age(path) >= quiet]
        return sorted(waiting, key=lambda path: (self.tries(path), _age(path)))

    @contextmanager
    def working_copy(self, folder: Path) -> Iterator[Path]:
        """A folder with links to the instances of a series as they are now, in ``instances``; gone at the end.

        Raises:
            OutputError: when it cannot be made.
        """
        try:
            work = Path(tempfile.mkdtemp(dir=self.root, prefix=WORK))
        except OSError as error:
            raise OutputError(
                self.root, f"cannot be written ({error.strerror})", "Free space or allow writing"
            ) from error
        try:
            with self._changing:
                self._note(folder / TRIES, {"tries": self.tries(folder) + 1})
                (work / INSTANCES).mkdir()
                for path in (folder / INSTANCES).glob(EACH):
                    link_or_copy(path, work / INSTANCES / path.name)
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def mapped(self, folder: Path, work: Path, results: Path) -> bool:
        """Take the results of a series, if they are of all there is of it.

        Args:
            folder: of the series.
            work: from `working_copy`.
            results: folder of the files to send.

        Returns:
            False when instances have come that the results know nothing of: the series waits with them.

        Raises:
            OutputError: when they cannot be written.
        """
        with self._changing:
            if not self._is_all(folder, work):
                return False
            try:
                shutil.rmtree(folder / RESULTS, ignore_errors=True)  # of an earlier round: they count no more
                os.rename(results, folder / RESULTS)
            except OSError as error:
                raise _unwritten(folder, error) from error
            self._note(folder / MAPPED, self._all(folder))
            (folder / TRIES).unlink(missing_ok=True)
            return True

    def fail(self, folder: Path, work: Path | None, reason: str) -> bool:
        """A series cannot be mapped, and why; False as in `mapped`. Without ``work`` nothing of it was looked at."""
        with self._changing:
            if work is not None and not self._is_all(folder, work):
                return False
            self._note(folder / FAILED, {**self._all(folder), "reason": reason})
            (folder / TRIES).unlink(missing_ok=True)
            return True

    def tries(self, folder: Path) -> int:
        """How often mapping a series began, since its last instance came, without an end."""
        return int(read_note(folder / TRIES).get("tries", 0))

    @staticmethod
    def _all(folder: Path) -> dict:
        return {"instances": len(_stems(folder / INSTANCES))}

    @staticmethod
    def _is_all(folder: Path, work: Path) -> bool:
        """Whether a working copy has every instance of a series as it is now."""
        now, then = folder / INSTANCES, work / INSTANCES
        return _stems(now) == _stems(then) and all(_same(now / one.name, one) for one in then.glob(EACH))

    # The way back

    def to_send(self, folder: Path) -> Outgoing | None:
        """The results of a series, which begin to be sent now; None when more of it has come meanwhile."""
        with self._changing:
            if self.state_of(folder) != "results":
                return None
            (folder / BEGUN).touch()
            return Outgoing(sorted((folder / RESULTS).rglob(EACH)), self._round(folder))

    def was_sent(self, folder: Path) -> bool:
        """Whether results of a series have begun to be sent: what is sent from now on replaces them."""
        return (folder / BEGUN).exists()

    def sent(self, folder: Path, outgoing: Outgoing) -> None:
        """These results have arrived where they were sent to."""
        with self._changing:
            if self.state_of(folder) == "results" and self._round(folder) == outgoing.round:
                gone = folder / f"{FORGOTTEN}{RESULTS}"
                shutil.rmtree(gone, ignore_errors=True)
                os.rename(folder / RESULTS, gone)  # at once: half of them would be sent again
                shutil.rmtree(gone, ignore_errors=True)

    @staticmethod
    def _round(folder: Path) -> tuple[int, int]:
        """Which round of mapping a series has seen: two rounds have files of the same names."""
        note = (folder / MAPPED).stat()
        return note.st_ino, note.st_mtime_ns

    def forget(self, keep: float, keep_failed: float) -> list[str]:
        """Remove series that have been done, or failed, for so many seconds; their names."""
        names = []
        for state, note, seconds in (("done", MAPPED, keep), ("failed", FAILED, keep_failed)):
            for folder in self.series(state):
                with self._changing, suppress(FileNotFoundError):
                    old = time.time() - (folder / note).stat().st_mtime >= seconds
                    if old and self.state_of(folder) == state:
                        gone = self.root / f"{FORGOTTEN}{folder.name}"
                        os.rename(folder, gone)
                        shutil.rmtree(gone, ignore_errors=True)
                        names.append(folder.name)
        return names

    # Looking

    def folder(self, series: str | Path) -> Path:
        """Of a series, by its UID; a folder is that of its series."""
        return series if isinstance(series, Path) else self.root / SERIES / safe_name(series)

    def state_of(self, series: str | Path) -> str | None:
        """Of a series, by its UID or folder; None for one that is not known. One that waits is ``incoming``, however
        long.
        """
        folder = self.folder(series)
        if (folder / FAILED).exists():
            return "failed"
        if (folder / MAPPED).exists():
            return "results" if (folder / RESULTS).is_dir() else "done"
        return "incoming" if any((folder / INSTANCES).glob(EACH)) else None

    def series(self, state: str) -> list[Path]:
        """Folders in a state, the oldest first; `ready` says which of the ``incoming`` ones are complete."""
        if not (self.root / SERIES).is_dir():
            return []
        folders = (path for path in (self.root / SERIES).iterdir() if self.state_of(path) == state)
        return sorted(folders, key=_age)

    def instances(self, series: str | Path) -> set[str]:
        """Names of the instances of a series."""
        return _stems(self.folder(series) / INSTANCES)

    def status(self, quiet: float = 10.0) -> dict[str, object]:
        """How many series are in each state, and why those that failed did. Reads only: another process may own it.

        Args:
            quiet: seconds after which a series that waits is ready.
        """
        counts: dict[str, object] = {state: len(self.series(state)) for state in STATES if state != "ready"}
        waiting = self.series("incoming")
        counts["ready"] = sum(time.time() - _age(path) >= quiet for path in waiting)
        counts["incoming"] = len(waiting) - int(str(counts["ready"]))
        counts["reasons"] = {path.name: read_note(path / FAILED).get("reason", "") for path in self.series("failed")}
        return {state: counts[state] for state in (*STATES, "reasons")}

    @staticmethod
    def _note(path: Path, content: dict) -> None:
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")
            _to_disk(temporary)


def read_note(path: Path) -> dict:
    """A note of a series; empty without one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def link_or_copy(source: Path, target: Path) -> None:
    """A second name of a file, or a copy where the file system knows no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def safe_name(uid: str) -> str:
    """As a name of a file: UIDs are digits and dots, whatever else came is hashed."""
    plain = all(letter in "0123456789." for letter in uid) and 0 < len(uid) <= 64 and uid.strip(".") == uid
    return uid if plain else f"x{hashlib.sha256(uid.encode()).hexdigest()[:32]}"


def _unwritten(path: Path, error: OSError) -> OutputError:
    return OutputError(path, f"cannot be written ({error.strerror})", "Free space or allow writing")


def _stems(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob(EACH)}


def _same(one: Path, other: Path) -> bool:
    """Whether two names are one file, or a copy of it: an instance that came again with other content is another."""
    with suppress(FileNotFoundError):
        return one.samefile(other) or one.stat().st_mtime_ns == other.stat().st_mtime_ns
    return False


def _age(folder: Path) -> float:
    """When something last came for a series."""
    with suppress(FileNotFoundError):
        return (folder / INSTANCES).stat().st_mtime
    return 0.0


def _to_disk(path: Path) -> None:
    """Through the caches of the operating system; Windows does so with folders by itself, and refuses to be asked."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
