# SPDX-License-Identifier: Apache-2.0
"""The report of a batch: one HTML file that needs no network and no other file."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from monai.data import MetaTensor

from ..errors import FlipmapError
from ..io.files import whole_file
from ..paths import __version__
from ..pipeline.job import Job
from .plan import ENFACE, PlannedCase
from .record import Record
from .viewer import script, volumes

__all__ = ["NAME", "Facts", "write_page"]

logger = logging.getLogger(__name__)

NAME = "report.html"
SHOWN = 10  # findings a case
EMBEDDED = 200  # cases whose pictures the page holds; of further ones it names the files, or it would grow to gigabytes


@dataclass(frozen=True)
class Facts:
    """What the report says of the job that made the maps; plain values, so that it can be kept.

    Attributes:
        method, region, threshold, units: of the job.
        calibration: see `Job.calibration_points`.
        fingerprint: see `Job.fingerprint`.
    """

    method: str
    region: str
    threshold: float
    units: str
    calibration: dict | None
    fingerprint: str

    @classmethod
    def of(cls, job: Job) -> Facts:
        """Of a job, as JSON gives it back."""
        settings, points = job.settings, json.loads(json.dumps(job.calibration_points))
        method, region, threshold = (settings[key] for key in ("method", "region", "threshold"))
        return cls(method, region, threshold, job.units, points, job.fingerprint)


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
        status = "done" if record.status.startswith("done") else record.status
        groups[status].append({**vars(record), "anchor": f"case-{record.name}"})
    groups["done"].sort(key=lambda row: (-row["case_score"], row["name"]))
    for number, row in enumerate(groups["done"]):
        row |= {"volumes": None, **_contents(by_name[row["name"]], output, embedded=number < EMBEDDED)}
    for row in _choose_viewed(groups["done"], viewed):
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
    page = environment.get_template("page.html").stream(  # written as it comes: pictures are large
        done=groups["done"],
        failed=groups["failed"],
        skipped=groups["skipped"],
        contrasts=any(row["contrast"] for row in groups["done"]),
        total=len(groups["done"]) + len(groups["failed"]),
        threshold=facts.threshold,
        method=facts.method,
        region=facts.region,
        calibration=facts.calibration,
        units=facts.units,
        niivue=script() if any(row.get("volumes") for row in groups["done"]) else "",
        version=__version__,
        source=lambda picture, embedded: _source(picture, embedded, output),
        linked=len(groups["done"]) > EMBEDDED,
    )
    with whole_file(output / NAME) as temporary:
        page.dump(str(temporary), encoding="utf-8")
    return output / NAME


def _source(picture: Path, embedded: bool, output: Path) -> str:
    """Of an image element."""
    if embedded:
        return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
    return quote(picture.relative_to(output).as_posix())


def _choose_viewed(done: Sequence[dict], asked: Sequence[str]) -> list[dict]:
    """Rows of the cases that were asked for, by name or as the first so many."""
    first = max((int(one) for one in asked if one.isdigit()), default=0)
    return [row for number, row in enumerate(done) if number < first or row["name"] in asked]


def _contents(case: PlannedCase, output: Path, embedded: bool) -> dict:
    """Pictures and findings of a case that is done, and whether the page is to hold the pictures."""
    picture, enface = case.path(output, case.outputs["picture"][0]), case.path(output, ENFACE)
    findings = json.loads(case.path(output, case.outputs["findings"][0]).read_text(encoding="utf-8"))
    return {
        "picture": picture,
        "enface": enface if enface.exists() else None,
        "embedded": embedded,
        "details": findings["findings"][:SHOWN],
        "table_end": findings.get("table_end"),
    }
