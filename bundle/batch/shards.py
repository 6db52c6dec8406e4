# SPDX-License-Identifier: Apache-2.0
"""A batch in several runs, on one machine or many: which case is whose, a table a run, and the tables joined."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import DatasetError, FlipmapError
from ..pipeline.save import write_json
from .page import Facts, write_page
from .plan import PlannedCase
from .record import Record, write_table

__all__ = ["FOLDER", "TABLE", "WHOLE", "Shard", "join", "missing_shards", "write_results"]

TABLE = "batch.csv"
FOLDER = "shards"  # of the output folder: what each run leaves for `join`


@dataclass(frozen=True)
class Shard:
    """One of several runs over the same input.

    Attributes:
        number: 1 to ``count``.
        count: of runs.
        label: of a run whose cases were chosen by something else than a number, participants for instance.
    """

    number: int = 1
    count: int = 1
    label: str = ""

    @classmethod
    def of(cls, text: str) -> Shard:
        """``3/16`` → the third of sixteen.

        Raises:
            FlipmapError: when it is no such text.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise FlipmapError(f"--shard {text}", "no number of a run and how many there are", "Write --shard 3/16")
        return cls(int(found[1]), int(found[2]))

    @property
    def name(self) -> str:
        """Of its files."""
        return self.label or f"{self.number:0{len(str(self.count))}d}-of-{self.count}"

    @property
    def whole(self) -> bool:
        """Whether it is the only run, so that its table is that of the batch."""
        return self.count == 1 and not self.label

    def holds(self, case: str) -> bool:
        """Whether a case is its own: by a hash of the name, so that every machine says the same."""
        return int(hashlib.sha256(case.encode()).hexdigest()[:12], 16) % self.count == self.number - 1


#: A run that has all cases.
WHOLE = Shard()


def write_results(
    output: Path,
    shard: Shard,
    cases: Sequence[PlannedCase],
    records: Sequence[Record],
    facts: Facts,
) -> None:
    """What `join` needs of a run, and its table where it is one of several.

    Raises:
        OutputError: when it cannot be written.
    """
    stems = {case.name: case.stem.as_posix() for case in cases}
    rows = [{**asdict(record), "stem": stems.get(record.name)} for record in records]
    write_json(output / FOLDER / f"{shard.name}.json", {"facts": asdict(facts), "records": rows})
    if not shard.whole:
        write_table(output / FOLDER / f"{shard.name}.csv", records)


def join(output: Path) -> list[Record]:
    """Write ``batch.csv`` and the report from what the runs have left, those that still run included.

    Raises:
        DatasetError: when no run has left anything, or not all of the shards have.
        FlipmapError: when they were of different settings.
        OutputError: when it cannot be written.
    """
    parts = sorted((output / FOLDER).glob("*.json"), key=lambda path: path.stat().st_mtime)
    if not parts:
        raise DatasetError(output, "no run has left its results in it", "Give the output folder of flipmap run")
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in parts]
    facts = [Facts(**content["facts"]) for content in contents]
    if differing := [path.stem for path, one in zip(parts, facts, strict=True) if one != facts[-1]]:
        reason = f"runs of other settings or weights than the last one: {', '.join(differing)}"
        raise FlipmapError(output, reason, "Run them again, or take a folder of its own")
    rows = {row["name"]: row for row in _better_last(row for content in contents for row in content["records"])}
    records, cases = [], []
    for row in rows.values():
        stem = row.pop("stem")
        records.append(Record(**row))
        if stem is not None:
            cases.append(PlannedCase(row["name"], {"image": ""}, Path(stem), facts[-1].region, units=facts[-1].units))
    write_table(output / TABLE, records)
    write_page(output, cases, records, facts[-1])
    return records


def missing_shards(output: Path) -> list[str]:
    """Names of shards that have left nothing, of the largest number of them that any has named."""
    present = {path.stem for path in (output / FOLDER).glob("*-of-*.json")}
    count = max((int(name.rpartition("-")[2]) for name in present), default=0)
    if count < 2:
        return []
    return [name for name in (Shard(n, count).name for n in range(1, count + 1)) if name not in present]


def _better_last(rows: Iterable[dict]) -> list[dict]:
    """The rows in their order, but a case that any run has done counts as done."""
    return sorted(rows, key=lambda row: str(row["status"]).startswith("done"))
