# SPDX-License-Identifier: Apache-2.0
"""The report of a batch: one HTML file that needs no network and no other file."""

from __future__ import annotations

import base64
import itertools
import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from matplotlib import colormaps
from monai.data import MetaTensor
from PIL import Image

from ..errors import FlipmapError
from ..io.files import whole_file
from ..paths import __version__
from ..pipeline.job import Job
from ..report.case_picture import LEVELS, SLICES, THROUGH
from ..report.figures import MAP_TOP
from ..scoring.odds import in_words
from .plan import ENFACE, PlannedCase
from .record import Record
from .viewer import script, volumes

__all__ = ["NAME", "Facts", "write_page"]

logger = logging.getLogger(__name__)

NAME = "report.html"
SHOWN = 10  # findings a case
DETAILS = ("rank", "where", "volume_ml", "peak", "mean", "centre_mm", "centre_voxel")  # of a finding
RECORDED = ("name", "status", "case_score", "highest_value", "findings", "left_out", "expected")  # of a case, for words
COLOURS = 64  # steps of the page's colour map
EMBEDDED = 200  # cases whose pictures the page holds; of further ones it names the files, or it would grow to gigabytes


@dataclass(frozen=True)
class Facts:
    """What the report says of the job that made the maps; plain values, so that it can be kept.

    Attributes:
        method, region, threshold, units: of the job.
        calibration: see `Job.calibration_points`.
        fingerprint: see `Job.fingerprint`.
        healthy: see `Job.healthy_case_scores`.
        false_findings: see `bundle.scoring.findings.kept`.
    """

    method: str
    region: str
    threshold: float
    units: str
    calibration: dict | None
    fingerprint: str
    healthy: dict | None = None
    false_findings: float | str = 1.0

    @classmethod
    def of(cls, job: Job) -> Facts:
        """Of a job, as JSON gives it back."""
        settings, points = job.settings, json.loads(json.dumps(job.calibration_points))
        method, region, threshold = (settings[key] for key in ("method", "region", "threshold"))
        healthy = job.healthy_case_scores
        most = job.settings["false_findings"]
        return cls(method, region, threshold, job.units, points, job.fingerprint, healthy, most)


def write_page(
    output: Path,
    cases: Sequence[PlannedCase],
    records: Sequence[Record],
    facts: Facts,
    viewed: Sequence[str] = (),
    read: Callable[[dict], MetaTensor] | None = None,
) -> Path:
    """Write ``report.html`` from what the cases left on disk, those of earlier runs included.

    Args:
        output: folder of the results.
        cases: of the plan.
        records: of all its cases, and of the series that were skipped.
        facts: of the job that made them.
        viewed: cases that get a view of their volumes: names, or a number for so many of the highest score.
        read: case → its scan, for these views.

    Returns:
        its path.

    Raises:
        OutputError: when it cannot be written.
    """
    by_name = {case.name: case for case in cases}
    groups: dict[str, list[dict]] = {"done": [], "failed": [], "skipped": []}
    for record in records:
        groups["done" if record.status.startswith("done") else record.status].append(vars(record))
    done = sorted(({**row} for row in groups["done"]), key=lambda row: (-_score(row), row["name"]))
    for row in done:
        row["volumes"] = None
    for row in _choose_viewed(done, viewed):
        case = by_name[row["name"]]
        if read is None:
            break
        try:
            row["volumes"] = volumes(read(case.case), case.path(output, case.outputs["pred"][0]))
        except (FlipmapError, OSError) as error:  # the scan has gone since
            logger.warning("%s: no volume view, %s", row["name"], error)
    environment = Environment(
        loader=PackageLoader("bundle", "batch"), autoescape=select_autoescape(), undefined=StrictUndefined
    )
    rest = [_untold(state, row) for state in ("failed", "skipped") for row in groups[state]]
    told = (_told(row, by_name[row["name"]], output, number < EMBEDDED) for number, row in enumerate(done))
    page = environment.get_template("page.html").stream(  # written as it comes: pictures are large
        done=done,
        failed=groups["failed"],
        skipped=groups["skipped"],
        rows=itertools.chain(told, rest),
        total=len(done) + len(groups["failed"]),
        **_shown(facts),
        niivue=script() if any(row["volumes"] for row in done) else "",
        linked=len(done) > EMBEDDED,
    )
    with whole_file(output / NAME) as temporary:
        page.dump(str(temporary), encoding="utf-8")
    return output / NAME


