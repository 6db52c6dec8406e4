# SPDX-License-Identifier: Apache-2.0
"""The protocol where nobody has drawn outlines: whole images of known diagnosis, normal against each disease.

- An image's score is the highest value that a volume of it reaches (`bundle.scoring.findings.highest_value`); a
  patient's is the mean of his images'. AUROC and average precision compare patients; intervals are 95 %, by drawing
  patients of each kind.
- Thresholds come from normal patients who neither trained nor are tested; the rate that they reach is measured on the
  tested normal ones.
- Voxels are compared on synthetic anomalies in the tested normal images, of a family that no training saw; and on what
  rules draw into the tested diseased ones (`bundle.synthesis.drawing`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer
from monai.transforms import Compose
from monai.utils import convert_to_dst_type
from sklearn.metrics import average_precision_score, roc_auc_score
from tqdm import tqdm

from ..datasets import cropped_cases, training_cases
from ..errors import ScanError, cause_of
from ..oct_cases import DUKE, NORMAL
from ..report.figures import save_images
from ..scoring.calibration import Calibration
from ..scoring.findings import highest_value
from ..synthesis.anomalies import RandSyntheticAnomaly
from ..synthesis.drawing import RULES, drawn_volume
from .image_tables import write_images, write_tables
from .metrics import Pooled
from .protocol import RATES
from .scores import inverted

__all__ = ["THICKNESS", "benchmark_image_rows", "benchmark_images", "healthy_images", "thickness_score"]

logger = logging.getLogger(__name__)

#: Baseline that looks at the organ's outline alone.
THICKNESS = "thickness of the retina, z-score"
VALUES = dict(zip(RULES, np.linspace(2, 3.5, len(RULES)), strict=True))  # of the rules in the picture
DRAWS = 2000  # of patients, for an interval
SMOOTHING = 8  # columns of the model's grid that a thickness is averaged over


def healthy_images(
    cases: Sequence[dict],
    method: Inferer,
    network: torch.nn.Module,
    preprocessing: Compose,
    device: torch.device,
    region: str,
) -> list[np.ndarray]:
    """Raw scores of the organ in normal images, an array a patient."""
    by_patient: dict[str, list[np.ndarray]] = {}
    for image in _score(cases, {"method": method}, network, preprocessing, device, region):
        by_patient.setdefault(image["subject"], []).append(image["voxels"]["method"])
    return [np.concatenate(voxels) for voxels in by_patient.values()]


def benchmark_image_rows(
    rows: Mapping[str, Mapping],
    dataset_dir: str | Path,
    output_dir: str | Path,
    split: str | Path | None,
    cropped_dirs: Sequence[str | Path] = (),
    **settings: Any,
) -> dict[str, dict]:
    """The protocol over the rows of a config, see `bundle.evaluation.rows.load_rows`; the last row is pictured.

    ``cropped_dirs`` are folders of further normal B-scans (`bundle.datasets.cropped_cases`), on which false alarms are
    counted, too.
    """
    from .rows import load_rows

    jobs = load_rows(rows, "oct", **settings)
    first = next(iter(jobs.values()))
    return benchmark_images(
        training_cases(dataset_dir, "test", "oct_all", split),
        training_cases(dataset_dir, "validation", "oct", split),
        {name: job.inferer for name, job in jobs.items()},
        first.network,
        first.preprocessing,
        first.device,
        output_dir,
        first.region,
        first.config.get_parsed_content("scored_ml"),
        cropped_cases(cropped_dirs, "test"),
        {name: job.calibrated for name, job in jobs.items() if not job.uncalibrated},
    )


def benchmark_images(
    cases: Sequence[dict],
    healthy_cases: Sequence[dict],
    methods: Mapping[str, Inferer],
    network: torch.nn.Module,
    preprocessing: Compose,
    device: torch.device,
    output_dir: str | Path,
    region: str,
    scored_ml: float,
    cropped: Sequence[dict] = (),
    shipped: Mapping[str, Callable] | None = None,
) -> dict[str, dict]:
    """Run the protocol; write ``table.csv`` (every figure), ``table.md``, ``images.csv`` (a row an image),
    ``cases.png`` of the last method (by its shipped calibration, if it has one), and ``drawn.png``, what the rules have
    drawn.

    Args:
        cases: test cases with ``kind`` and ``subject``.
        healthy_cases: normal images of other patients, which set thresholds and the normal thickness.
        methods: name → inferer.
        network, preprocessing, device: as in the main job.
        output_dir: folder of the tables.
        region: key of the organ's mask.
        scored_ml: see `bundle.scoring.findings.highest_value`.
        cropped: further normal images, whose size was lost, on which false alarms are counted.
        shipped: name → raw scores → values of the shipped calibration, where a method has one.

    Returns:
        row name → figures.
    """
    parts = (network, preprocessing, device, region, scored_ml)
    healthy, scored, others = (_score(some, methods, *parts) for some in (healthy_cases, cases, cropped))
    profiles = np.concatenate([image["thickness"] for image in healthy])
    for image in scored:
        image["score"][THICKNESS] = thickness_score(image["thickness"], profiles.mean(), profiles.std())
    rows = {}
    for name in (THICKNESS, *methods):
        rows[name] = _against(scored, name)
        if name in methods:
            normal = [image for image in scored if image["kind"] == NORMAL]
            rows[name] |= _reached_rates(normal, healthy, name)
            for group, images in {"": normal, "_cropped": others}.items():
                if images and shipped and name in shipped:
                    rows[name] |= {f"{key}{group}": rate for key, rate in _keep(images, name, shipped[name]).items()}
            rows[name] |= _drawn_auprc(scored, name)
            rows[name]["synthetic_auprc"] = _synthetic_auprc(scored, methods[name], network, device, region)
            rows[name]["seconds"] = float(np.mean([image["seconds"][name] for image in scored]))
        logger.info("%s: %s", name, {k: v for k, v in rows[name].items() if not isinstance(v, tuple)})
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    write_images(output_dir / "images.csv", scored)
    last = list(methods)[-1]
    calibration = (shipped or {}).get(last) or Calibration.fit([image["voxels"][last] for image in healthy])
    save_images(
        output_dir / "cases.png", [_show(image, title, last, calibration) for title, image in _choose(scored, last)]
    )
    _save_drawings(output_dir / "drawn.png", scored)
    write_tables(output_dir, rows, _patients(scored, next(iter(rows))))
    return rows


def thickness_score(profile: np.ndarray, mean: float, sd: float) -> float:
    """How far the organ's thickness strays from normal: 95th percentile over columns of |z|."""
    return float(np.percentile(np.abs(profile - mean) / max(sd, 1e-9), 95))


