# SPDX-License-Identifier: Apache-2.0
"""Tables of the protocol over whole images (`bundle.evaluation.images`)."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence, Sized
from pathlib import Path

__all__ = ["write_images", "write_tables"]


def write_images(path: Path, scored: Sequence[dict]) -> None:
    """A row an image: name, subject, kind, and the score of each method."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "subject", "kind", *scored[0]["score"]])
        for image in scored:
            values = [f"{value:.4g}" for value in image["score"].values()]
            writer.writerow([image["name"], image["subject"], image["kind"], *values])


def write_tables(folder: Path, rows: Mapping[str, Mapping], groups: Mapping[str, Sized]) -> None:
    """``table.csv`` with every figure, ``table.md`` with the intervals beside them.

    Args:
        folder: of the tables.
        rows: name → figures.
        groups: kind → patients.
    """
    keys = list(dict.fromkeys(key for row in rows.values() for key in row))
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["method", *keys])
        for name, row in rows.items():
            cells = (row.get(key, "") for key in keys)
            writer.writerow([name, *("–".join(f"{c:.4g}" for c in v) if isinstance(v, tuple) else v for v in cells)])
    shown = [key for key in keys if not key.endswith("_interval")]
    lines = [
        ", ".join(f"{len(v)} patients {kind}" for kind, v in groups.items()) + ". Intervals: 95 %, patient bootstrap.",
        "",
        "| method | " + " | ".join(key.replace("_", " ") for key in shown) + " |",
        "|---" * (len(shown) + 1) + "|",
    ]
    for name, row in rows.items():
        lines.append(f"| {name} | " + " | ".join(_cell(row, key) for key in shown) + " |")
    (folder / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _cell(row: Mapping, key: str) -> str:
    if key not in row:
        return ""
    if f"{key}_interval" in row:
        low, high = row[f"{key}_interval"]
        return f"{row[key]:.3f} ({low:.3f}–{high:.3f})"
    return f"{row[key]:.2%}" if "_rate_" in key else f"{row[key]:.3f}"
