# SPDX-License-Identifier: Apache-2.0
"""One row a patient, and the patients that a figure shows: chosen by rank, never by eye."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from .metrics import Pooled
from .protocol import RAW, MethodScores, dice

__all__ = ["chosen_cases", "group_rows", "patient_rows", "write_rows"]


def patient_rows(kept: Mapping[str, MethodScores], method: str, threshold: float) -> list[dict]:
    """Figures of each patient with a lesion, the best first.

    Args:
        kept: of all methods over the same patients, the raw intensity among them.
        method: the one that is looked at.
        threshold: score, for the Dice.

    Returns:
        dictionaries of ``name``, ``lesion_ml``, ``contrast`` (median intensity of the lesion over that of the brain),
        ``auprc``, ``best_dice``, ``dice``; of the map as it is saved, zero outside the brain.
    """
    rows = []
    one, raw = kept[method], kept[RAW]
    for number, name in enumerate(one.names):
        lesion, brain = one.lesions[number], one.brain[number]
        if not lesion.any():
            continue
        scores = np.where(brain, one.scores[number], 0)
        intensity = raw.scores[number]
        rows.append(
            {
                "name": name,
                "lesion_ml": one.lesion_ml[number],
                "contrast": float(np.median(intensity[lesion]) / np.median(intensity[brain & ~lesion])),
                **Pooled.of([scores], [lesion]).figures(),
                "dice": dice(scores >= threshold, lesion),
            }
        )
    return sorted(rows, key=lambda row: -row["auprc"])


def group_rows(kept: MethodScores, group_of: Callable[[str], str]) -> list[dict]:
    """Figures of each group of patients (a hospital, say), pooled; of the map as it is saved."""
    masked, rows = kept.masked(), []
    names = [group_of(name) for name in kept.names]
    for group in sorted(set(names)):
        members = [number for number, name in enumerate(names) if name == group]
        pooled = Pooled.of([masked[n] for n in members], [kept.lesions[n] for n in members])
        rows.append({"group": group, "patients": len(members), **pooled.figures()})
    return rows


def chosen_cases(rows: Sequence[Mapping]) -> dict[str, str]:
    """What a case stands for → its name: best, median and worst by average precision, and the darkest lesion."""
    named = {"best": rows[0], "median": rows[len(rows) // 2], "worst": rows[-1]}
    named["darkest lesion"] = min(rows, key=lambda row: row["contrast"])
    return {title: row["name"] for title, row in named.items()}


def write_rows(path: Path, rows: Sequence[Mapping]) -> None:
    """CSV, one line a dictionary; a key that a dictionary lacks is an empty cell."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), restval="")
        writer.writeheader()
        writer.writerows({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