def _score(
    cases: Sequence[dict],
    methods: Mapping[str, Inferer],
    network: torch.nn.Module,
    preprocessing: Compose,
    device: torch.device,
    region: str,
    scored_ml: float = 1.0,
) -> list[dict]:
    """Every method on every image that can be read; one that cannot is named and left out."""
    network.eval()
    scored = []
    for case in tqdm(cases, desc="images", disable=None):
        try:
            item = preprocessing({key: case[key] for key in ("image", "voxel_um", "name") if key in case})
        except Exception as error:  # MONAI wraps what its components raise
            if not isinstance(cause := cause_of(error), ScanError):
                raise
            logger.error("left out: %s", cause)
            continue
        image = {"name": case["name"], "subject": case["subject"], "kind": case.get("kind", NORMAL), "item": item}
        image |= {"score": {}, "voxels": {}, "seconds": {}, "map": {}}
        read = preprocessing.transforms[0](dict(case))["image"]
        image["scan"] = read[0].numpy()
        organ = inverted(item, item[region], preprocessing)
        inside = organ[0].numpy() > 0.5
        if image["kind"] != NORMAL:
            masks = drawn_volume(image["scan"], (1000 * float(read.pixdim[0]), 1000 * float(read.pixdim[1])))
            image |= {"drawn": masks, "drawn_voxels": {rule: mask[inside] for rule, mask in masks.items()}}
        image["thickness"] = _profile(item[region][0].numpy())
        for name, method in methods.items():
            started = time.perf_counter()
            raw = method(item["image"][None].to(device), network)[0].cpu()
            scores = np.where(inside, inverted(item, raw, preprocessing)[0].numpy(), 0)
            image["seconds"][name] = time.perf_counter() - started
            image["voxels"][name] = scores[inside].astype(np.float32)
            image["map"][name] = scores.astype(np.float32)
            image["score"][name] = highest_value(scores, np.asarray(organ.affine), scored_ml)
        scored.append(image)
    return scored


def _profile(mask: np.ndarray) -> np.ndarray:
    """Thickness of the organ, rows of the model's grid, averaged over neighbouring columns; (columns x B-scans,)."""
    thickness = (mask > 0.5).sum(1).astype(float)
    kernel = np.ones(SMOOTHING) / SMOOTHING
    return np.concatenate([np.convolve(column, kernel, mode="valid") for column in thickness.T])


def _patients(scored: Sequence[dict], name: str) -> dict[str, np.ndarray]:
    """Kind → scores of its patients."""
    by_patient: dict[tuple[str, str], list[float]] = {}
    for image in scored:
        by_patient.setdefault((image["kind"], image["subject"]), []).append(image["score"][name])
    kinds = sorted({kind for kind, _ in by_patient})
    return {kind: np.array([np.mean(v) for (k, _), v in by_patient.items() if k == kind]) for kind in kinds}


def _against(scored: Sequence[dict], name: str) -> dict[str, object]:
    """AUROC of normal against each kind and all of them, average precision against all, with intervals."""
    groups = _patients(scored, name)
    normal, rng = groups.pop(NORMAL), np.random.RandomState(0)
    row: dict[str, object] = {}
    for kind, diseased in [*groups.items(), ("all", np.concatenate(list(groups.values())))]:
        figures = {"auroc": roc_auc_score, **({"ap": average_precision_score} if kind == "all" else {})}
        for metric, function in figures.items():
            values = [
                _compare(function, rng.choice(normal, len(normal)), rng.choice(diseased, len(diseased)))
                for _ in range(DRAWS)
            ]
            row[f"{metric}_{kind}"] = _compare(function, normal, diseased)
            row[f"{metric}_{kind}_interval"] = tuple(np.percentile(values, [2.5, 97.5]))
    return row


