# SPDX-License-Identifier: Apache-2.0
"""How well the maps fit a hospital that trained, calibrated and set nothing: a training for each that is held out.

Autoencoder and denoiser are trained from nothing on the patients of the other hospitals, by the recipes of the
repository, and once on those of all. Every run takes the same number of steps, far fewer than the weights of the
repository had: compare these figures with each other, not with the table of the evaluation.

    flipmap lab leave-site-out --dataset_dir DATASET --runs runs/hospitals --output_dir docs/evaluation

Writes ``hospitals.csv``. Runs are resumed, and finished ones kept: give the same ``--runs`` again. ``--only CS`` makes
one of them and leaves the table to a later call, so that several can be made side by side.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import monai.bundle

from ..datasets import hospital_of, read_split, training_cases
from ..evaluation.patients import write_rows
from ..evaluation.trainings import BASELINE, Patient, ensure_calibration, figures, maps_of
from ..paths import bundle_root

__all__ = ["NOBODY", "SPLIT", "add_arguments", "report", "run", "split_without"]

CONFIGS = Path(bundle_root()) / "configs"
SPLIT = CONFIGS / "splits" / "lgg_flair.json"
NOBODY = "none"  # is held out: the run that all others are compared with
EPOCH = 100  # steps of what the recipes call an epoch, whatever the number of slices


def split_without(hospital: str, folder: Path) -> Path:
    """Write the split of the repository with the training and validation patients of a hospital taken out."""
    parts = read_split(SPLIT)
    kept = {part: [s for s in subjects if hospital_of(s) != hospital] for part, subjects in parts.items()}
    tested = [s for s in parts["test"] if hospital in (NOBODY, hospital_of(s))]
    path = folder / "split.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"subjects": {**kept, "test": tested}}))
    return path


def train(hospital: str, dataset_dir: str, folder: Path, epochs: dict[str, int]) -> None:
    """Autoencoder, denoiser and calibration without a hospital; what is finished already is not done again."""
    split = str(split_without(hospital, folder))
    weights = {part: str(folder / part / "weights.pt") for part in epochs}
    for part, count in epochs.items():
        done = folder / part / "finished"
        if done.exists():
            continue
        overrides: dict[str, Any] = {"train#trainer#epoch_length": EPOCH}
        if part == "denoiser":
            overrides["autoencoder_weights"] = weights["autoencoder"]
        monai.bundle.run(
            config_file=str(CONFIGS / f"train_{part}.json"),
            bundle_root=bundle_root(),
            dataset_dir=dataset_dir,
            split=split,
            output_dir=str(folder / part),
            max_epochs=count,
            val_interval=count,
            **overrides,
        )
        done.touch()
    ensure_calibration(weights["denoiser"], folder, dataset_dir, split)


def score(hospital: str, dataset_dir: str, folder: Path) -> dict[str, list[Patient]]:
    """Maps of a run, of the test patients of the hospital that it never saw, or of all."""
    split = split_without(hospital, folder)
    cases = training_cases(dataset_dir, "test", "bids_lesion", str(split))
    return maps_of(cases, ensure_calibration(folder / "denoiser" / "weights.pt", folder, dataset_dir, split))


def report(runs: Path, dataset_dir: str, hospitals: list[str]) -> list[dict]:
    """A row a hospital, map and run, and of all hospitals together; held out, each patient's map is by the run that
    never saw the hospital.
    """
    made = {"trained on all": score(NOBODY, dataset_dir, runs / NOBODY)}
    unseen = [score(hospital, dataset_dir, runs / hospital) for hospital in hospitals]
    made["hospital held out"] = {n: [p for one in unseen for p in one[n]] for n in unseen[0] if n != BASELINE}
    rows = []
    for hospital in (*hospitals, "all"):
        for title, maps in made.items():
            for name, patients in maps.items():
                some = [p for p in patients if hospital in ("all", hospital_of(p.name))]
                rows.append({"hospital": hospital, "map": name, "run": title, **figures(some, name != BASELINE)})
    return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset_dir", required=True, help="BIDS root with lesion masks")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the trainings")
    parser.add_argument("--autoencoder_epochs", type=int, default=8, help=f"of {EPOCH} steps")
    parser.add_argument("--denoiser_epochs", type=int, default=20, help=f"of {EPOCH} steps")
    parser.add_argument("--only", nargs="*", help="train with these held out, one after the other, and stop there")
    parser.add_argument("--output_dir", type=Path, default=Path(), help="folder of the table (default: this one)")


def run(options: argparse.Namespace) -> None:
    epochs = {"autoencoder": options.autoencoder_epochs, "denoiser": options.denoiser_epochs}
    hospitals = sorted({hospital_of(subject) for subject in read_split(SPLIT)["test"]})
    for hospital in options.only or [NOBODY, *hospitals]:
        train(hospital, options.dataset_dir, options.runs / hospital, epochs)
    if options.only:
        return
    rows = report(options.runs, options.dataset_dir, hospitals)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    write_rows(options.output_dir / "hospitals.csv", rows)
    for row in rows:
        print(row)
