# SPDX-License-Identifier: Apache-2.0
"""The benchmark of places: the same maps on scans of several hospitals, scanners, ages and diseases, a row a set.

A method that is tuned to one place shows here. What compares over places is the mean of log(AUPRC / AUPRC of the
intensity in the same mask), since a set of faint or small lesions has low figures for every method.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..cases import find_scans, lesion_cases
from ..datasets import training_cases
from ..errors import FlipmapError
from ..modalities import modality_of
from ..pipeline.job import Job
from ..report.figures import CasePanel, save_cases
from .lesion_figures import SIZES_ML, LesionFigures
from .metrics import Pooled
from .patients import write_rows
from .protocol import RATES, MethodScores, dice
from .rows import load_rows
from .scores import Prepared, prepare, score_case

__all__ = ["against", "benchmark_places", "place_rows"]

logger = logging.getLogger(__name__)

PICTURED = ("scan", "brain", None)


def benchmark_places(
    places: Mapping[str, Mapping],
    rows: Mapping[str, Mapping],
    output_dir: str | Path,
    modality: str = "flair",
    name: str = "places",
    **settings: Any,
) -> list[dict]:
    """Run every row on every set; write a table, CSV and Markdown, and pictures of best, median and worst case.

    Args:
        places: name → ``dataset_dir`` (BIDS with lesion masks, or without any: then all is healthy); where not all of
            it is asked, ``split`` and ``part``; and ``pictured``: ``scan`` where the licence lets slices be shown,
            ``brain`` for maps over the brain mask alone, and without it no picture.
        rows: see `bundle.evaluation.rows.load_rows`; the first one is what the others are compared with, the last one
            is pictured.
        output_dir: folder of the tables.
        modality: a brain contrast, whose scans are taken.
        name: of the table.
        settings: ids that all rows share.

    Returns:
        a dictionary a set and row.

    Raises:
        FlipmapError: on a picture of something else, or as `load_rows` does.
    """
    for place, where in places.items():
        if where.get("pictured") not in PICTURED:
            raise FlipmapError(place, f"no picture of {where['pictured']!r}", "Give scan or brain, or leave it out")
    jobs, folder = load_rows(rows, modality, **settings), Path(output_dir)
    suffix = modality_of(modality).suffix or ""
    folder.mkdir(parents=True, exist_ok=True)
    table: list[dict] = []
    for place, where in places.items():
        pictured = where.get("pictured")
        cases = _cases(suffix, **{key: value for key, value in where.items() if key != "pictured"})
        kept, lesions, panels = _score(cases, jobs, pictured)
        table += place_rows(place, kept, lesions, jobs)
        for row in table[-len(jobs) :]:
            logger.info("%s", row)
        if panels:
            save_cases(folder / f"{place.replace(' ', '_')}.png", panels)
    write_rows(folder / f"{name}.csv", table)
    (folder / f"{name}.md").write_text(_markdown(table, list(rows)), encoding="utf-8")
    (folder / f"{name}_lesions.md").write_text(_lesions_markdown(table, list(rows)), encoding="utf-8")
    return table


def _cases(suffix: str, dataset_dir: str | Path, split: str | None = None, part: str = "test") -> list[dict]:
    if split:
        return training_cases(dataset_dir, part, "bids_lesion", split, suffix)
    has_masks = (Path(dataset_dir) / "derivatives" / "lesion").is_dir()
    return lesion_cases(dataset_dir, suffix) if has_masks else find_scans(dataset_dir, suffix)


def _score(
    cases: Sequence[dict], jobs: Mapping[str, Job], pictured: str | None
) -> tuple[dict[str, MethodScores], dict[str, LesionFigures], list[CasePanel]]:
    """Calibrated maps of every row, what they say of lesions, and the cases of the last row by rank."""
    first, kept = next(iter(jobs.values())), {name: MethodScores() for name in jobs}
    values_at = {rate: -np.log10(rate) for rate in RATES}
    lesions = {name: LesionFigures({} if job.uncalibrated else values_at) for name, job in jobs.items()}
    last, ranked = list(jobs)[-1], []
    for case in cases:
        prepared = prepare(case, first.preprocessing)
        for name, job in jobs.items():
            result = score_case(prepared, job.inferer, job.network, first.preprocessing, job.device)
            values = job.calibrated(result.scores)
            kept[name].add(prepared, values, result.seconds)
            saved = np.where(prepared.brain, values, 0)
            lesions[name].add(saved, prepared.lesion, prepared.head, prepared.voxel_ml)
            if pictured and name == last and prepared.lesion.any():
                ranked.append((_average_precision(values, prepared), prepared, saved))
    ranked.sort(key=lambda one: -one[0])
    chosen = {"best": 0, "median": len(ranked) // 2, "worst": -1} if ranked else {}
    panels = []
    for title, number in chosen.items():
        _, shown, values = ranked[number]
        panels.append(CasePanel(title, shown.intensity if pictured == "scan" else shown.brain, shown.lesion, values))
    return kept, lesions, panels


def _average_precision(values: np.ndarray, case: Prepared) -> float:
    return Pooled.of([values[case.brain]], [case.lesion[case.brain]]).figures()["auprc"]


def place_rows(
    place: str, kept: Mapping[str, MethodScores], lesions: Mapping[str, LesionFigures], jobs: Mapping[str, Job]
) -> list[dict]:
    """Figures of the rows on one set, of the map as it is saved, zero outside the brain; those at a threshold for
    rows with a calibration alone.
    """
    rows = []
    for name, job in jobs.items():
        one = kept[name]
        masked = one.masked()
        row: dict[str, object] = {"place": place, "method": name, "scans": len(one.names)}
        diseased = [n for n, lesion in enumerate(one.lesions) if lesion.any()]
        if diseased:
            row["auprc"] = Pooled.of([masked[n] for n in diseased], [one.lesions[n] for n in diseased]).figures()[
                "auprc"
            ]
            row["auprc_of_scans"] = float(
                np.mean([Pooled.of([masked[n]], [one.lesions[n]]).figures()["auprc"] for n in diseased])
            )
        for rate in RATES:
            threshold = -np.log10(rate)
            found = np.concatenate(masked) >= threshold
            known = not job.uncalibrated
            row[f"dice_at_{rate:g}"] = dice(found, np.concatenate(one.lesions)) if diseased and known else ""
            row[f"reached_rate_{rate:g}"] = float((np.concatenate(one.healthy) >= threshold).mean()) if known else ""
            for size in SIZES_ML:
                row[f"marked_{size}_at_{rate:g}"] = ""
        row |= lesions[name].figures()
        rows.append({**dict.fromkeys(("auprc", "auprc_of_scans"), ""), **row})
    return rows


def _percent(value: object) -> str:
    return "" if value == "" else f"{value:.2%}"


def against(table: Sequence[Mapping], name: str, key: str = "auprc") -> float:
    """Mean over places of log(figure / that of the first row)."""
    ratios = []
    for place in dict.fromkeys(row["place"] for row in table):
        rows = {row["method"]: row for row in table if row["place"] == place}
        if rows[name][key] != "":
            ratios.append(np.log(rows[name][key] / next(iter(rows.values()))[key]))
    return float(np.mean(ratios))


def _markdown(table: Sequence[Mapping], names: Sequence[str]) -> str:
    places = list(dict.fromkeys(row["place"] for row in table))
    diseased = [place for place in places if any(row["place"] == place and row["auprc"] != "" for row in table)]
    lines = [
        "AUPRC, pooled over voxels / mean over scans, of the map as it is saved, and the false-positive rates that the "
        "values 2 (promised: 1 %) and 3 (0.1 %) reach in healthy slices. Last column: mean over places of the ratio to "
        f"{names[0]} in the same mask, pooled / mean over scans.",
        "",
        "| method | " + " | ".join([*diseased, *(f"{place}, rates" for place in places), f"times {names[0]}"]) + " |",
        "|---" * (len(diseased) + len(places) + 2) + "|",
    ]
    for name in names:
        rows = {row["place"]: row for row in table if row["method"] == name}
        cells = [f"{rows[place]['auprc']:.3f} / {rows[place]['auprc_of_scans']:.3f}" for place in diseased]
        cells += [" / ".join(_percent(rows[place][f"reached_rate_{rate:g}"]) for rate in RATES) for place in places]
        cells.append(" / ".join(f"{np.exp(against(table, name, key)):.2f}" for key in ("auprc", "auprc_of_scans")))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _lesions_markdown(table: Sequence[Mapping], names: Sequence[str]) -> str:
    """How much of lesions of each size is marked, and the figure that the literature gives."""
    places = [place for place in dict.fromkeys(row["place"] for row in table) if _lesions_of(table, place)]
    lines = [
        "Share of a lesion that the value 2 marks, the mean over lesions of less than 0.1 ml / up to 1 ml / more; then "
        "the best Dice of the slice with most lesion of each scan, its threshold chosen on the labels.",
        "",
        "| method | " + " | ".join([*places, *(f"{place}, largest slice" for place in places)]) + " |",
        "|---" * (2 * len(places) + 1) + "|",
        "| *lesions* | " + " | ".join([*(_lesions_of(table, place) for place in places), *[""] * len(places)]) + " |",
    ]
    for name in names:
        rows = {row["place"]: row for row in table if row["method"] == name}
        cells = [" / ".join(_share(rows[place][f"marked_{size}_at_0.01"]) for size in SIZES_ML) for place in places]
        cells += [f"{rows[place]['largest_slice_best_dice']:.3f}" for place in places]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _lesions_of(table: Sequence[Mapping], place: str) -> str:
    """Numbers of lesions of each size in a set; nothing where it has none."""
    row = next(row for row in table if row["place"] == place)
    counts = [row[f"lesions_{size}"] for size in SIZES_ML]
    return " / ".join(map(str, counts)) if any(counts) else ""


def _share(value: object) -> str:
    return "–" if value == "" else f"{value:.2f}"
