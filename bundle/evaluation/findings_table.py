# SPDX-License-Identifier: Apache-2.0
"""The table of findings on several places: how many a scan has, how many are true, which lesions they hit; how many
healthy people have where a number is promised.

Maps and findings are those that users get. Where a place's people made the odds, its place is left out of them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from ..cases import find_scans, lesion_cases
from ..datasets import training_cases
from ..errors import WeightsError
from ..io.nifti import read_scan
from ..modalities import modality_of
from ..pipeline.job import Job
from ..scoring.calibration import RARER
from ..scoring.findings import find_findings, fitting_odds, label_findings, voxel_millilitres
from .healthy_findings import healthy_scan
from .lesion_figures import SIZES_ML
from .lesion_wise import PROMISED, LesionWise, scan_figures
from .patients import write_rows
from .rows import load_rows

__all__ = ["cases_of_place", "findings_table"]

logger = logging.getLogger(__name__)


@dataclass
class _Place:
    """What one method says of one place."""

    lesions: LesionWise = field(default_factory=LesionWise)
    healthy: list[np.ndarray] = field(default_factory=list)  # odds of the findings of healthy tissue, a scan
    healthy_litres: list[float] = field(default_factory=list)
    litres: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    healthy_scores: Sequence[float] = ()  # of the healthy tissue that the odds are made of


def findings_table(
    places: Mapping[str, Mapping],
    rows: Mapping[str, Mapping],
    output_dir: str | Path,
    modality: str = "flair",
    name: str = "findings",
    **settings: Any,
) -> list[dict]:
    """Run every row on every place; write the table, CSV and Markdown.

    Args:
        places: name → ``dataset_dir`` (BIDS with lesion masks, or without any: then all is healthy); where not all of
            it is asked, ``split`` and ``part``; ``leave_out``, the place of the odds that its people are in;
            ``slices_alone`` where only slices without lesion are healthy.
        rows: see `bundle.evaluation.rows.load_rows`; each must have odds.
        output_dir: folder of the tables.
        modality: a brain contrast.
        name: of the table.
        settings: ids that all rows share.

    Returns:
        a dictionary a place and row.

    Raises:
        WeightsError: when a row has no odds.
    """
    jobs, folder, table = load_rows(rows, modality, **settings), Path(output_dir), []
    for row, job in jobs.items():
        if job.odds is None:
            raise WeightsError(row, "no odds of findings for it", "Make them: flipmap odds DATA, --help says more")
    folder.mkdir(parents=True, exist_ok=True)
    for place, where in places.items():
        for row, kept in _score(jobs, modality_of(modality).suffix or "", where).items():
            table.append(_figures(place, row, kept))
            logger.info("%s", table[-1])
    write_rows(folder / f"{name}.csv", table)
    (folder / f"{name}.md").write_text(_markdown(table), encoding="utf-8")
    return table


def cases_of_place(suffix: str, where: Mapping) -> list[dict]:
    """``image``, and ``label`` where there are masks, of a place of `findings_table`."""
    root = where["dataset_dir"]
    has_masks = (Path(root) / "derivatives" / "lesion").is_dir()
    if where.get("split"):
        layout = "bids_lesion" if has_masks else "bids"
        return training_cases(root, where.get("part", "test"), layout, where["split"], suffix)
    return lesion_cases(root, suffix) if has_masks else find_scans(root, suffix)


def _score(jobs: Mapping[str, Job], suffix: str, where: Mapping) -> dict[str, _Place]:
    kept = {name: _Place() for name in jobs}
    for case in cases_of_place(suffix, where):
        lesion = read_scan(case["label"], labels=True)[0].numpy() > 0.5 if "label" in case else None
        for name, job in jobs.items():
            item = job({key: case[key] for key in ("image", "name") if key in case})
            _count(kept[name], job, item, lesion, where)
    return kept


def _count(place: _Place, job: Job, item: Mapping, lesion: np.ndarray | None, where: Mapping) -> None:
    assert job.odds is not None, "checked before"
    anomaly, organ = item["pred"].cpu().numpy()[0], item[job.region].cpu().numpy()[0] > 0
    affine, mask = np.asarray(item["pred"].affine.cpu(), dtype=float), anomaly >= job.odds.threshold
    odds = fitting_odds(job.odds.without(where.get("leave_out", "")), organ, affine)
    assert odds is not None
    findings = find_findings(anomaly, mask, affine, odds.threshold, organ, odds, item.get(RARER))
    ranks = label_findings(mask, [vars(one) for one in findings])
    voxel_ml = voxel_millilitres(affine)
    known = np.zeros(organ.shape, bool) if lesion is None else lesion
    expected = [float(one.expected or 0.0) for one in findings]
    place.lesions.add(scan_figures(ranks, expected, known, voxel_ml, float(job.settings["false_findings"])))
    place.scores.append(odds.score([one.extreme for one in findings], float(organ.sum()) * voxel_ml)[0])
    healthy = healthy_scan(item, job.region, odds.threshold, lesion, slices_alone=bool(where.get("slices_alone")))
    litres = float(organ.sum()) * voxel_ml
    place.healthy.append(odds.expected(odds.adjusted(healthy.extreme, healthy.places), litres)[0])
    place.healthy_scores = odds.healthy_scores
    place.healthy_litres.append(healthy.organ_ml)
    place.litres.append(litres)


def _figures(place: str, row: str, kept: _Place) -> dict:
    """``seen_N``: findings of odds N or less in as much healthy tissue as a scan has, where N are promised."""
    figures = {key: value for key, value in kept.lesions.figures().items()}
    share = sum(kept.litres) / max(sum(kept.healthy_litres), 1e-9)
    for promised in PROMISED:
        number = sum(int((one <= promised).sum()) for one in kept.healthy) / max(len(kept.healthy), 1)
        figures[f"seen_{promised:g}"] = number * share
    ill = any(len(one.lesions_ml) for one in kept.lesions.scans)
    different = len({round(score, 6) for score in kept.scores}) == len(kept.scores)
    auroc = _auroc(kept.scores, kept.healthy_scores) if ill else ""
    scores = {"case_scores": float(np.median(kept.scores)), "case_scores_differ": different, "auroc": auroc}
    return {"place": place, "method": row, "scans": len(kept.scores), "ill": ill, **scores, **figures}


def _auroc(ill: Sequence[float], healthy: Sequence[float]) -> float:
    """How often an ill scan has the higher case score (Hanley and McNeil 1982)."""
    return float(roc_auc_score([1] * len(ill) + [0] * len(healthy), [*ill, *healthy]))


def _markdown(table: Sequence[Mapping]) -> str:
    """Lesions first, then what healthy tissue has."""
    lines = [
        "Kept findings a scan (median); the share of them that hits a lesion; the share of lesions hit by kept ones, "
        "and by any; by size of the lesion (below 0.1 / 1 ml / more); F1 by the rules of ISLES'22 and MSSEG'16, "
        "lesions hit at 1 and 4 false findings a scan (FROC). 95 % intervals over scans. "
        "AUROC: case scores of these scans against those of healthy tissue of other places.",
        "",
        "| place | method | scans | findings | true | lesions hit | by size | F1, ISLES | F1, MSSEG | FROC, 1 / 4 "
        "| AUROC |",
        "|---" * 11 + "|",
        *(_ill_row(row) for row in table if row["ill"]),
        "",
        "Findings in the healthy tissue of as much brain as a scan has, where 1, 0.1 and 0.01 were promised:",
        "",
        "| place | method | scans | 1 | 0.1 | 0.01 | case score, median |",
        "|---" * 7 + "|",
    ]
    for row in table:
        seen = " | ".join(f"{row[f'seen_{one:g}']:.2f}" for one in PROMISED)
        cells = f"{row['place']} | {row['method']} | {row['scans']} | {seen} | {row['case_scores']:.2f}"
        lines.append(f"| {cells} |")
    return "\n".join(lines) + "\n"


def _ill_row(row: Mapping) -> str:
    def interval(key: str) -> str:
        known = row.get(f"{key}_interval") or ""
        return f"{row[key]:.2f}" + (f" ({known[0]:.2f}–{known[1]:.2f})" if known else "") if row[key] != "" else "–"

    sizes = " / ".join(_shown(row[f"lesions_hit_{size}"]) for size in SIZES_ML)
    froc = " / ".join(_shown(row[f"froc_at_{n}"]) for n in (1, 4))
    cells: Iterator[str] = iter(
        (
            str(row["place"]),
            str(row["method"]),
            str(row["scans"]),
            f"{row['findings']:g} of {row['findings_all']:g}",
            interval("true"),
            f"{interval('lesions_hit')} of {row['lesions_hit'] / max(row['lesions_hit_of_any'], 1e-9):.2f}",
            sizes,
            interval("isles_f1"),
            _shown(row["anima_f1"]),
            froc,
            _shown(row["auroc"]),
        )
    )
    return f"| {' | '.join(cells)} |"


def _shown(value: object) -> str:
    return "–" if value == "" else f"{value:.2f}"
