# SPDX-License-Identifier: Apache-2.0
"""Where weights come from: a file beside them that the training writes, so that no diary has to."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ignite.distributed import one_rank_only
from ignite.engine import Engine, Events

from ..io.files import whole_file
from ..paths import __version__, bundle_root
from ..scoring.calibration import weights_hash

__all__ = ["PROVENANCE", "Provenance", "read_provenance", "write_provenance"]

logger = logging.getLogger(__name__)

PROVENANCE = "provenance.json"
SPLIT = "split.json"
ABSOLUTE = re.compile(r"(?<![\w./~:])/(?:[^\s'\",\[\]/]+/)*")  # the folders of a path


class Provenance:
    """After every epoch, write beside the weights what made them: version and commit, command, data, seed, epochs and
    steps so far, and the weights that it began from.

    Of paths only the last name is kept: where files lie on a machine is nobody's business.

    Args:
        weights: the file that the training writes (`bundle.training.handlers.WeightsWriter`), before this handler.
        dataset_dir: of the training.
        split: split file, or None.
        deal: part → people, where a hash of their names deals them and no file; it is written beside the weights as
            ``split.json``, so that calibration and evaluation can be given the same.
        seed: of the training.
        parents: weights that it begins from; None among them is left out.
    """

    def __init__(
        self,
        weights: str | Path,
        dataset_dir: str | Path,
        seed: int,
        split: str | Path | None = None,
        parents: Sequence[str | Path | None] = (),
        deal: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.weights, self.deal = Path(weights), deal
        self.known = {
            "flipmap": __version__,
            "commit": _commit(),
            "command": [_without_folders(part) for part in sys.argv[1:]],
            "data": Path(dataset_dir).resolve().name,
            "split": _said_of(split, deal),
            "seed": seed,
            "parents": [{"name": Path(one).name, "sha256": weights_hash(one)} for one in parents if one],
        }

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)
        self._write_split()

    @one_rank_only()
    def _write_split(self) -> None:
        if self.deal:
            path = self.weights.with_name(SPLIT)
            with whole_file(path) as temporary:
                temporary.write_text(_split_text(self.deal), encoding="utf-8")
            counts = ", ".join(f"{len(people)} {part}" for part, people in self.deal.items())
            logger.info(
                "people dealt by a hash of their names: %s; calibrate and evaluate with --split %s", counts, path
            )

    @one_rank_only()
    def __call__(self, engine: Engine) -> None:
        steps = {"epochs": engine.state.epoch, "steps": engine.state.iteration}
        write_provenance(self.weights, {**self.known, **steps, "sha256": weights_hash(self.weights)})


def _said_of(split: str | Path | None, deal: Mapping[str, Sequence[str]] | None) -> dict | None:
    """Name and hash of a split; of one by a hash of names, of the file that is written."""
    if split:
        return {"name": Path(split).name, "sha256": weights_hash(split)}
    if not deal:
        return None
    return {"name": "by a hash of names", "sha256": hashlib.sha256(_split_text(deal).encode()).hexdigest()}


def _split_text(deal: Mapping[str, Sequence[str]]) -> str:
    said = {"comment": "Dealt by a hash of the names", "subjects": {part: sorted(one) for part, one in deal.items()}}
    return json.dumps(said, indent=1) + "\n"


def write_provenance(weights: str | Path, known: Mapping[str, object]) -> None:
    """Beside weights; the file is replaced whole.

    Raises:
        OutputError: when it cannot be written.
    """
    with whole_file(Path(weights).with_name(PROVENANCE)) as temporary:
        temporary.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def read_provenance(weights: str | Path) -> dict:
    """Of weights; with no more than their name and hash where no training has left more.

    Raises:
        WeightsError: when there are no such weights.
    """
    path = Path(weights).with_name(PROVENANCE)
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    stamp = weights_hash(weights)
    # What lies beside other weights of the same folder says nothing of these.
    return known if known.get("sha256") == stamp else {"name": Path(weights).name, "sha256": stamp}


def _commit() -> str | None:
    """Of the checkout; None for an installed package, or without git."""
    try:
        command = ["git", "-C", bundle_root(), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _without_folders(text: str) -> str:
    """``/a/b/c`` → ``c`` wherever it stands in a text."""
    return ABSOLUTE.sub("", text)
