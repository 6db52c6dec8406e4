# SPDX-License-Identifier: Apache-2.0
"""The map of the rooms in the docs is that of the imports, and no room is reached from itself."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

from tests.conftest import ROOT

PACKAGE = ROOT / "bundle"
ROW = re.compile(r"^\| `([\w/]+)` \| [^|]+ \| ([^|]+) \|$", re.MULTILINE)


def room_of(parts):
    """The innermost folder of the package that a module lies in; empty for files beside the folders."""
    for length in range(len(parts), 0, -1):
        if (PACKAGE.joinpath(*parts[:length]) / "__init__.py").is_file():
            return "/".join(parts[:length])
    return ""


def imported(path):
    """Parts of the names that a file imports from the package, however it does."""
    folder = path.relative_to(PACKAGE).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = folder[: len(folder) - node.level + 1] + tuple((node.module or "").split(".") if node.module else ())
            yield from ((*base, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "bundle":
            yield from ((*node.module.split(".")[1:], alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (tuple(a.name.split(".")[1:]) for a in node.names if a.name.split(".")[0] == "bundle")


def uses():
    found = {}
    for path in PACKAGE.rglob("*.py"):
        own = room_of(path.relative_to(PACKAGE).parts[:-1])
        if own:
            others = {room_of(parts) for parts in imported(path)} - {own, ""}
            found[own] = found.get(own, set()) | others
    return found


def test_the_page_has_every_room_and_what_it_uses():
    page = (ROOT / "docs" / "rooms.md").read_text(encoding="utf-8")
    written = {name: set(re.findall(r"`([\w/]+)`", others)) for name, others in ROW.findall(page)}
    assert written == uses()


def test_there_is_no_circle():
    order = list(TopologicalSorter(uses()).static_order())
    assert set(order) == {
        room_of(path.relative_to(PACKAGE).parts) for path in Path(PACKAGE).rglob("*") if path.is_dir()
    } - {""}
