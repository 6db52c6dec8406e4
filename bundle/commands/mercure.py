# SPDX-License-Identifier: Apache-2.0
"""Be a module of mercure: map the series of MERCURE_IN_DIR, and leave results in MERCURE_OUT_DIR.

mercure (https://mercure-imaging.org) starts a container for each series or study, and sends on the DICOM files that it
leaves. Settings of the module, in task.json under process, settings: contrast, series, derived (true takes derived
series, too), and set, a mapping of ids of configs/inference.json. result.json says what was found.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import EXIT_CODES, DatasetError, FlipmapError

if TYPE_CHECKING:
    from ..batch.record import Record

__all__ = ["add_arguments", "run"]

NOTICE = "Research only: not a medical device, not for diagnosis."
KNOWN = ("contrast", "series", "derived", "set")  # settings of the module


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", type=Path, nargs="?", help="folder of the series (default: MERCURE_IN_DIR)")
    parser.add_argument("output", type=Path, nargs="?", help="folder of the results (default: MERCURE_OUT_DIR)")


def run(options: argparse.Namespace) -> int:
    from ..archive.results import collect_results
    from ..batch.head import heads_of
    from ..batch.run import run_batch
    from ..batch.sources import plan_of
    from ..io.dicom import DicomSeries
    from ..pipeline.contrasts import ContrastJob
    from ..pipeline.save import write_json
    from ..pipeline.spec import AUTO, JobSpec

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    source = _folder(options.input, "MERCURE_IN_DIR")
    output = _folder(options.output, "MERCURE_OUT_DIR")
    settings = _settings(source / "task.json")
    job = JobSpec((), settings.get("set", {}), settings.get("contrast", AUTO)).load()
    try:
        plan, skipped = plan_of(source, job, settings.get("series"), derived=bool(settings.get("derived")))
    except DatasetError as error:
        write_json(output / "result.json", _result([], {}, f"{error.reason}. {error.remedy}"))
        raise
    plan = [case for case in plan if isinstance(case.inputs["image"], DicomSeries)]
    plan += heads_of(plan, job) if isinstance(job, ContrastJob) and not job.uncalibrated else []
    with tempfile.TemporaryDirectory() as temporary:
        mapped = Path(temporary) / "maps"
        records = run_batch(plan, job, mapped, skipped=skipped)
        done = {record.name for record in records if record.status == "done"}
        for case in (case for case in plan if case.name in done):
            collected = collect_results(case, mapped, Path(temporary) / case.name, job.fingerprint)
            for path in collected:
                _publish(path, output / f"{case.name}#{path.name}")
    write_json(output / "result.json", _result(records, skipped))
    return EXIT_CODES["some case failed" if any(one.status == "failed" for one in records) else "all good"]


def _folder(given: Path | None, variable: str) -> Path:
    folder = given or (Path(os.environ[variable]) if os.environ.get(variable) else None)
    if folder is None or not folder.is_dir():
        raise FlipmapError(variable, f"no folder: {folder}", f"Set {variable}, or give the folder")
    return folder


def _settings(task: Path) -> dict:
    """Of the module, from the task that mercure leaves beside the images."""
    if not task.exists():
        return {}
    try:
        found = json.loads(task.read_text(encoding="utf-8"))
        process = found.get("process") or {}
        process = process[0] if isinstance(process, list) else process
        settings = process.get("settings") or {}
        unknown = sorted(set(settings) - set(KNOWN))
    except (ValueError, AttributeError, IndexError, TypeError) as error:
        raise FlipmapError(task, f"not readable ({error})", "It is mercure's task file") from error
    if unknown:
        raise FlipmapError(task, f"unknown settings {', '.join(unknown)}", f"Known are {', '.join(KNOWN)}")
    return settings


def _publish(path: Path, to: Path) -> None:
    """Whole or not at all, on another file system too."""
    from ..io.files import whole_file

    with whole_file(to) as temporary:
        temporary.write_bytes(path.read_bytes())


def _result(records: list[Record], skipped: dict[str, str], nothing: str = "nothing to map") -> dict:
    """What mercure keeps and notifies of; ``nothing`` says what there is where no series is to be mapped."""
    rows = [
        {
            "name": one.name,
            "status": one.status,
            "case_score": one.case_score,
            "findings": one.findings,
            "expected": one.expected,
            "largest_ml": one.largest_ml,
            "contrast": one.contrast,
            "reason": one.reason,
            "remedy": one.remedy,
        }
        for one in records
    ]
    said = [f"{one.name}: case score {one.case_score}, {one.in_words}" for one in records if one.status == "done"]
    said += [f"{one.name}: {one.status}, {one.reason}" for one in records if one.status != "done"]
    text = "; ".join(said) or "; ".join(skipped.values()) or nothing
    return {"cases": rows, "skipped": skipped, "__mercure_notification": {"text": f"{text}. {NOTICE}"}}
