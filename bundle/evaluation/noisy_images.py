# SPDX-License-Identifier: Apache-2.0
"""How quiet normal images stay when noise is added to them, as a camera of less light or fewer averages has it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from ..datasets import training_cases
from ..errors import WeightsError
from ..io.oct import read_oct
from ..modalities import DEFAULT, modality_of
from ..oct_cases import NORMAL
from ..pipeline.job import Job
from ..transforms.retina import fill_of
from .findings_of_images import scored_image
from .patients import write_rows
from .protocol import RATES

__all__ = ["noisy_images", "with_noise"]

logger = logging.getLogger(__name__)

SEED = 1
GREY_LEVELS = 255.0  # of a picture


def with_noise(scan: MetaTensor, sigma: float, seed: int = SEED) -> MetaTensor:
    """A scan with white Gaussian noise, cut off where its own values end; fill, which no camera made, stays.

    Noise of a single B-scan (Duke, some 30 of 255 grey levels) is white, and the same at every brightness, as far as
    the difference to the average of 40 frames tells.

    Args:
        scan: (1, X, Y, Z).
        sigma: standard deviation, grey levels of 255 between its lowest and its highest value.
        seed: of the noise.
    """
    values = scan.numpy()
    low, high = float(values.min()), float(values.max())
    noise = np.random.RandomState(seed).standard_normal(values.shape) * sigma / GREY_LEVELS * (high - low)
    fill = np.stack([fill_of(values[0, ..., z]) for z in range(values.shape[3])], axis=-1)[None]
    changed = np.where(fill, values, np.clip(values + noise, low, high)).astype(np.float32)
    return MetaTensor(torch.from_numpy(changed), meta=scan.meta, applied_operations=scan.applied_operations)


def noisy_images(
    dataset_dir: str | Path,
    output_dir: str | Path,
    split: str | Path | None,
    levels: Sequence[float] = (0, 15, 30, 45, 60),
    method: str = DEFAULT,
    name: str = "noise_oct",
    **settings: Any,
) -> list[dict]:
    """Map the tested normal images at every level of noise, and the diseased ones as they are; write the table, CSV
    and Markdown.

    Args:
        dataset_dir: folder of images, sorted into folders by diagnosis.
        output_dir: folder of the table.
        split: file that deals the patients.
        levels: of the noise that is added, see `with_noise`.
        method: of the job.
        name: of the table.
        settings: ids of its config.

    Returns:
        a dictionary a level.

    Raises:
        WeightsError: when the method has no odds.
    """
    job = Job(modality_of("oct").configs(method), **settings)
    if job.odds is None:
        raise WeightsError(method, "no odds of findings for it", "Make them: flipmap odds DATA, --help says more")
    cases = training_cases(dataset_dir, "test", "oct_all", split)
    lowest = min(_patients([_mapped(job, case, 0) for case in cases if case["kind"] != NORMAL]), default=np.nan)
    table = []
    for level in levels:
        images = [_mapped(job, case, level) for case in cases if case["kind"] == NORMAL]
        scores = _patients(images)
        read = [image for image in images if image is not None]
        rates = {
            f"rate_{rate:g}": float(np.mean([(one["values"] >= -np.log10(rate)).mean() for one in read]))
            for rate in RATES
        }
        table.append(
            {
                "noise": level,
                "images": len(images),
                "read": len(read),
                **rates,
                "kept_1": float(np.mean([(one["expected"] <= 1).sum() for one in read])),
                "case_score": float(np.median(scores)),
                "highest_case_score": max(scores, default=np.nan),
                "lowest_diseased": lowest,
            }
        )
        logger.info("%s", table[-1])
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / f"{name}.csv", table)
    (folder / f"{name}.md").write_text(_markdown(table), encoding="utf-8")
    return table


def _mapped(job: Job, case: Mapping, level: float) -> dict | None:
    scan = read_oct(case["image"], case.get("voxel_um"))
    noisy = with_noise(scan, level) if level else scan
    return scored_image(job, case["kind"], "", {"image": noisy, "name": case["name"], "subject": case["subject"]})


def _patients(images: Sequence[Mapping | None]) -> list[float]:
    """The mean case score of each patient's images."""
    scores: dict[str, list[float]] = {}
    for image in images:
        if image is not None:
            scores.setdefault(image["subject"], []).append(image["score"])
    return [float(np.mean(one)) for one in scores.values()]


def _markdown(table: Sequence[Mapping]) -> str:
    lines = [
        "Tested normal B-scans with white noise added to them (standard deviation, grey levels of 255; a single B-scan "
        "of the Duke set has some 30 already): the share of the retina that is 2 (promised: 1 %) and 3 (0.1 %) or "
        "more, findings whose odds are 1 or less, case scores of patients. The lowest of a diseased patient is "
        f"{table[0]['lowest_diseased']:.2f}.",
        "",
        "| noise added | B-scans read | 1 % became | 0.1 % became | findings | case score, median | highest |",
        "|---" * 7 + "|",
    ]
    for row in table:
        rates = " | ".join(f"{row[f'rate_{rate:g}']:.2%}" for rate in RATES)
        start = f"| {row['noise']:g} | {row['read']} of {row['images']} | {rates} | {row['kept_1']:.2f}"
        lines.append(f"{start} | {row['case_score']:.2f} | {row['highest_case_score']:.2f} |")
    return "\n".join(lines) + "\n"
