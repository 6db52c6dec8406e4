# SPDX-License-Identifier: Apache-2.0
"""Whether there is anything in a file: data sets of DataLad, git-annex and Git LFS come as names without content."""

from __future__ import annotations

from pathlib import Path

from ..errors import ScanError

__all__ = ["check_content", "is_file"]

POINTER_BYTES = 32_768  # a pointer of git-annex is not larger
ANNEX = (b"/annex/objects/", b".git/annex/objects/")  # in a pointer, or in the target of a link
LFS = b"version https://git-lfs.github.com/spec/"
NOT_HERE = "its content is not on this machine"
GET = "Get it with: datalad get {name}"


def is_file(path: Path) -> bool:
    """Whether it is a file, or a link that leads nowhere: that is a file, too, whose content is missing."""
    return path.is_file() or (path.is_symlink() and not path.exists())


def check_content(path: Path) -> None:
    """See that a file has content of its own.

    Raises:
        ScanError: when there is no such file, or it is a link or a pointer whose content is elsewhere.
    """
    if path.is_symlink() and not path.exists():
        target = path.readlink().as_posix()
        remedy = GET.format(name=path.name) if b"annex/objects/" in target.encode() else "Copy what it leads to"
        raise ScanError(path, f"a link to {target}: {NOT_HERE}", remedy)
    if not path.is_file():
        raise ScanError(path, "no such file", "Check the path")
    if path.stat().st_size > POINTER_BYTES:
        return
    with path.open("rb") as file:
        begin = file.readline(POINTER_BYTES)
    if begin.startswith(LFS):
        raise ScanError(path, f"a pointer of Git LFS: {NOT_HERE}", "Get it with git lfs pull")
    if begin.startswith(ANNEX[0]) or (ANNEX[1] in begin and begin.lstrip(b"./").startswith(b"git/annex/")):
        raise ScanError(path, f"a pointer of git-annex: {NOT_HERE}", GET.format(name=path.name))
