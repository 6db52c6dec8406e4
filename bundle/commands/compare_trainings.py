# SPDX-License-Identifier: Apache-2.0
"""Variability across training seeds: several weights, each with a calibration of its own, on the same patients.

    for seed in 1 2 3; do
        python -m monai.bundle run --config_file configs/train_denoiser.json --seed $seed --output_dir runs/$seed …
    done
    flipmap lab compare-trainings --weights runs/*/weights.pt --dataset_dir DATASET --output_dir docs/evaluation

Writes ``trainings.csv``: the default, its flips and the smoothed intensity on validation and test patients, a row a
training, with mean and standard deviation over them. Calibrations are kept beside the weights, and not made again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from ..datasets import shipped_split, training_cases
from ..errors import FlipmapError
from ..evaluation.patients import write_rows
from ..evaluation.trainings import BASELINE, ensure_calibration, figures, maps_of

__all__ = ["add_arguments", "run"]


def rows_of(name: str, weights: Path, dataset_dir: str, split: str | None, parts: list[str]) -> list[dict]:
    """A row a part of the split and map."""
    parser = ensure_calibration(weights, weights.parent / "calibration", dataset_dir, split)
    rows = []
    for part in parts:
        maps = maps_of(training_cases(dataset_dir, part, "bids_lesion", split), parser)
        rows += [
            {"training": name, "part": part, "map": title, **figures(patients, title != BASELINE)}
            for title, patients in maps.items()
        ]
    return rows


def summary(rows: list[dict]) -> list[dict]:
    """Mean and standard deviation over the trainings, of each part and map; the intensity knows no training."""
    added = []
    for part, title in dict.fromkeys((row["part"], row["map"]) for row in rows if row["map"] != BASELINE):
        same = [row for row in rows if (row["part"], row["map"]) == (part, title)]
        for name, function in (("mean", np.mean), ("standard deviation", lambda values: np.std(values, ddof=1))):
            values = {key: [row[key] for row in same] for key in same[0] if key not in ("training", "part", "map")}
            counted = {key: float(function(value)) for key, value in values.items()}
            added.append({"training": name, "part": part, "map": title, **counted, "patients": same[0]["patients"]})
    return added


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", type=Path, nargs="+", required=True, help="of two trainings or more")
    parser.add_argument("--dataset_dir", required=True, help="BIDS root with lesion masks")
    parser.add_argument("--split", help="split file; by default that of flipmap, or a hash of names")
    parser.add_argument(
        "--part", nargs="+", default=["validation", "test"], help="of the split (default: validation test)"
    )
    parser.add_argument("--output_dir", type=Path, default=Path(), help="folder of the table (default: this one)")


def run(options: argparse.Namespace) -> None:
    if len(options.weights) < 2:
        raise FlipmapError("--weights", "one training has no spread", "Give the weights of two or more")
    rows, split = [], options.split or shipped_split(options.dataset_dir)
    for number, weights in enumerate(options.weights, 1):
        rows += rows_of(str(number), weights, options.dataset_dir, split, options.part)
    rows += summary(rows)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    write_rows(options.output_dir / "trainings.csv", rows)
    for row in rows:
        print(row)
