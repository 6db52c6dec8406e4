# SPDX-License-Identifier: Apache-2.0
"""Spools of versions before 0.18.0, where a state was a folder: what they had acknowledged is taken over."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

__all__ = ["adopt"]

OLD_STATES = ("incoming", "ready", "results", "failed")


def adopt(root: Path, add: Callable[[Path, str, bytes], None], done: Callable[[Path, int], None]) -> None:
    """Bring the series of an old spool into the new form; done ones stay done, all others are mapped (again).

    Args:
        root: of the spool.
        add: keeps an instance of the series of a folder (`bundle.archive.spool.Spool.add`).
        done: says that a series is done with so many instances.

    Raises:
        OutputError: when an instance cannot be written; the old folders stay then.
    """
    waiting = set()
    for folder in [one for state in OLD_STATES for one in sorted((root / state).glob("*"))]:
        waiting.add(folder.name)
        _take_over(folder, root, add)
    for folder in sorted((root / "done").glob("*")):
        count = _take_over(folder, root, add)
        if folder.name not in waiting:
            done(root / "series" / folder.name, count)
    for state in (*OLD_STATES, "done"):
        shutil.rmtree(root / state, ignore_errors=True)


def _take_over(folder: Path, root: Path, add: Callable[[Path, str, bytes], None]) -> int:
    """The instances of a series; where there were results they lay in a folder of their own."""
    instances = sorted((folder / "instances").glob("*.dcm")) or sorted(folder.glob("*.dcm"))
    for path in instances:
        add(root / "series" / folder.name, path.stem, path.read_bytes())
    return len(instances)
