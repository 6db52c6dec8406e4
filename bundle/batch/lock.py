# SPDX-License-Identifier: Apache-2.0
"""One run at a time in an output folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import OutputError
from ..io.files import UNFINISHED

__all__ = ["locked"]

NAME, HOLDER = ".flipmap.lock", ".flipmap.pid"


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Hold the output folder, which is made as needed; what a killed run left unfinished in it is cleared away.

    The lock is the operating system's: it goes with the process, however that ends.

    Raises:
        OutputError: when another run holds it, or the folder cannot be written.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = FileLock(output / NAME)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise OutputError(output, f"another run ({_holder(output)}) writes there", "Wait for it to end") from error
    except NotImplementedError as error:
        raise OutputError(output, "a file system that knows no locks", "Take a folder on another one") from error
    except OSError as error:
        raise OutputError(output, f"cannot be written ({error.strerror})", "Allow writing, or take another") from error
    try:
        (output / HOLDER).write_text(str(os.getpid()))
        for left in output.rglob(f"{UNFINISHED}*"):
            left.unlink(missing_ok=True)
        yield
    finally:
        with suppress(OSError):
            (output / HOLDER).unlink()
        lock.release()


def _holder(output: Path) -> str:
    """Who holds the lock, as far as is known. Its own file: a locked file cannot be read on Windows."""
    try:
        return f"process {int((output / HOLDER).read_text())}"
    except (OSError, ValueError):
        return "a process"
