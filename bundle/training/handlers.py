# SPDX-License-Identifier: Apache-2.0
"""Handlers of the training runs: moving average, weights on disk, pictures."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from ignite.distributed import get_rank, one_rank_only
from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler, ProgressBar
from monai.handlers import CheckpointLoader, CheckpointSaver, StatsHandler
from torch import nn
from torch.utils.data import DistributedSampler

from ..io.files import whole_file
from ..report.figures import save_panels

__all__ = ["EMA", "EpochLog", "LossBar", "Pictures", "Resume", "WeightsWriter", "handlers_of_rank"]

logger = logging.getLogger(__name__)

BEGINNING = "Engine run resuming from iteration 0, epoch 0"  # what ignite says of every first run of MONAI's engines


class EMA(EMAHandler):
    """ignite's exponential moving average of weights, attached as MONAI attaches its handlers.

    Args:
        model: the module under training.
        decay: weight of the past, per iteration (0.999 in arXiv 2403.11667).
        warmup_iters: iterations over which ``decay`` is reached.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999, warmup_iters: int = 200) -> None:
        super().__init__(
            model, momentum=1 - decay, momentum_warmup=min(0.1, 100 * (1 - decay)), warmup_iters=warmup_iters
        )

    def attach(self, engine: Engine) -> None:  # type: ignore[override]  # as MONAI attaches handlers
        super().attach(engine, name="ema_momentum", event=Events.ITERATION_COMPLETED)


class EpochLog:
    """After every epoch a line: the mean loss, what validation gave, and the seconds it took. The engines' own lines,
    which say less in more, are left to errors.

    Comes after the handler that validates.

    Args:
        validator: whose metrics are told.
        max_epochs: of the training.
    """

    def __init__(self, validator: Engine, max_epochs: int) -> None:
        self.validator, self.max_epochs = validator, max_epochs
        self.losses: list[float] = []
        self.begun = time.perf_counter()

    def attach(self, engine: Engine) -> None:
        engine.logger.addFilter(_not_of_a_first_run)
        self.validator.logger.setLevel(logging.WARNING)
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def _begin(self) -> None:
        self.losses, self.begun = [], time.perf_counter()

    def _add(self, engine: Engine) -> None:
        self.losses.append(_loss(engine))

    def __call__(self, engine: Engine) -> None:
        epoch, said = engine.state.epoch, [f"loss {np.mean(self.losses):.5g}"]
        if self.validator.state.epoch == epoch:
            said += [f"{name} {value:.5g}" for name, value in self.validator.state.metrics.items()]
        seconds = time.perf_counter() - self.begun
        logger.info("epoch %d of %d: %s (%.1f s)", epoch, self.max_epochs, ", ".join(said), seconds)


def _loss(engine: Engine) -> float:
    return float(cast("list[dict]", engine.state.output)[0]["loss"].detach())


def _not_of_a_first_run(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(BEGINNING)


class LossBar(ProgressBar):
    """ignite's progress bar with the loss of the last step, as MONAI attaches its handlers."""

    def attach(self, engine: Engine) -> None:  # type: ignore[override]  # as MONAI attaches handlers
        super().attach(engine, output_transform=lambda output: {"loss": float(output[0]["loss"].detach())})


class WeightsWriter:
    """After every epoch, write the whole network with the averaged weights in the part under training.

    What is written is a pure tensor state dict that ``torch.load(…, weights_only=True)`` takes; the file is replaced
    whole, so an interrupted run leaves the last complete one.

    Args:
        path: where to.
        network: the whole network.
        part: name of the submodule under training; empty when that is the whole network.
        average: its moving average.
    """

    def __init__(self, path: str | Path, network: nn.Module, part: str, average: nn.Module) -> None:
        self.path, self.network, self.part, self.average = Path(path), network, part, average

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    @one_rank_only()
    def __call__(self, engine: Engine) -> None:
        state = {name: tensor.detach().cpu() for name, tensor in self.network.state_dict().items()}
        prefix = f"{self.part}." if self.part else ""
        averaged = {
            prefix + name.removeprefix("module."): tensor.detach().cpu()  # as distributed training calls it
            for name, tensor in self.average.state_dict().items()
        }
        with whole_file(self.path) as temporary:
            torch.save(state | averaged, temporary)


class Pictures:
    """After the first epoch, and every so many, a PNG of what the validator sees and says.

    Args:
        folder: where to; files are named by epoch.
        columns: keys of the engine's output, or two joined by a minus for their difference.
        interval: epochs between pictures.
        rows: images a picture.
    """

    def __init__(
        self,
        folder: str | Path,
        columns: Sequence[str] = ("image", "pred", "image - pred"),
        interval: int = 4,
        rows: int = 4,
    ) -> None:
        self.folder, self.columns, self.interval, self.rows = Path(folder), tuple(columns), interval, rows

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED(event_filter=self._due), self)

    def _due(self, engine: Engine, iteration: int) -> bool:
        return iteration == 1 and (engine.state.epoch == 1 or engine.state.epoch % self.interval == 0)

    @one_rank_only()
    def __call__(self, engine: Engine) -> None:
        items = cast("list[dict]", engine.state.output)[: self.rows]
        rows = [[self._panel(item, column) for column in self.columns] for item in items]
        save_panels(self.folder / f"epoch_{engine.state.epoch:04d}.png", rows, self.columns)

    @staticmethod
    def _panel(item: dict, column: str) -> np.ndarray:
        panels = [torch.as_tensor(item[key][0]).float().cpu().numpy() for key in column.split(" - ")]
        return panels[0] if len(panels) == 1 else panels[0] - panels[1]


class Resume:
    """Go on from the newest checkpoint in a folder, if there is one, and keep leaving checkpoints there.

    Args:
        folder: of the checkpoints.
        objects: name → object with a state dict; the trainer itself joins them.
        interval: epochs between checkpoints; the last two are kept.
        sampler: a distributed sampler, told the epoch so that it shuffles anew.
    """

    def __init__(
        self, folder: str | Path, objects: dict, interval: int = 1, sampler: DistributedSampler | None = None
    ) -> None:
        self.folder, self.objects, self.interval, self.sampler = Path(folder), objects, interval, sampler

    def attach(self, engine: Engine) -> None:
        objects = {"trainer": engine, **self.objects}
        if (sampler := self.sampler) is not None:
            engine.add_event_handler(Events.EPOCH_STARTED, lambda e: sampler.set_epoch(e.state.epoch))
        found = sorted(self.folder.glob("checkpoint_epoch=*.pt"), key=lambda path: path.stat().st_mtime)
        if found:
            CheckpointLoader(str(found[-1]), objects, map_location=vars(engine.state)["device"]).attach(engine)
        if get_rank() == 0:
            CheckpointSaver(str(self.folder), objects, epoch_level=True, save_interval=self.interval, n_saved=2).attach(
                engine
            )


def handlers_of_rank(handlers: Sequence[object]) -> list[object]:
    """All of them in the first process of a distributed training; in the others those that do not talk."""
    return [one for one in handlers if get_rank() == 0 or not isinstance(one, EpochLog | StatsHandler | ProgressBar)]
