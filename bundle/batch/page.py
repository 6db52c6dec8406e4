"""The report of a batch: one HTML file that needs no network and no other file."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from .. import __version__
from ..io.files import whole_file
from .plan import PlannedCase
from .record import Record

__all__ = ["NAME", "write_page"]

NAME = "report.html"
SHOWN = 10  # findings a case


def write_page(output: Path, cases: Sequence[PlannedCase], records: Sequence[Record], settings: dict) -> Path:
    """Write ``report.html`` from what the cases left on disk, those of earlier runs included.

    Args:
        output: folder of the results.
        cases: of the plan.
        records: of all its cases, and of the series that were passed over.
        settings: of the job.

    Returns:
        its path.

    Raises:
        OutputError: when it cannot be written.
    """
    by_name = {case.name: case for case in cases}
    groups: dict[str, list[dict]] = {"done": [], "failed": [], "passed over": []}
    for record in records:
        row = {**vars(record), "anchor": f"case-{record.name}"}
        if record.status.startswith("done"):
            groups["done"].append({**row, **_contents(by_name[record.name], output)})
        else:
            groups[record.status].append(row)
    groups["done"].sort(key=lambda row: (-row["case_score"], row["name"]))
    environment = Environment(
        loader=PackageLoader("bundle", "batch"), autoescape=select_autoescape(), undefined=StrictUndefined
    )
    text = environment.get_template("page.html").render(
        done=groups["done"],
        failed=groups["failed"],
        passed=groups["passed over"],
        total=len(groups["done"]) + len(groups["failed"]),
        threshold=settings.get("threshold", ""),
        method=settings.get("method", ""),
        version=__version__,
    )
    with whole_file(output / NAME) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return output / NAME


def _contents(case: PlannedCase, output: Path) -> dict:
    """Picture and findings of a case that is done."""
    picture = case.path(output, case.outputs["picture"][0])
    findings = json.loads(case.path(output, case.outputs["findings"][0]).read_text(encoding="utf-8"))
    return {
        "picture": base64.b64encode(picture.read_bytes()).decode(),
        "details": findings["findings"][:SHOWN],
    }