def _compare(function: Callable, normal: np.ndarray, diseased: np.ndarray) -> float:
    return float(function([0] * len(normal) + [1] * len(diseased), [*normal, *diseased]))


def _reached_rates(normal: Sequence[dict], healthy: Sequence[dict], name: str) -> dict[str, float]:
    """False-positive rates that thresholds of other normal images reach in the tested normal ones."""
    known, tested = (np.concatenate([image["voxels"][name] for image in images]) for images in (healthy, normal))
    return {f"reached_rate_{rate:g}": float((tested >= np.quantile(known, 1 - rate)).mean()) for rate in RATES}


def _synthetic_auprc(
    scored: Sequence[dict], method: Inferer, network: torch.nn.Module, device: torch.device, region: str
) -> float:
    """Pooled over the organ's voxels of tested normal images, each with synthetic anomalies of the unseen family."""
    anomaly = RandSyntheticAnomaly(shapes=["polygon"], textures=["gain", "mirrored"])
    anomaly.set_random_state(0)
    scores, masks = [], []
    for image in (image for image in scored if image["kind"] == NORMAL):
        volume, organ = (image["item"][key].as_tensor() for key in ("image", region))
        twins = [anomaly(volume[..., z], region=organ[..., z]) for z in range(volume.shape[-1])]
        twin, mask = (torch.stack(parts, dim=-1) for parts in zip(*twins, strict=True))
        inside = (organ > 0.5).numpy()
        changed = convert_to_dst_type(twin, image["item"]["image"])[0]  # with what the preprocessing has noted
        scores.append(method(changed[None].to(device), network)[0].cpu().numpy()[inside])
        masks.append(mask.numpy()[inside] > 0.5)
    return Pooled.of(scores, masks).figures()["auprc"]


def _keep(normal: Sequence[dict], name: str, calibrated: Callable) -> dict[str, float]:
    """False-positive rates of the values that promise `RATES`, by the shipped calibration."""
    values = calibrated(np.concatenate([image["voxels"][name] for image in normal]))
    return {f"shipped_rate_{rate:g}": float((values >= -np.log10(rate)).mean()) for rate in RATES}


def _drawn_auprc(scored: Sequence[dict], name: str) -> dict[str, float]:
    """Pooled over the organ of diseased images: what the rules of `bundle.synthesis.drawing` find against the rest.
    What another rule has drawn is diseased too, and no false alarm: it is left out.
    """
    diseased = [image for image in scored if "drawn" in image]
    figures = {}
    for rule in RULES:
        scores, masks = [], []
        for image in diseased:
            others = [mask for other, mask in image["drawn_voxels"].items() if other != rule]
            counted = image["drawn_voxels"][rule] | ~np.any(others, axis=0)
            scores.append(image["voxels"][name][counted])
            masks.append(image["drawn_voxels"][rule][counted])
        figures[f"{rule}_auprc"] = Pooled.of(scores, masks).figures()["auprc"]
    return figures


def _save_drawings(path: Path, scored: Sequence[dict]) -> None:
    """What the rules have drawn, in every diseased image whose licence lets it be shown."""
    shown = [image for image in scored if "drawn" in image and not DUKE.search(image["name"])]
    rows = []
    for image in shown:
        z = int(sum(mask.sum((0, 1)) for mask in image["drawn"].values()).argmax())
        marked = sum(VALUES[rule] * mask[..., z] for rule, mask in image["drawn"].items())
        rows.append((image["name"], image["scan"][..., z], marked))
    if rows:
        save_images(path, rows, label=", ".join(f"{value:g}: {rule}" for rule, value in VALUES.items()))


def _choose(scored: Sequence[dict], name: str) -> list[tuple[str, dict]]:
    """Of every kind the image with the median score, and the normal one with the highest: by rank, not by eye.

    Of images whose licence lets them be shown: that of Duke states none.
    """
    chosen = []
    scored = [image for image in scored if not DUKE.search(image["name"])]
    for kind in sorted({image["kind"] for image in scored}):
        ranked = sorted((image for image in scored if image["kind"] == kind), key=lambda image: image["score"][name])
        chosen.append((f"{kind}, median score", ranked[len(ranked) // 2]))
        if kind == NORMAL:
            chosen.append((f"{kind}, highest score", ranked[-1]))
    return chosen


def _show(image: dict, title: str, name: str, calibration: Callable) -> tuple[str, np.ndarray, np.ndarray]:
    """Title, image and calibrated map of the B-scan with the highest value."""
    maps = calibration(image["map"][name])
    z = int(maps.reshape(-1, maps.shape[-1]).max(0).argmax())
    return f"{title}: {image['name']}", image["scan"][..., z], maps[..., z]
