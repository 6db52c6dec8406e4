"""How well the maps fit a hospital that trained, calibrated and set nothing: a training for each that is held out.

Autoencoder and denoiser are trained from nothing on the patients of the other hospitals, by the recipes of the
repository, and once on those of all. Every run takes the same number of steps, far fewer than the weights of the
repository had: compare the columns with each other, not with the table of the evaluation.

    python scripts/leave_one_hospital_out.py --dataset_dir DATASET --runs runs/hospitals --output_dir docs/evaluation

Writes ``hospitals.csv``. Runs are resumed, and finished ones kept: give the same ``--runs`` again. ``--only CS`` makes
one of them and leaves the table to a later call, so that several can be made side by side.
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from monai.bundle import ConfigParser, run

from bundle import bundle_root
from bundle.datasets import read_split, training_cases
from bundle.evaluation.metrics import Pooled
from bundle.evaluation.patients import write_rows
from bundle.evaluation.protocol import dice, run_methods
from bundle.methods.intensity import Intensity
from bundle.scoring.calibration import read_calibration

CONFIGS = Path(bundle_root()) / "configs"
SPLIT = CONFIGS / "splits" / "lgg_flair.json"
NOBODY = "none"  # is held out: the run that all others are compared with
EPOCH = 100  # steps of what the recipes call an epoch, whatever the number of slices
THRESHOLD = 2.0  # −log10 of the healthy tail probability that 1 % of healthy voxels exceed
BASELINE = "intensity, smoothed"
DEFAULT = "default"


def hospital_of(subject: str) -> str:
    """sub-CS4941 → CS."""
    return subject.removeprefix("sub-")[:2]


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
        overrides = {"autoencoder_weights": weights["autoencoder"]} if part == "denoiser" else {}
        run(
            config_file=str(CONFIGS / f"train_{part}.json"),
            bundle_root=bundle_root(),
            dataset_dir=dataset_dir,
            split=split,
            output_dir=str(folder / part),
            max_epochs=count,
            val_interval=count,
            **{"train#trainer#epoch_length": EPOCH},
            **overrides,
        )
        done.touch()
    for method in ("methods/structured_flips.json", "methods/intensity.json", None):
        files = ["inference.json", *([method] if method else []), "calibrate.json"]
        run(
            config_file=[str(CONFIGS / name) for name in files],
            **overrides_of(folder, dataset_dir),
            split=split,
        )


def overrides_of(folder: Path, dataset_dir: str) -> dict:
    """What makes the main job one of a run."""
    return {
        "bundle_root": bundle_root(),
        "dataset_dir": dataset_dir,
        "weights": str(folder / "denoiser" / "weights.pt"),
        "calibration": str(folder / "calibration.json"),
        "network_def#restoration": None,
    }


class Patient(NamedTuple):
    """A test patient's map as it is saved, flat: head voxels, and those of the brain in tumour-free slices."""

    hospital: str
    scores: np.ndarray
    lesion: np.ndarray
    healthy: np.ndarray


def scored(hospital: str, dataset_dir: str, folder: Path) -> dict[str, list[Patient]]:
    """Of a run, on the test patients of the hospital that it never saw, or on all: the default in the units of the map,
    and the smoothed intensity as it is."""
    parser = ConfigParser()
    parser.read_config(CONFIGS / "inference.json")
    parser.update(overrides_of(folder, dataset_dir))
    parts = [parser.get_parsed_content(key) for key in ("network", "preprocessing", "device")]
    methods = {DEFAULT: parser.get_parsed_content("inferer"), BASELINE: Intensity(smoothing=2.0, across=0.7)}
    cases = training_cases(dataset_dir, "test", "bids_lesion", str(split_without(hospital, folder)))
    calibration = read_calibration(parser.get_parsed_content("calibration"), parser.get_parsed_content("method"))
    patients = {}
    for name, kept in run_methods(cases, methods, *parts).items():
        units = calibration if name == DEFAULT else np.asarray
        columns = zip(kept.names, kept.masked(), kept.lesions, kept.healthy, strict=True)
        patients[name] = [Patient(hospital_of(one), units(s), lesion, units(h)) for one, s, lesion, h in columns]
    return patients


def figures(patients: list[Patient]) -> dict[str, float]:
    """Pooled AUPRC and best Dice, Dice at the threshold that 1 % of healthy voxels exceed, and how many here do."""
    _, scores, lesions, healthy = zip(*patients, strict=True)
    return {
        **Pooled.of(scores, lesions).figures(),
        "dice_at_0.01": dice(np.concatenate(scores) >= THRESHOLD, np.concatenate(lesions)),
        "reached_rate_0.01": float((np.concatenate(healthy) >= THRESHOLD).mean()),
    }


def report(runs: Path, dataset_dir: str, hospitals: list[str]) -> list[dict]:
    """A row a hospital, and one of all together, each patient's map by the run that never saw the hospital."""
    seen = scored(NOBODY, dataset_dir, runs / NOBODY)
    unseen = [one for hospital in hospitals for one in scored(hospital, dataset_dir, runs / hospital)[DEFAULT]]
    rows = []
    for hospital in (*hospitals, "all"):
        columns = {"trained on all": seen[DEFAULT], "held out": unseen, BASELINE: seen[BASELINE]}
        of = {title: [p for p in patients if hospital in ("all", p.hospital)] for title, patients in columns.items()}
        row: dict[str, object] = {"hospital": hospital, "test patients": len(of["held out"])}
        for title, patients in of.items():
            row |= {f"{key}, {title}": value for key, value in figures(patients).items()}
        del row[f"dice_at_0.01, {BASELINE}"], row[f"reached_rate_0.01, {BASELINE}"]  # not in the units of the threshold
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the trainings")
    parser.add_argument("--autoencoder_epochs", type=int, default=8, help=f"of {EPOCH} steps")
    parser.add_argument("--denoiser_epochs", type=int, default=20, help=f"of {EPOCH} steps")
    parser.add_argument("--only", nargs="*", help="train with these held out, one after the other, and stop there")
    parser.add_argument("--output_dir", type=Path, default=Path())
    arguments = parser.parse_args()
    epochs = {"autoencoder": arguments.autoencoder_epochs, "denoiser": arguments.denoiser_epochs}
    hospitals = sorted({hospital_of(subject) for subject in read_split(SPLIT)["test"]})
    for hospital in arguments.only or [NOBODY, *hospitals]:
        train(hospital, arguments.dataset_dir, arguments.runs / hospital, epochs)
    if arguments.only:
        return
    rows = report(arguments.runs, arguments.dataset_dir, hospitals)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    write_rows(arguments.output_dir / "hospitals.csv", rows)
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
