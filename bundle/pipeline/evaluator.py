# SPDX-License-Identifier: Apache-2.0
"""MONAI's SupervisedEvaluator over cases, of which any may fail."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sized
from pathlib import Path
from typing import Any, cast

from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator
from tqdm import tqdm

from ..errors import EXIT_CODES, FlipmapError
from ..threads import ARITHMETIC
from .dataset import FAILURE, explain

__all__ = ["CaseEvaluator", "ScanBar"]

logger = logging.getLogger(__name__)


class CaseEvaluator(SupervisedEvaluator):
    """One case an iteration: a line in the log for each, and an exit code for all.

    Takes the arguments of SupervisedEvaluator. A case fails when it could not be prepared (`CaseDataset`), scored or
    written; it is named, and the next one goes on.
    """

    def __init__(self, *, postprocessing: Callable[[dict], dict] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs, postprocessing=_in_turn(postprocessing))
        self.logger.setLevel(logging.WARNING)  # of epochs and iterations, which say nothing here, unlike the cases
        self.failures: list[FlipmapError] = []
        self.completed = 0
        self._iterated = time.perf_counter()

    def _iteration(self, engine: SupervisedEvaluator, batchdata: dict) -> dict:
        case = {key: _single(batchdata.get(key)) for key in ("name", "image")}
        try:
            if FAILURE in batchdata:
                raise batchdata[FAILURE]
            output = super()._iteration(engine, batchdata)
        except Exception as error:
            self.failures.append(explain(error, case))
            logger.error("FAILED %s", self.failures[-1])
            output = {}
        else:
            self.completed += 1
            logger.info("%s: done in %.1f s", case["name"], time.perf_counter() - self._iterated)
        self._iterated = time.perf_counter()  # reading the next case counts towards it
        return output

    def finish(self, output_dir: str | Path | None = None) -> None:
        """Sum up; leave with exit code 1 if any case failed.

        Args:
            output_dir: folder of the results, to be named.

        Raises:
            SystemExit: with the exit code, when it is not 0.
        """
        total = self.completed + len(self.failures)
        logger.info("%d of %d scans done, %d failed", self.completed, total, len(self.failures))
        if output_dir is not None and self.completed:
            logger.info("results: %s", Path(output_dir).resolve())
        for failure in self.failures:
            logger.error("failed: %s", failure)
        if self.failures:
            raise SystemExit(EXIT_CODES["some case failed"])


class ScanBar:
    """On a terminal a bar from the first scan on: how many are done, and how long the others may take."""

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        engine.add_event_handler(Events.COMPLETED, self._end)

    def _begin(self, engine: Engine) -> None:
        self.bar = tqdm(total=len(cast("Sized", engine.state.dataloader)), unit="scan", desc="scans", disable=None)

    def _step(self) -> None:
        self.bar.update()

    def _end(self) -> None:
        self.bar.close()


def _in_turn(transform: Callable[[dict], dict] | None) -> Any:
    """The same, one thread of arithmetic like any other: the next case is read at the same time."""
    if transform is None:
        return None

    def transformed(item: dict) -> dict:
        with ARITHMETIC.turn():
            return transform(item)

    return transformed


def _single(value: object) -> object:
    return value[0] if isinstance(value, list) and len(value) == 1 else value
