# SPDX-License-Identifier: Apache-2.0
"""Which percentile of the bootstrap sets thresholds: from few patients, held against others, again and again.

The intensity is no network's, so that every patient but those of the test is one that it never saw: 14 of them, or 46,
set a threshold, 21 others say what becomes of it.

    flipmap lab choose-percentile --dataset_dir DATASET --output_dir docs/evaluation

Writes ``percentile.csv``: for each rate that is promised and each percentile of `Calibration.fit`, how often the rate
reached is at most twice, and at least half, of what was promised.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from monai.bundle import ConfigParser
from tqdm import tqdm

from ..datasets import shipped_split, training_cases
from ..evaluation.patients import write_rows
from ..evaluation.protocol import RATES, run_methods
from ..methods.intensity import Intensity
from ..paths import bundle_root
from ..scoring.calibration import Calibration

__all__ = ["add_arguments", "run"]

CONFIGS = Path(bundle_root()) / "configs"
SETTING, TESTED = (14, 46), 21  # patients: those that train nothing, and what 67 leave beside those of the test
PERCENTILES = (None, 0.7, 0.8, 0.9)
METHODS = {"intensity": Intensity(), "intensity, smoothed": Intensity(smoothing=2.0, across=0.7)}


def healthy_scores(dataset_dir: str, every: int) -> dict[str, list[np.ndarray]]:
    """Method → scores of each patient's healthy brain, every n-th voxel; patients without a healthy slice left out."""
    parser = ConfigParser()
    parser.read_config(CONFIGS / "inference.json")
    parser["bundle_root"] = bundle_root()
    parts = [parser.get_parsed_content(key) for key in ("network", "preprocessing", "device")]
    split = shipped_split(dataset_dir)
    cases = [c for part in ("training", "validation") for c in training_cases(dataset_dir, part, "bids_lesion", split)]
    kept = run_methods(cases, METHODS, *parts)
    return {name: [one[::every] for one in kept[name].healthy if one.size] for name in METHODS}


def reached(scores: list[np.ndarray], setters: int, draws: int) -> dict[tuple[float, float | None], np.ndarray]:
    """(rate, percentile) → the rate reached over the one promised, once a draw of ``setters`` and of others."""
    rng = np.random.RandomState(0)
    ratios: dict[tuple[float, float | None], list[float]] = {(r, sure): [] for r in RATES for sure in PERCENTILES}
    for _ in tqdm(range(draws), disable=None):
        order = rng.permutation(len(scores))
        setting, tested = ([scores[n] for n in some] for some in np.split(order[: setters + TESTED], [setters]))
        others = np.concatenate(tested)
        for sure in PERCENTILES:
            calibration = Calibration.fit(setting, percentile=sure)
            for rate in RATES:
                ratios[rate, sure].append((others >= calibration.threshold(rate)).mean() / rate)
    return {key: np.array(values) for key, values in ratios.items()}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset_dir", required=True, help="BIDS root with lesion masks")
    parser.add_argument("--output_dir", type=Path, default=Path(), help="folder of the table (default: this one)")
    parser.add_argument("--draws", type=int, default=300, help="of patients (default: %(default)s)")
    parser.add_argument("--every", type=int, default=10, help="take every n-th voxel")


def run(options: argparse.Namespace) -> None:
    rows = []
    for name, scores in healthy_scores(options.dataset_dir, options.every).items():
        kinds = ((n, key, ratio) for n in SETTING for key, ratio in reached(scores, n, options.draws).items())
        for setters, (rate, sure), ratio in kinds:
            row = {
                "method": name,
                "patients that set": setters,
                "promised": rate,
                "percentile": sure or "none",
                "patients": len(scores),
                "median of reached over promised": float(np.median(ratio)),
                "at most twice": float((ratio <= 2).mean()),
                "within a factor of 2": float(((ratio <= 2) & (ratio >= 0.5)).mean()),
            }
            rows.append(row)
            print(*row.values(), flush=True)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    write_rows(options.output_dir / "percentile.csv", rows)
