# SPDX-License-Identifier: Apache-2.0
"""The report of a batch: one HTML file that needs no network and no other file."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from .. import __version__
from ..errors import FlipmapError
from ..io.files import whole_file
from .job import Job
from .plan import ENFACE, PlannedCase
from .record import Record
from .viewer import script, volumes

__all__ = ["NAME", "write_page"]

logger = logging.getLogger(__name__)

NAME = "report.html"
SHOWN = 10  # findings a case


def write_page(
    output: Path, cases: Sequence[PlannedCase], records: Sequence[Record], job: Job, viewed: Sequence[str] = ()
) -> Path:
    """Write ``report.html`` from what the cases left on disk, those of earlier runs included.

    Args:
        output: folder of the results.
        cases: of the plan.
        records: of all its cases, and of the series that were skipped.
        job: that made them.
        viewed: cases that get a view of their volumes: names, or a number for so many of the highest score.

    Returns:
        its path.

    Raises:
        OutputError: when it cannot be written.
    """
    by_name = {case.name: case for case in cases}
    groups: dict[str, list[dict]] = {"done": [], "failed": [], "skipped": []}
    for record in records:
        row = {**vars(record), "anchor": f"case-{record.name}"}
        if record.status.startswith("done"):
            groups["done"].append({**row, "volumes": None, **_contents(by_name[record.name], output)})
        else:
            groups[record.status].append(row)
    groups["done"].sort(key=lambda row: (-row["case_score"], row["name"]))
    for row in _viewed(groups["done"], viewed):
        case = by_name[row["name"]]
        try:
            row["volumes"] = volumes(job.read(case.case), case.path(output, case.outputs["pred"][0]))
        except (FlipmapError, OSError) as error:  # the scan has gone since
            logger.warning("%s: no volume view, %s", row["name"], error)
    settings = job.settings
    environment = Environment(
        loader=PackageLoader("bundle", "batch"), autoescape=select_autoescape(), undefined=StrictUndefined
    )
    text = environment.get_template("page.html").render(
        done=groups["done"],
        failed=groups["failed"],
        skipped=groups["skipped"],
        total=len(groups["done"]) + len(groups["failed"]),
        threshold=settings.get("threshold", ""),
        method=settings.get("method", ""),
        region=settings.get("region", "brain"),
        calibration=job.calibration_points,
        units=job.units,
        niivue=script() if any(row.get("volumes") for row in groups["done"]) else "",
        version=__version__,
    )
    with whole_file(output / NAME) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return output / NAME


def _viewed(done: Sequence[dict], asked: Sequence[str]) -> list[dict]:
    """Rows of the cases that were asked for, by name or as the first so many."""
    first = max((int(one) for one in asked if one.isdigit()), default=0)
    return [row for number, row in enumerate(done) if number < first or row["name"] in asked]


def _contents(case: PlannedCase, output: Path) -> dict:
    """Picture and findings of a case that is done."""
    picture, enface = case.path(output, case.outputs["picture"][0]), case.path(output, ENFACE)
    findings = json.loads(case.path(output, case.outputs["findings"][0]).read_text(encoding="utf-8"))
    return {
        "picture": base64.b64encode(picture.read_bytes()).decode(),
        "enface": base64.b64encode(enface.read_bytes()).decode() if enface.exists() else "",
        "details": findings["findings"][:SHOWN],
        "table_end": findings.get("table_end"),
    }
