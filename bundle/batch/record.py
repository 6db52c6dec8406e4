# SPDX-License-Identifier: Apache-2.0
"""What a batch leaves behind beside the maps: provenance a case, a table of all."""

from __future__ import annotations

import csv
import json
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..io.dicom import DicomSeries
from ..io.files import whole_file
from ..paths import __version__
from ..pipeline.save import write_json
from ..scoring.odds import in_words
from .plan import ENFACE, SIDECAR, PlannedCase, sha256_of

__all__ = ["Record", "read_record", "versions", "with_series", "write_description", "write_sidecar", "write_table"]

FORMULAS = ("=", "+", "-", "@", "\t", "\r")  # what a formula begins with
PACKAGES = ("torch", "monai", "numpy", "nibabel", "scipy")


@dataclass(frozen=True)
class Record:
    """One row of the batch table.

    Attributes:
        name: of the case.
        status: ``done``, ``done before``, ``failed``, or ``skipped``: a series that nobody asked for.
        case_score: see `bundle.scoring.odds.FindingOdds.score`; None without odds.
        highest_value: see `bundle.scoring.findings.highest_value`.
        findings: how many are kept.
        left_out: how many are not, since healthy scans have more like them.
        expected: findings as extreme as the rarest that a healthy scan has on average.
        largest_ml: volume of the largest.
        seconds: from reading to writing.
        contrast: what a brain scan was taken for.
        contrast_probability: how sure that is, as the network says.
        reason: why it failed, or was skipped.
        remedy: the remedy.
        series_uid: SeriesInstanceUID of a DICOM series, so that an archive can find it; of several, all.
        description: its SeriesDescription.
        accession: its AccessionNumber.
        notes: what to know of the scan before its map is read, see `bundle.notes`.
    """

    name: str
    status: str
    case_score: float | None = None
    highest_value: float | None = None
    findings: int | None = None
    left_out: int | None = None
    expected: float | None = None
    largest_ml: float | None = None
    seconds: float | None = None
    contrast: str = ""
    contrast_probability: float | None = None
    reason: str = ""
    remedy: str = ""
    series_uid: str = ""
    description: str = ""
    accession: str = ""
    notes: str = ""

    @classmethod
    def of(
        cls,
        name: str,
        status: str,
        findings: dict,
        seconds: float,
        told: tuple[str, float] | None = None,
        notes: str = "",
    ) -> Record:
        """The row of a case from its findings, and what its contrast was told to be
        (`bundle.transforms.recognise.contrast_of`).
        """
        kept, (contrast, probability) = findings["findings"], told or ("", None)
        return cls(
            name,
            status,
            case_score=findings["case_score"],
            highest_value=findings["highest_value"],
            findings=len(kept),
            left_out=findings["left_out"],
            expected=kept[0]["expected"] if kept else None,
            largest_ml=max((one["volume_ml"] for one in kept), default=0.0),
            seconds=round(seconds, 2),
            contrast=contrast,
            contrast_probability=None if probability is None else round(probability, 3),
            notes=notes,
        )

    @property
    def order(self) -> tuple[bool, float, str]:
        """Sorts the highest score first, cases without one last; without odds the highest value is the score."""
        score = self.highest_value if self.case_score is None else self.case_score
        return score is None, -(score or 0.0), self.name

    @property
    def in_words(self) -> str:
        """What the map of a case that is done says, in a sentence."""
        if not self.findings:
            return "nothing beyond what healthy people have" if self.case_score is not None else "no findings"
        what = f"{self.findings} finding{'s' * (self.findings > 1)}"
        return what if self.expected is None else f"{what}, the rarest: {in_words(self.expected, False)}"


def with_series(record: Record, series: Sequence[DicomSeries]) -> Record:
    """The row of a case with what finds its DICOM series in an archive."""
    if not series:
        return record

    def joined(values: Iterable[str]) -> str:
        return "; ".join(dict.fromkeys(value for value in values if value))

    return replace(
        record,
        series_uid=joined(one.uid for one in series),
        description=joined(one.title for one in series),
        accession=joined(one.accession for one in series),
    )


@cache
def versions() -> dict[str, str]:
    """Versions of what makes the map."""
    found = {"flipmap": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found


def write_sidecar(
    case: PlannedCase,
    output: Path,
    fingerprint: str,
    settings: dict,
    seconds: float,
    told: tuple[str, float] | None = None,
    notes: str = "",
) -> None:
    """Provenance of a case; its being there says that the case is complete.

    Names are relative to the input and output folders: where they lie says something about people.

    Raises:
        OutputError: when it cannot be written.
    """
    outputs = [case.path(output, ending) for ending in case.endings]
    outputs += [path for path in [case.path(output, ENFACE)] if path.exists()]
    said = {
        "Description": f"Anomaly map: {case.units}, 0 outside the {case.region}",
        "Sources": [_source(given, case.root) for given in case.inputs.values()],
        "inputs_sha256": case.input_hashes,
        "outputs_sha256": {path.relative_to(output).as_posix(): sha256_of(path) for path in outputs},
        "fingerprint": fingerprint,
        "settings": settings,
        "contrast": list(told) if told else None,
        "notes": notes,
        "versions": versions(),
        "seconds": round(seconds, 2),
    }
    write_json(case.path(output, SIDECAR), said)


def read_record(case: PlannedCase, output: Path) -> Record:
    """The row of a case that was done before."""
    findings = json.loads(case.path(output, case.outputs["findings"][0]).read_text(encoding="utf-8"))
    said = json.loads(case.path(output, SIDECAR).read_text(encoding="utf-8"))
    return Record.of(case.name, "done before", findings, said["seconds"], said.get("contrast"), said.get("notes", ""))


def write_table(path: Path, records: Iterable[Record]) -> None:
    """CSV, a row a case, the highest case score first and the failures last."""
    rows = sorted(records, key=lambda record: record.order)
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Record)])
        writer.writeheader()
        writer.writerows({key: _harmless(value) for key, value in asdict(row).items()} for row in rows)


def _harmless(value: object) -> object:
    """A cell that no spreadsheet takes for a formula (OWASP, CSV injection)."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULAS) else value


def write_description(output: Path) -> None:
    """``dataset_description.json`` of a BIDS derivative."""
    said = {
        "Name": "flipmap anomaly maps",
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "flipmap", "Version": __version__}],
    }
    write_json(output / "dataset_description.json", said)


def _source(given: str | DicomSeries, root: Path) -> str:
    if isinstance(given, DicomSeries):
        return f"{given.name} ({len(given.files)} DICOM files)"
    try:
        return Path(given).relative_to(root).as_posix()
    except ValueError:
        return Path(given).name
