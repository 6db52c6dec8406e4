# SPDX-License-Identifier: Apache-2.0
"""Files that appear whole, or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import OutputError

__all__ = ["UNFINISHED", "whole_file"]

UNFINISHED = ".unfinished_"  # what an interrupted run may leave begins with this


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A temporary name beside ``path`` to write to; at the end of the block it becomes ``path``, at an error it goes.

    Folders are made as needed. The temporary name ends as ``path`` does, for libraries that go by the suffix.

    Raises:
        OutputError: when the file cannot be written (disk full, no permission).
    """
    path = Path(path)
    # Named before it is made: an interrupt between making and naming a file would leave it behind.
    temporary = path.with_name(f"{UNFINISHED}{uuid.uuid4().hex[:12]}{''.join(path.suffixes[-2:])}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OutputError(path, f"cannot be written ({reason})", "Free space or allow writing") from error
    finally:
        with suppress(OSError):  # never made, or its folder was not: what matters has been raised
            temporary.unlink()
