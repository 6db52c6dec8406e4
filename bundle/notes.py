# SPDX-License-Identifier: Apache-2.0
"""What a reader of a map has to know of its scan, in words: it travels in the scan's meta data, and ends in the sidecar
and in ``batch.csv``.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

__all__ = ["NOTES", "add_note", "notes_of"]

NOTES = "notes"  # key of the meta data; text, not a list, since loaders put meta data of a batch together


def add_note(meta: MutableMapping, text: str) -> None:
    """One more sentence, once."""
    known = notes_of(meta)
    if text not in known:
        meta[NOTES] = f"{known} {text}".strip()


def notes_of(meta: Mapping) -> str:
    """All of them; empty where there is nothing to say."""
    return str(meta.get(NOTES, ""))
