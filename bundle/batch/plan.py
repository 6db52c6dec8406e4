# SPDX-License-Identifier: Apache-2.0
"""What a batch will do before it does anything: a line a case, and which of them are done already."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ..cases import is_bids_root, stem
from ..io.dicom import DicomSeries
from ..io.volumes import files_of
from ..modalities import MODALITIES
from ..outputs import DICOM_OUTPUTS, ENFACE, OUTPUTS, SIDECAR
from ..pipeline.save import named
from ..scoring.calibration import UNITS

__all__ = [
    "DICOM_OUTPUTS",
    "ENFACE",
    "OUTPUTS",
    "SIDECAR",
    "PlannedCase",
    "SkipReason",
    "contrasts_of",
    "is_done",
    "plain",
    "plan_cases",
    "plan_series",
    "sha256_of",
]


@dataclass(frozen=True)
class PlannedCase:
    """A case of a batch.

    Attributes:
        name: unique in the batch.
        inputs: ``image``, a path or a DICOM series, and ``brain`` where there is a mask, a path.
        stem: of every output, relative to the output folder.
        region: the organ.
        voxel_um: voxel size that the case brings along, µm.
        units: of its map, for the names of its files.
        root: input folder, so that provenance can name files without where they lie.
        members: contrast → case, where the map is made of theirs (`bundle.batch.head`).
    """

    name: str
    inputs: Mapping[str, str | DicomSeries]
    stem: Path
    region: str = "brain"
    voxel_um: tuple[float, ...] | None = None
    units: str = UNITS
    root: Path = field(default=Path(), compare=False)
    members: Mapping[str, PlannedCase] = field(default_factory=dict, compare=False)

    @property
    def outputs(self) -> dict[str, tuple[str, str]]:
        """`OUTPUTS` of its organ."""
        return {
            key.format(region=self.region): (ending.format(region=self.region), kind)
            for key, (ending, kind) in OUTPUTS.items()
        }

    @property
    def case(self) -> dict:
        """What the job takes."""
        given = {**self.inputs, "name": self.name}
        return {**given, "voxel_um": self.voxel_um} if self.voxel_um else given

    @property
    def endings(self) -> list[str]:
        """Of all its outputs, the sidecar left out."""
        return [*(ending for ending, _ in self.outputs.values()), *self.dicom_endings]

    @property
    def dicom_endings(self) -> list[str]:
        """Of what goes back to an archive; raw scores have no bands."""
        if not isinstance(self.inputs["image"], DicomSeries):
            return []
        return [ending for key, ending in DICOM_OUTPUTS.items() if key != "bands" or self.units == UNITS]

    def path(self, output: Path, ending: str) -> Path:
        """A file of this case in the output folder."""
        return output / self.stem.parent / f"{self.stem.name}_{named(ending, self.units)}"

    @cached_property
    def input_hashes(self) -> dict[str, str]:
        """SHA-256 of every input; of a series, of the hashes of its files."""
        return {key: _hash(given) for key, given in self.inputs.items()}

    @property
    def series(self) -> list[DicomSeries]:
        """Those of its inputs that came as DICOM."""
        return [given for given in self.inputs.values() if isinstance(given, DicomSeries)]

    @property
    def where(self) -> str:
        """What stands for the case in messages: its file; of a series its name, since paths may name people."""
        image = self.inputs["image"]
        return image.name if isinstance(image, DicomSeries) else image


def plan_cases(
    cases: Sequence[Mapping], root: str | Path, region: str = "brain", units: str = UNITS
) -> list[PlannedCase]:
    """Where the outputs of cases go: as BIDS derivatives for a BIDS root, their contrast as entity ``mod``; by their
    names otherwise.

    Args:
        cases: from `bundle.cases.find_scans`.
        root: that they were found in.
        region: the organ.
        units: of the maps.
    """
    root = Path(root).expanduser()
    bids = root.is_dir() and is_bids_root(root)
    planned = []
    for case in cases:
        image = Path(case["image"])
        name = plain("_mod-".join(stem(image).rsplit("_", 1)) if bids else case["name"])
        folder = image.parent.relative_to(root) if bids else Path()
        inputs = {key: str(case[key]) for key in ("image", "brain") if key in case}
        size = tuple(case["voxel_um"]) if case.get("voxel_um") else None
        where = root if root.is_dir() else root.parent
        planned.append(PlannedCase(plain(case["name"]), inputs, folder / name, region, size, units, where))
    return planned


def plain(name: str) -> str:
    """A name without control characters, which would break lines of logs and tables; a hash tells apart what is
    replaced.
    """
    kept = "".join(letter if letter.isprintable() else "_" for letter in name)
    return name if kept == name else f"{kept}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


class SkipReason(str):
    """Why a series is skipped, in words; it knows the series."""

    series: DicomSeries

    @classmethod
    def of(cls, why: str, series: DicomSeries) -> SkipReason:
        """Of a series."""
        reason = cls(why)
        reason.series = series
        return reason


def plan_series(
    series: Sequence[DicomSeries], rule: str | None = None, units: str = UNITS
) -> tuple[list[PlannedCase], dict[str, str]]:
    """The series to run, and those that are skipped: name → why, a `SkipReason`.

    Args:
        series: from `bundle.io.dicom.find_series`.
        rule: regular expression that the description must hold.
        units: of the maps.
    """
    planned: list[PlannedCase] = []
    skipped: dict[str, str] = {}
    for one in series:
        if not one.meant:
            skipped[one.name] = SkipReason.of(one.problem, one)
        elif not one.matches(rule):
            skipped[one.name] = SkipReason.of(f"{_described(one)}, {_not_asked_for(rule)}", one)
        else:
            planned.append(PlannedCase(one.name, {"image": one}, Path(one.name), units=units))
    return planned, skipped


def _described(series: DicomSeries) -> str:
    return f"described as {series.description!r}" if series.description else "without a description"


def _not_asked_for(rule: str | None) -> str:
    """Why a rule leaves a series out, in words where the rule is our own."""
    if names := contrasts_of(rule):
        return f"which is not {names.replace('T1w', 'T1w without contrast agent')}; --series takes others"
    return "which is not what --series asks for"


def contrasts_of(rule: str | None) -> str:
    """The contrasts that a rule of descriptions is for, in words; empty for a rule of somebody's own."""
    names = [one.suffix for one in MODALITIES.values() if rule and one.suffix and one.series and one.series in rule]
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def is_done(case: PlannedCase, output: Path, fingerprint: str) -> bool:
    """Whether outputs are complete, and inputs and config those that made them."""
    try:
        said = json.loads(case.path(output, SIDECAR).read_text(encoding="utf-8"))
        if said["fingerprint"] != fingerprint or said["inputs_sha256"] != case.input_hashes:
            return False
        return all(sha256_of(output / name) == known for name, known in said["outputs_sha256"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False  # missing, cut short or of another version: done again


def _hash(given: str | DicomSeries) -> str:
    if isinstance(given, DicomSeries):
        files = sorted(map(sha256_of, given.files))
    elif Path(given).is_dir():  # of B-scans, whose order counts
        files = [sha256_of(path) for path in sorted(Path(given).iterdir()) if path.is_file()]
    elif len(files := list(map(sha256_of, files_of(given)))) == 1:
        return files[0]
    return hashlib.sha256("".join(files).encode()).hexdigest()


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file, read in pieces.

    Raises:
        OSError: when it cannot be read.
    """
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
