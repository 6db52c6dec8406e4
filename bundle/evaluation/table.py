# SPDX-License-Identifier: Apache-2.0
"""The table of the protocol, as CSV for machines and Markdown for people."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer

from ..datasets import training_cases
from ..report.figures import CasePanel, save_cases, save_curves
from ..scoring.calibration import Calibration
from .calibrate import PERCENTILE
from .metrics import Pooled
from .patients import chosen_cases, group_rows, patient_rows, write_rows
from .protocol import RATES, RAW, RAW_SMOOTHED, SIZES, MethodScores, evaluate, run_methods
from .rows import load_rows, seen_methods
from .scores import prepare, score_case

__all__ = ["benchmark", "benchmark_rows"]

logger = logging.getLogger(__name__)

#: Columns for people: title → how a row says it.
COLUMNS: dict[str, Callable[[Mapping], str]] = {
    "AUPRC, whole head": lambda r: _interval(r, "auprc_head"),
    "best Dice, whole head": lambda r: _interval(r, "best_dice_head"),
    "AUPRC, whole head, map masked": lambda r: _interval(r, "auprc_masked"),
    "best Dice, whole head, map masked": lambda r: _interval(r, "best_dice_masked"),
    "AUPRC, brain": lambda r: _interval(r, "auprc_brain"),
    "best Dice, brain": lambda r: _interval(r, "best_dice_brain"),
    "Dice at 1 %": lambda r: f"{r['dice_at_0.01']:.3f}",
    "FPR reached": lambda r: f"{r['reached_rate_0.01']:.2%}",
    "Dice at 0.1 %": lambda r: f"{r['dice_at_0.001']:.3f}",
    "FPR reached ": lambda r: f"{r['reached_rate_0.001']:.2%}",
    "Dice a volume at 1 %": lambda r: f"{r['volume_dice_at_0.01_mean']:.3f} ± {r['volume_dice_at_0.01_sd']:.3f}",
    "small / medium / large": lambda r: " / ".join(f"{r[f'volume_dice_at_0.01_{s}']:.2f}" for s in SIZES),
    "slice AUROC": lambda r: f"{r['slice_auroc']:.3f}",
    "s a volume": lambda r: f"{r['seconds']:.1f}",
}


#: Patients that the network has seen in training, and the methods whose healthy scores count on them all the same:
#: those that ask no network, and those that take such patients with a calibration of their own (`Fused.with_entries`).
Seen = tuple[Sequence[dict], Mapping[str, Inferer]]


def benchmark_rows(
    rows: Mapping[str, Mapping],
    seen: Sequence[str],
    dataset_dir: str | Path,
    output_dir: str | Path,
    split: str | Path | None,
    layout: str = "bids_lesion",
    part: str = "test",
    group_of: Callable[[str], str] | None = None,
    **settings: Any,
) -> dict[str, dict]:
    """The protocol over the rows of a config.

    Args:
        rows: see `bundle.evaluation.rows.load_rows`; the last one is looked at patient by patient.
        seen: names of rows whose thresholds also count patients who trained, see `Seen`.
        dataset_dir, split, layout: where the patients are.
        output_dir: folder of the tables.
        part: of the split that is tested.
        group_of: name of a case → its hospital.
        settings: ids that all rows share.

    Returns:
        row name → figures.
    """
    jobs = load_rows(rows, **settings)
    first = next(iter(jobs.values()))
    tested, others, trained = (
        training_cases(dataset_dir, one, layout, split) for one in (part, "validation", "training")
    )
    return benchmark(
        tested,
        others,
        {name: job.inferer for name, job in jobs.items()},
        first.network,
        first.preprocessing,
        first.device,
        output_dir,
        group_of,
        {name: job.network for name, job in jobs.items()},
        PERCENTILE,
        (trained, seen_methods(jobs, list(seen))),
    )


def benchmark(
    cases: Sequence[dict],
    healthy_cases: Sequence[dict],
    methods: Mapping[str, Inferer],
    network: torch.nn.Module,
    preprocessing: Callable,
    device: torch.device,
    output_dir: str | Path,
    group_of: Callable[[str], str] | None = None,
    others: Mapping[str, torch.nn.Module] | None = None,
    percentile: float | None = None,
    seen: Seen = ((), {}),
) -> dict[str, dict]:
    """Run the protocol and write ``table.csv`` (every figure), ``table.md`` (the main ones), ``curves.png``
    (precision and recall), and, for the last of the methods, ``patients.csv`` and ``cases.png``.

    Args:
        cases: test cases with labels.
        healthy_cases: other patients, whose healthy slices set the thresholds.
        methods: name → inferer.
        network, preprocessing, device: as in the main job.
        output_dir: folder of the tables.
        group_of: name of a case → its hospital; adds ``groups.csv`` with the last method's figures of each.
        others: name → network, for methods that ask one of their own.
        percentile: of the thresholds, see `Calibration.fit`.
        seen: patients beside ``healthy_cases``, see `Seen`.

    Returns:
        row name → figures.
    """
    healthy = run_methods(healthy_cases, methods, network, preprocessing, device, others)
    healthy = _with_training_patients(healthy, seen, network, preprocessing, device, others)
    kept = run_methods(cases, methods, network, preprocessing, device, others)
    known = {name: Calibration.fit(scores.healthy, percentile=percentile) for name, scores in healthy.items()}
    rows = {}
    for name, scores in kept.items():
        rows[name] = evaluate(scores, {rate: known[name].threshold(rate) for rate in RATES})
        figures = [rows[name][f"auprc_{place}"] for place in ("head", "masked", "brain")]
        logger.info("%s: AUPRC %.3f whole head, %.3f masked, %.3f brain", name, *figures)
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    _write_csv(output_dir / "table.csv", rows)
    (output_dir / "table.md").write_text(
        _markdown(rows, len(cases), len(healthy_cases), seen, percentile), encoding="utf-8"
    )
    save_curves(output_dir / "curves.png", {n: Pooled.of(k.masked(), k.lesions).curve() for n, k in kept.items()})
    last = list(methods)[-1]
    patients = patient_rows(kept, last, known[last].threshold(RATES[0]))
    write_rows(output_dir / "patients.csv", patients)
    if group_of:
        write_rows(output_dir / "groups.csv", group_rows(kept[last], group_of))
    panels = []
    for title, name in chosen_cases(patients).items():
        case = prepare(next(c for c in cases if c["name"] == name), preprocessing)
        raw = score_case(case, methods[last], (others or {}).get(last, network), preprocessing, device).scores
        panels.append(CasePanel(title, case.intensity, case.lesion, np.where(case.brain, known[last](raw), 0)))
    save_cases(output_dir / "cases.png", panels)
    return rows


def _rows_of(seen: Seen) -> list[str]:
    return [RAW, RAW_SMOOTHED, *seen[1]]


def _with_training_patients(
    kept: dict[str, MethodScores],
    seen: Seen,
    network: torch.nn.Module,
    preprocessing: Callable,
    device: torch.device,
    others: Mapping[str, torch.nn.Module] | None,
) -> dict[str, MethodScores]:
    """What was kept of each method, with the healthy voxels of the patients that the network has seen."""
    if seen[0]:
        for name, more in run_methods(*seen, network, preprocessing, device, others).items():
            kept[name].healthy += more.healthy
            kept[name].depths += more.depths
    return kept


def _interval(row: Mapping, key: str) -> str:
    low, high = row[f"{key}_interval"]
    return f"{row[key]:.3f} ({low:.3f}–{high:.3f})"


def _write_csv(path: Path, rows: Mapping[str, Mapping]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        for number, (name, row) in enumerate(rows.items()):
            flat: dict[str, object] = {}
            for key, value in row.items():
                flat |= {f"{key}_low": value[0], f"{key}_high": value[1]} if isinstance(value, tuple) else {key: value}
            if number == 0:
                writer.writerow(["method", *flat])
            writer.writerow([name, *(f"{value:.6g}" for value in flat.values())])


def _markdown(rows: Mapping[str, Mapping], patients: int, healthy: int, seen: Seen, percentile: float | None) -> str:
    sure = f", at the {100 * percentile:g}th percentile of a bootstrap over them" if percentile else ""
    more = f" (those of {', '.join(_rows_of(seen))}: of {healthy + len(seen[0])})" if seen[0] else ""
    lines = [
        f"{patients} test patients; thresholds from the tumour-free slices of {healthy} others{more}{sure}; 95 % "
        "intervals by patient bootstrap. Best Dice is an upper bound: its threshold is chosen on the labels.",
        "",
        "| method | " + " | ".join(COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    lines += [f"| {name} | " + " | ".join(cell(row) for cell in COLUMNS.values()) + " |" for name, row in rows.items()]
    return "\n".join(lines) + "\n"
