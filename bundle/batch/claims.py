# SPDX-License-Identifier: Apache-2.0
"""Runs that share an output folder, on one machine or several: a case belongs to one run, until that run has gone.

Every run holds a lock of the operating system as long as it lives, however it ends. A claim is a file that names the
run that works on a case; it is made by an operation that only one can win, and is taken over when the lock of its run
is free.
"""

from __future__ import annotations

import hashlib
import os
import socket
import time
import uuid
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import OutputError
from ..io.files import UNFINISHED

__all__ = ["Claims", "Elsewhere"]

FOLDER = ".flipmap"
LOOKED_AT = 30.0  # seconds to wait for a lock of one's own, which another run may hold for a moment to see who lives
#: Seconds after which a claim that names nobody is taken for what a run left that died while it wrote it.
UNNAMED = 10.0


class Elsewhere(Exception):
    """Another run works on a case.

    Args:
        run: which: machine and process.
    """

    def __init__(self, run: str) -> None:
        self.run = run
        super().__init__(run)


class Claims:
    """The claims of one run. As a context it says that the run lives; at its end all that it holds is given back.

    Args:
        output: folder of the results; made as needed.

    Raises:
        OutputError: on entering, when the folder cannot be written, or its file system knows no locks.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.runs, self.claims = output / FOLDER / "runs", output / FOLDER / "claims"
        self.run = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._lock = self._lock_of(self.run)
        self._held: set[str] = set()

    def __enter__(self) -> Claims:
        try:
            self.runs.mkdir(parents=True, exist_ok=True)
            self.claims.mkdir(exist_ok=True)
            self._live()
        except NotImplementedError as error:  # filelock's word for a file system without flock
            raise OutputError(
                self.output, "a file system that knows no locks", "Take a folder on another one"
            ) from error
        except OSError as error:
            reason = f"cannot be written ({error.strerror})"
            raise OutputError(self.output, reason, "Allow writing, or take another") from error
        self.clear()
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._held):
            self.release(name)
        self._lock.release()
        with suppress(OSError):
            (self.runs / f"{self.run}.lock").unlink(missing_ok=True)

    def _live(self) -> None:
        """Hold the lock of a file that is there: another run may have looked at it just before, and cleared it away."""
        self._lock.acquire(timeout=LOOKED_AT, poll_interval=0.01)
        while not (self.runs / f"{self.run}.lock").exists():
            self._lock.release()
            self._lock.acquire(timeout=LOOKED_AT, poll_interval=0.01)

    def clear(self) -> None:
        """Remove what runs left that were killed, unless another run lives, whose it may be."""
        if self._others():
            return
        for left in self.output.rglob(f"{UNFINISHED}*"):
            left.unlink(missing_ok=True)
        for claim in self.claims.iterdir():
            with suppress(FileNotFoundError, Elsewhere):
                self._take_over(claim)

    def take(self, name: str) -> None:
        """Claim a case.

        Raises:
            Elsewhere: when a run that lives has it.
        """
        claim = self._claim_of(name)
        while True:
            try:
                self._make(claim)
            except FileExistsError:
                self._take_over(claim)
                continue
            self._held.add(name)
            return

    def _make(self, claim: Path) -> None:
        """Write a claim, with its content at once where the file system knows links.

        Raises:
            FileExistsError: when there is one.
        """
        ours = claim.with_name(f"{claim.name}.{self.run}.new")
        ours.write_text(self.run, encoding="utf-8")
        try:
            os.link(ours, claim)
        except FileExistsError:
            raise
        except OSError:
            with os.fdopen(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY), "w", encoding="utf-8") as file:
                file.write(self.run)
        finally:
            ours.unlink()

    def release(self, name: str) -> None:
        """Give a case back."""
        if name in self._held:
            self._held.discard(name)
            self._claim_of(name).unlink(missing_ok=True)

    def _take_over(self, claim: Path) -> None:
        """Remove a claim of a run that has gone.

        Raises:
            Elsewhere: when it lives.
        """
        try:
            run = claim.read_text(encoding="utf-8")
            if run and self._lives(run):
                raise Elsewhere(run)
            if not run and time.time() - claim.stat().st_mtime < UNNAMED:
                raise Elsewhere("one that has just begun")
            gone = claim.with_name(f"{claim.name}.{self.run}")
            claim.rename(gone)  # one of several that want it wins; then it is made anew
            gone.unlink()
        except FileNotFoundError:
            return  # given back meanwhile, or another has won

    def _others(self) -> bool:
        """Whether other runs live; locks of those that have gone are cleared away."""
        others = [path.stem for path in self.runs.glob("*.lock") if path.stem != self.run]
        return any([self._lives(run) for run in others])

    def _lives(self, run: str) -> bool:
        if run == self.run:
            return True
        if not (self.runs / f"{run}.lock").exists():
            return False
        lock = self._lock_of(run)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        with suppress(OSError):
            (self.runs / f"{run}.lock").unlink(missing_ok=True)
        return False

    def _lock_of(self, run: str) -> FileLock:
        return FileLock(self.runs / f"{run}.lock", thread_local=False)

    def _claim_of(self, name: str) -> Path:
        return self.claims / hashlib.sha256(name.encode()).hexdigest()[:24]