def _shown(facts: Facts) -> dict:
    """What the page says of the job, and its style and program."""
    here = files(__package__)
    end = facts.calibration["end"] if facts.calibration else None
    return {
        **{key: getattr(facts, key) for key in ("threshold", "method", "region", "calibration", "units", "healthy")},
        "odds": facts.healthy is not None,
        "false_findings": facts.false_findings,
        "version": __version__,
        "levels": LEVELS,
        "top": round(min(end or math.inf, 255 / LEVELS), 1),
        "shown_from": 1.0,
        "colours": _colour_tables(),
        "style": here.joinpath("page.css").read_text(encoding="utf-8"),
        "program": here.joinpath("page.js").read_text(encoding="utf-8"),
    }


def _colour_tables() -> list[str]:
    """Red, green and blue of the levels of the map, for the filter of the page: the colours of `MAP_TOP`."""
    values = np.linspace(0, 255 / LEVELS, COLOURS)
    shown = colormaps["inferno"](np.clip((values - 1) / (MAP_TOP - 1), 0, 1))[:, :3]
    return [" ".join(f"{one:.3f}" for one in channel) for channel in shown.T]


def _told(row: dict, case: PlannedCase, output: Path, embedded: bool) -> dict:
    """A case that is done, for the page's program; its pictures in the page, or the names of their files."""
    sheet, enface = case.path(output, case.outputs["sheet"][0]), case.path(output, ENFACE)
    findings = json.loads(case.path(output, case.outputs["findings"][0]).read_text(encoding="utf-8"))
    with Image.open(sheet) as picture:
        slices, through = ([int(number) for number in picture.info.get(key, "").split()] for key in (SLICES, THROUGH))
        tile = (picture.width // len(slices), picture.height // 2)
    return {
        "name": row["name"],
        "state": "done",
        "score": _score(row),
        "words": Record(**{key: row[key] for key in RECORDED}).in_words,
        "findings": row["findings"],
        "left_out": row["left_out"],
        "notes": row["notes"],
        "ml": row["largest_ml"],
        "seconds": row["seconds"],
        "contrast": row["contrast"],
        "sure": row["contrast_probability"],
        "end": findings.get("table_end"),
        "details": [_detail(one) for one in findings["findings"][:SHOWN]],
        "slices": slices,
        "through": through,
        "tile": tile,
        "embedded": embedded,
        "picture": _source(sheet, embedded, output),
        "enface": _source(enface, embedded, output) if enface.exists() else None,
    }


def _score(row: dict) -> float:
    """What cases are put in order by: the case score, or, without odds, the highest value."""
    return row["highest_value"] if row["case_score"] is None else row["case_score"]


def _detail(finding: dict) -> dict:
    """A finding, as the page shows it."""
    known = finding["expected"] is not None
    odds = in_words(finding["expected"], finding["beyond"]) if known else ""
    return {**{key: finding[key] for key in DETAILS}, "odds": odds}


def _untold(state: str, row: dict) -> dict:
    return {"name": row["name"], "state": state, "contrast": "", "reason": row["reason"], "remedy": row["remedy"]}


def _source(picture: Path, embedded: bool, output: Path) -> str:
    """Of a picture: its bytes as Base64, or its file beside the page."""
    return (
        base64.b64encode(picture.read_bytes()).decode() if embedded else quote(picture.relative_to(output).as_posix())
    )


def _choose_viewed(done: Sequence[dict], asked: Sequence[str]) -> list[dict]:
    """Rows of the cases that were asked for, by name or as the first so many."""
    first = max((int(one) for one in asked if one.isdigit()), default=0)
    return [row for number, row in enumerate(done) if number < first or row["name"] in asked]
