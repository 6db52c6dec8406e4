# SPDX-License-Identifier: Apache-2.0
"""Which files of a folder are not mapped though they could be read: no scans by their names, second copies of a scan,
and what nobody has asked for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from .io.volumes import READERS, ending_of
from .names import AGENT, NotAScan, contrast_in_name, entities_of, not_a_scan, stem

__all__ = ["left_out"]

MAPPED_TOO = "Give the file itself to map it, too"
#: Entities of what other pipelines make of a scan.
DERIVED = ("desc", "space", "res", "den", "cohort")


def left_out(files: Sequence[Path], root: Path, asked: Sequence[str]) -> dict[Path, NotAScan]:
    """Files that are not mapped, and why.

    Args:
        files: of volumes, below ``root``.
        root: folder that was given.
        asked: contrasts, see `bundle.cases.find_scans`.
    """
    out = {path: why for path in files if (why := not_a_scan(path.relative_to(root)) or _not_asked_for(path, asked))}
    for copies in (_formats, _echoes, _derivatives):
        groups: dict[tuple[Path, str], dict[Path, int]] = defaultdict(dict)
        for path in files:
            if path not in out:
                name, rank = copies(path)
                groups[path.parent, name][path] = rank
        for group in groups.values():
            first = min(group, key=lambda path: group[path])
            for path, rank in group.items():
                if rank > group[first]:
                    out[path] = NotAScan(f"{WHAT[copies]} {first.name}, which is mapped", MAPPED_TOO)
    return out


def _not_asked_for(path: Path, asked: Sequence[str]) -> NotAScan | None:
    """Scans after a contrast agent."""
    contrast = contrast_in_name(path)
    plain = next((plain for plain, agent in AGENT.items() if agent == contrast), None)
    if plain is None or contrast in asked:
        return None
    reason = f"{plain} after a contrast agent by its name; the weights of {plain} know none"
    return NotAScan(reason, f"To map it all the same: --contrast {plain} --suffix {contrast}")


def _formats(path: Path) -> tuple[str, int]:
    """One scan in several formats: the name that they share, and the order in which they are taken."""
    return stem(path), list(READERS).index(ending_of(path))


def _echoes(path: Path) -> tuple[str, int]:
    """The same of the echoes of one scan: the one that was made of all of them first, then the first echo."""
    echo = entities_of(path).get("echo", "")
    return _without(path, "echo"), int(echo) if echo.isdigit() else 0


def _derivatives(path: Path) -> tuple[str, int]:
    """The same of a scan and of what other pipelines made of it: in its own space before another one."""
    entities = entities_of(path)
    return _without(path, *DERIVED), 2 if "space" in entities else 1 if set(DERIVED) & set(entities) else 0


WHAT: dict[Callable[[Path], tuple[str, int]], str] = {
    _formats: "the same scan in another file as",
    _echoes: "a further echo of",
    _derivatives: "what another pipeline made of",
}


def _without(path: Path, *keys: str) -> str:
    """A name without some entities."""
    return "_".join(part for part in stem(path).split("_") if part.partition("-")[0] not in keys or "-" not in part)
