"""One run at a time in an output folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import OutputError
from ..io.files import UNFINISHED

__all__ = ["locked"]

NAME = ".flipmap.lock"


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Hold the output folder, which is made as needed; what a killed run left unfinished in it is cleared away.

    The lock is the operating system's: it goes with the process, however that ends.

    Raises:
        OutputError: when another run holds it, or the folder cannot be written.
    """
    import fcntl

    try:
        output.mkdir(parents=True, exist_ok=True)
        file = (output / NAME).open("a+")
    except OSError as error:
        raise OutputError(output, f"cannot be written ({error.strerror})", "Allow writing, or take another") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise OutputError(output, f"another run (process {holder}) writes there", "Wait for it to end") from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        for left in output.rglob(f"{UNFINISHED}*"):
            left.unlink(missing_ok=True)
        yield
