# SPDX-License-Identifier: Apache-2.0
"""Series on disk between arrival and the way back: nothing that was acknowledged is lost, whenever the process ends.

Every series has a folder that is in one state, and states are folders, so that a change of state is one rename:

    incoming/<series>   instances as they arrive
    ready/<series>      complete, to be mapped
    results/<series>    mapped: the files to send, and its instances
    done/<series>       sent: its instances, in case more of it comes, until `Spool.forget`
    failed/<series>     could not be mapped: its instances, and the reason
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path

from ..errors import OutputError
from ..io.files import UNFINISHED, whole_file

__all__ = ["MAPPING", "STATES", "Spool", "read_note", "write_note"]

STATES = ("incoming", "ready", "results", "done", "failed")
NOTE = "note.json"  # in the folder of a series that failed: why
INSTANCES = "instances"  # of a series that has results
MAPPING = ".mapping_"  # begins the folder of a case that is being mapped
HOLD = 10  # times the quiet time, that a series is waited for whose sender broke off
ORDER = ("done", "results", "failed", "ready", "incoming")


class Spool:
    """The folders of `STATES` in one folder.

    Args:
        root: made as needed.

    Raises:
        OutputError: when it cannot be written.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._changing = threading.Lock()
        try:
            for state in STATES:
                (self.root / state).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                root, f"cannot be written ({error.strerror})", "Allow writing, or give another"
            ) from error
        for left in self.root.rglob(f"{UNFINISHED}*"):  # not acknowledged: it will come again
            left.unlink(missing_ok=True)
        for left in self.root.glob(f"{MAPPING}*"):
            shutil.rmtree(left)
        for folder in self.series("ready"):  # mapped, and then the process ended
            if _stems(folder) == _stems(self.root / "results" / folder.name / INSTANCES):
                shutil.rmtree(folder)

    def add(self, series: str, instance: str, content: bytes) -> None:
        """Put an instance where it belongs; on return it is on the disk.

        A new instance of a series that failed, for want of slices perhaps, or that is on its way or done, brings the
        series back with all there is of it. One that is known is the same again and changes nothing.

        Raises:
            OutputError: when it cannot be written.
        """
        name = f"{_safe(instance)}.dcm"
        with self._changing:
            state = self.state_of(series)
            if state not in (None, "incoming"):
                if _safe(instance) in _stems(self._instances(state, series)):
                    return
                self._reopen(state, series)
            folder = self.folder("incoming", series)
            with whole_file(folder / name) as temporary:
                temporary.write_bytes(content)
                _to_disk(temporary)
            _to_disk(folder)

    def state_of(self, series: str) -> str | None:
        """Of a series; None for one that is not known."""
        return next((state for state in ORDER if self.folder(state, series).is_dir()), None)

    def folder(self, state: str, series: str) -> Path:
        """Of a series in a state."""
        return self.root / state / _safe(series)

    def series(self, state: str) -> list[Path]:
        """Folders in a state, the oldest first."""
        return sorted((path for path in (self.root / state).iterdir() if path.is_dir()), key=_change)

    def complete(self, quiet: float) -> list[Path]:
        """Series that nothing has come for in so many seconds are ready; their new folders."""
        moved = []
        for folder in self.series("incoming"):
            with self._changing:
                if any(folder.glob("*.dcm")) and time.time() - _change(folder) >= quiet:
                    moved.append(self._move(folder, "ready"))
        return moved

    def hold(self, series: str, quiet: float) -> None:
        """Wait longer for a series whose sender broke off: it may try again."""
        folder = self.folder("incoming", series)
        with self._changing, suppress(FileNotFoundError):
            later = time.time() + (HOLD - 1) * quiet
            os.utime(folder, (later, later))

    def mapped(self, folder: Path, results: Path) -> None:
        """The results of a series that was ready are to be sent.

        Args:
            folder: of the series, in ``ready``.
            results: folder of the files to send.
        """
        with self._changing:
            # Its instances are linked before the results are seen, so that there is no moment without them.
            (results / INSTANCES).mkdir()
            for path in folder.glob("*.dcm"):
                os.link(path, results / INSTANCES / path.name)
            _replace(results, self.root / "results" / folder.name)
            shutil.rmtree(folder)

    def fail(self, folder: Path, reason: str) -> None:
        """A series could not be mapped, and why."""
        with self._changing:
            write_note(folder, {"reason": reason})
            self._move(folder, "failed")

    def sent(self, folder: Path) -> None:
        """All results of a series have arrived where they were sent to."""
        with self._changing:
            for path in folder.glob("*.dcm"):
                path.unlink()
            self._move(folder, "done")

    def forget(self, keep: float) -> None:
        """Remove series that have been done for so many seconds."""
        with self._changing:
            for folder in self.series("done"):
                if time.time() - _change(folder) >= keep:
                    shutil.rmtree(folder)

    def status(self) -> dict[str, object]:
        """How many series are in each state, and why those that failed did."""
        counts: dict[str, object] = {state: len(self.series(state)) for state in STATES}
        counts["reasons"] = {path.name: read_note(path).get("reason", "") for path in self.series("failed")}
        return counts

    def _instances(self, state: str | None, series: str) -> Path:
        folder = self.folder(state or "incoming", series)
        return folder / INSTANCES if state in ("done", "results") else folder

    def _reopen(self, state: str | None, series: str) -> None:
        """A series that more has come for is to be mapped again, with all there is of it."""
        folder = self.folder(state or "incoming", series)
        (folder / NOTE).unlink(missing_ok=True)
        if state in ("done", "results"):
            _replace(folder / INSTANCES, self.folder("incoming", series))
            shutil.rmtree(folder)
        else:
            self._move(folder, "incoming")

    def _move(self, folder: Path, state: str) -> Path:
        target = self.root / state / folder.name
        os.utime(folder)
        _replace(folder, target)
        return target


def write_note(folder: Path, content: dict) -> None:
    """What is known of a series."""
    with whole_file(folder / NOTE) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


def read_note(folder: Path) -> dict:
    """What `write_note` wrote; empty without one."""
    try:
        return json.loads((folder / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _stems(folder: Path) -> set[str]:
    """Names of the instances in a folder."""
    return {path.stem for path in folder.glob("*.dcm")}


def _replace(source: Path, target: Path) -> None:
    if target.exists():
        shutil.rmtree(target)
    os.rename(source, target)


def _change(folder: Path) -> float:
    with suppress(FileNotFoundError):
        return folder.stat().st_mtime
    return 0.0


def _safe(uid: str) -> str:
    """As a name of a file: UIDs are digits and dots, whatever else came is hashed."""
    plain = all(letter.isdigit() or letter == "." for letter in uid) and 0 < len(uid) <= 64 and uid.strip(".") == uid
    return uid if plain else f"x{hashlib.sha256(uid.encode()).hexdigest()[:32]}"


def _to_disk(path: Path) -> None:
    """Through the caches of the operating system."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
