# SPDX-License-Identifier: Apache-2.0
"""Runs that share an output folder, on one machine or several: a case belongs to one run, until that run has gone.

A case is claimed by a lock of the operating system (filelock), which ends with the process that holds it, however that
ends. Beside the lock lies a file that names the run, for messages alone. Every run holds a lock of its own as well, so
that what was left half written is cleared away when no other run lives whose it may be.
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import OutputError
from ..io.files import UNFINISHED

__all__ = ["FOLDER", "Claims", "Elsewhere"]

FOLDER = ".flipmap"
LOCK = ".lock"  # ends the name of a lock
PATIENCE = 300.0  # seconds to wait while another run begins and clears away what dead ones left
#: What a system call says of a file system without locks.
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}


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
        self._lock = _lock(self.runs / f"{self.run}{LOCK}")
        self._held: dict[str, FileLock] = {}

    def __enter__(self) -> Claims:
        with self._explained():
            self.runs.mkdir(parents=True, exist_ok=True)
            self.claims.mkdir(exist_ok=True)
            with self._alone():
                self._lock.acquire(timeout=0)
                self._clear()
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._held):
            self.release(name)
        _remove(self._lock)

    def clear(self) -> None:
        """Remove what runs left that were killed, unless another run lives, whose it may be.

        Raises:
            OutputError: see `Claims`.
        """
        with self._explained(), self._alone():
            self._clear()

    def take(self, name: str) -> None:
        """Claim a case.

        Raises:
            Elsewhere: when a run that lives has it.
            OutputError: see `Claims`.
        """
        claim = self._claim_of(name)
        lock = _lock(claim.with_name(claim.name + LOCK))
        with self._explained():
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise Elsewhere(_text(claim) or "one that has just begun") from None
            self._held[name] = lock
            claim.write_text(self.run, encoding="utf-8")

    def release(self, name: str) -> None:
        """Give a case back."""
        if (lock := self._held.pop(name, None)) is not None:
            with suppress(OSError):
                self._claim_of(name).unlink(missing_ok=True)
            _remove(lock)

    def _clear(self) -> None:
        """The same as `clear`, alone."""
        if any([not self._forget(path) for path in self.runs.glob(f"*{LOCK}") if path.stem != self.run]):
            return
        for left in self.output.rglob(f"{UNFINISHED}*"):
            left.unlink(missing_ok=True)
        for path in self.claims.glob(f"*{LOCK}"):
            self._forget(path)
        for claim in self.claims.iterdir():  # of a run that died before it had the lock, or of an older version
            if not claim.with_name(claim.name + LOCK).exists() and claim.suffix != LOCK:
                claim.unlink(missing_ok=True)

    def _forget(self, path: Path) -> bool:
        """Remove a lock, and what it guards, unless it is held; returns whether it was not."""
        lock = _lock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        path.with_suffix("").unlink(missing_ok=True)
        _remove(lock)
        return True

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other run begins or clears away meanwhile."""
        lock = _lock(self.output / FOLDER / f"begin{LOCK}")
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout:
            reason = f"another run has been about to begin in it for {PATIENCE:g} s"
            raise OutputError(self.output, reason, "End that run, or take another folder") from None
        try:
            yield
        finally:
            _remove(lock)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What the file system refuses, as one error that says what to do."""
        try:
            yield
        except OSError as error:
            if error.errno in NO_LOCKS:
                reason, remedy = "a file system that knows no locks", "Take a folder on another one"
            else:
                reason, remedy = f"cannot be written ({error.strerror})", "Allow writing, or take another"
            raise OutputError(self.output, reason, remedy) from error

    def _claim_of(self, name: str) -> Path:
        return self.claims / hashlib.sha256(name.encode()).hexdigest()[:24]


def _lock(path: Path) -> FileLock:
    """A lock that threads pass on, and that nothing else stands in for where there are no locks."""
    return FileLock(path, thread_local=False, fallback_to_soft=False)


def _remove(lock: FileLock) -> None:
    """Give a lock back and remove its file: first, where that can be, so that nobody waits for a file that has gone."""
    if lock.is_locked:
        with suppress(OSError):  # Windows removes no file that is open
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
