# SPDX-License-Identifier: Apache-2.0
"""How well the maps find small lesions: planted into healthy slices of real scans, at their own resolution.

    flipmap lab check-small-lesions --dataset_dir DATASET --part validation test --output_dir docs/evaluation

Writes ``small_lesions.csv``, of another contrast ``small_lesions_t1w.csv`` or ``small_lesions_t2w.csv``: average
precision over the head of the slices that may hold lesions, map masked, for the intensity, structured flips and the
default. Lesions are 3 to 11 mm wide, brighter or darker than tissue as suits the contrast (`PLANTED`), and lie beneath
the cortex (`bundle.synthesis.planting`). No label takes part but to leave slices with tumour out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from monai.bundle import ConfigParser
from tqdm import tqdm

from ..datasets import training_cases
from ..evaluation.metrics import Pooled
from ..evaluation.patients import write_rows
from ..evaluation.protocol import RAW, MethodScores
from ..evaluation.scores import Prepared, prepare, score_case
from ..io.nifti import read_scan, write_map
from ..methods.intensity import Darkness, Intensity
from ..modalities import Modality, modality_of
from ..paths import bundle_root
from ..synthesis.planting import plant_lesions
from ..transforms.mri import to_axial

__all__ = ["add_arguments", "run"]

FLIPS = "structured_flips"
#: Modality → what a lesion adds, least and most, in multiples of the brain's median.
PLANTED = {"flair": (0.2, 0.8), "t1w": (-0.6, -0.2), "t2w": (0.4, 1.4)}


def plant(case: dict, preprocessing: Callable, seed: int, folder: Path, modality: Modality) -> Prepared | None:
    """A case with lesions in its healthy slices, which alone count, prepared like any scan; None where none fits."""
    known, scan = prepare(case, preprocessing), to_axial(read_scan(case["image"]))
    spacing = [float(s) for s in scan.pixdim]
    rng = np.random.RandomState(seed)
    contrast = PLANTED[modality.name]
    made = plant_lesions(np.maximum(known.intensity, 0), known.brain, known.healthy, spacing, rng, contrast=contrast)
    if not made.count:
        return None
    paths = {"image": folder / f"scan_{modality.suffix}.nii.gz", "label": folder / "lesion.nii.gz"}
    for path, values, dtype in zip(paths.values(), (made.scan, made.lesion), (np.float32, np.uint8), strict=True):
        write_map(path, values, np.asarray(scan.affine), dtype)
    again = prepare({"name": case["name"], **paths}, preprocessing)
    return dataclasses.replace(again, head=again.head & known.healthy[None, None], healthy=known.healthy)


def score(cases: Sequence[dict], parser: ConfigParser, modality: Modality) -> dict[str, MethodScores]:
    """What is kept of each method over some cases; of the plain intensity, the sign that suits what is planted."""
    bright = PLANTED[modality.name][1] > 0
    plain, of_plain, raw = (Intensity, "intensity", RAW) if bright else (Darkness, "darkness", "raw darkness")
    network, preprocessing, device = (parser.get_parsed_content(k) for k in ("network", "preprocessing", "device"))
    default = parser.get_parsed_content("inferer")
    methods = {
        f"{of_plain} on the model's grid": plain(),
        f"{of_plain}, smoothed": plain(smoothing=2.0, across=0.7),
        "structured flips": default.methods[FLIPS],
        "default": default,
    }
    kept = {name: MethodScores() for name in (raw, *methods)}
    with tempfile.TemporaryDirectory() as folder:
        for seed, one in enumerate(tqdm(cases, disable=None)):
            case = plant(one, preprocessing, seed, Path(folder), modality)
            if case is None:
                print(f"{one['name']}: no slice to plant lesions in")
                continue
            kept[raw].add(case, case.intensity if bright else case.intensity.max() - case.intensity, 0.0)
            for name, method in methods.items():
                result = score_case(case, method, network, preprocessing, device)
                kept[name].add(case, result.scores, result.seconds)
    return kept


def rows_of(part: str, kept: dict[str, MethodScores]) -> list[dict]:
    """A row a method: pooled, and the mean of single patients."""
    rows = []
    for name, one in kept.items():
        masked = one.masked()
        single = [Pooled.of([s], [m]).figures() for s, m in zip(masked, one.lesions, strict=True) if m.any()]
        rows.append(
            {
                "part": part,
                "method": name,
                "patients": len(single),
                "lesion_ml": float(np.sum(one.lesion_ml)),
                **Pooled.of(masked, one.lesions).figures(),
                "auprc_of_single_patients": float(np.mean([f["auprc"] for f in single])),
            }
        )
    return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dataset_dir", required=True, help="BIDS root: with lesion masks, or for t2w of healthy people"
    )
    parser.add_argument(
        "--part", nargs="+", help="of the split (default: validation and test, where the split has people there)"
    )
    parser.add_argument("--output_dir", type=Path, default=Path(), help="folder of the table (default: this one)")
    parser.add_argument("--modality", choices=PLANTED, default="flair", help="contrast (default: %(default)s)")


def run(options: argparse.Namespace) -> None:
    parser = ConfigParser()
    modality = modality_of(options.modality)
    parser.read_config([str(path) for path in modality.configs()])
    parser.update({"bundle_root": bundle_root()})
    split = json.loads(modality.split_path.read_text(encoding="utf-8"))["subjects"]
    parts = options.part or [part for part in ("validation", "test") if split[part]]
    asked = (modality.layout, modality.split_path, modality.suffix)
    cases = {part: training_cases(options.dataset_dir, part, *asked) for part in parts}
    rows = [row for part in parts for row in rows_of(part, score(cases[part], parser, modality))]
    options.output_dir.mkdir(parents=True, exist_ok=True)
    suffix = f"_{modality.name}" if modality.config else ""  # the main job's table has no name but its own
    write_rows(options.output_dir / f"small_lesions{suffix}.csv", rows)
    for row in rows:
        print(row)
