# SPDX-License-Identifier: Apache-2.0
"""Findings and case scores where nobody has drawn outlines: images of known diagnosis, of people who trained nothing.

Normal ones say how many findings healthy people have where a number is promised; the case score, the mean of a
patient's images, tells diseased patients from normal ones.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from ..datasets import cropped_cases, training_cases
from ..errors import WeightsError
from ..oct_cases import DUKE, NORMAL
from ..pipeline.job import Job
from ..scoring.calibration import RARER
from ..scoring.findings import find_findings
from ..scoring.geometry import voxel_millilitres
from .lesion_wise import PROMISED
from .patients import write_rows
from .rows import load_rows, mapped
from .untrained import CROPPED

__all__ = ["findings_of_images", "scored_image"]

logger = logging.getLogger(__name__)

CROPPED_NORMAL = "normal, cropped"


def findings_of_images(
    rows: Mapping[str, Mapping],
    dataset_dir: str | Path,
    output_dir: str | Path,
    split: str | Path | None,
    cropped_dirs: Sequence[str | Path] = (),
    name: str = "findings_oct",
    **settings: Any,
) -> list[dict]:
    """Run every row on the tested images; write the table, CSV and Markdown.

    Args:
        rows: see `bundle.evaluation.rows.load_rows`; each must have odds.
        dataset_dir: folder of images, sorted into folders by diagnosis.
        output_dir: folder of the tables.
        split: file that deals the patients.
        cropped_dirs: folders of further normal images (`bundle.datasets.cropped_cases`), where they are; the odds of
            their scans leave them out.
        name: of the table.
        settings: ids that all rows share.

    Returns:
        a dictionary a row and diagnosis.

    Raises:
        WeightsError: when a row has no odds.
    """
    cases = [(case["kind"], "", case) for case in training_cases(dataset_dir, "test", "oct_all", split)]
    cases = [(f"normal, {_camera(case)}" if kind == NORMAL else kind, *rest, case) for kind, *rest, case in cases]
    cases += [
        (CROPPED_NORMAL, CROPPED, case)
        for case in cropped_cases([one for one in cropped_dirs if Path(one).is_dir()], "test")
    ]
    table = []
    for row, job in load_rows(rows, "oct", **settings).items():
        if job.odds is None:
            raise WeightsError(row, "no odds of findings for it", "Make them: flipmap odds DATA, --help says more")
        images = [image for kind, left_out, case in cases if (image := scored_image(job, kind, left_out, case))]
        table += _figures(row, images)
        for line in table:
            logger.info("%s", line)
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / f"{name}.csv", table)
    (folder / f"{name}.md").write_text(_markdown(table), encoding="utf-8")
    return table


def _camera(case: Mapping) -> str:
    return "Duke" if DUKE.search(Path(case["image"]).stem) else "OCT2017"


def scored_image(job: Job, kind: str, left_out: str, case: Mapping) -> dict | None:
    """``expected``: the odds of the findings of an image; ``score``: its case score; ``values``: of its organ; None
    where it cannot be mapped.

    Args:
        job: with odds.
        kind: of the image, passed on, like the case's ``subject``.
        left_out: set of scans that the odds leave out; empty for none.
        case: ``image``, ``subject`` and, where they are known, ``voxel_um`` and ``name``.
    """
    assert job.odds is not None, "checked before"
    odds = job.odds.without(left_out)
    item = mapped(job, {key: case[key] for key in ("image", "voxel_um", "name") if key in case}, str(case.get("name")))
    if item is None:
        return None
    anomaly, organ = item["pred"].cpu().numpy()[0], item[job.region].cpu().numpy()[0] > 0
    affine = np.asarray(item["pred"].affine.cpu(), dtype=float)
    found = find_findings(anomaly, anomaly >= odds.threshold, affine, odds.threshold, organ, odds, item.get(RARER))
    score = odds.score([one.extreme for one in found], float(organ.sum()) * voxel_millilitres(affine))[0]
    expected = np.array([one.expected for one in found], dtype=float)
    return {
        "kind": kind,
        "subject": case["subject"],
        "expected": expected,
        "score": score,
        "values": anomaly[organ],
    }


def _figures(row: str, images: Sequence[Mapping]) -> list[dict]:
    """A dictionary a diagnosis: ``kept_N`` findings an image of odds N or less; scores against those of normal ones."""
    scores: dict[str, dict[str, list[float]]] = {}
    for image in images:
        scores.setdefault(image["kind"], {}).setdefault(image["subject"], []).append(image["score"])
    means = {kind: [float(np.mean(one)) for one in patients.values()] for kind, patients in scores.items()}
    tested = [kind for kind in means if kind.startswith(NORMAL) and kind != CROPPED_NORMAL]
    normal = [score for kind in tested for score in means[kind]]
    table = []
    for kind in sorted(means, key=lambda kind: (not kind.startswith(NORMAL), kind)):
        own = [image["expected"] for image in images if image["kind"] == kind]
        kept = {f"kept_{most:g}": float(np.mean([(one <= most).sum() for one in own])) for most in PROMISED}
        ill = not kind.startswith(NORMAL)
        auroc = (
            roc_auc_score([1] * len(means[kind]) + [0] * len(normal), [*means[kind], *normal]) if ill and normal else ""
        )
        figures = {
            "patients": len(means[kind]),
            "images": len(own),
            **kept,
            "case_score": float(np.median(means[kind])),
        }
        table.append({"method": row, "kind": kind, **figures, "auroc": auroc})
    return table


def _markdown(table: Sequence[Mapping]) -> str:
    promised = " | ".join(f"{most:g}" for most in PROMISED)
    lines = [
        "Findings a B-scan whose odds are 1, 0.1 and 0.01 or less (means); the case score of a patient (median), and "
        "the AUROC of diseased patients' case scores against those of the tested normal ones.",
        "",
        f"| method | diagnosis | patients | B-scans | {promised} | case score | AUROC |",
        "|---" * (6 + len(PROMISED)) + "|",
    ]
    for row in table:
        kept = " | ".join(f"{row[f'kept_{most:g}']:.2f}" for most in PROMISED)
        auroc = f"{row['auroc']:.3f}" if row["auroc"] != "" else ""
        start = f"| {row['method']} | {row['kind']} | {row['patients']} | {row['images']} | {kept}"
        lines.append(f"{start} | {row['case_score']:.2f} | {auroc} |")
    return "\n".join(lines) + "\n"
