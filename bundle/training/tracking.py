# SPDX-License-Identifier: Apache-2.0
"""The curves of a training in TensorBoard: ``--tracking configs/tracking/tensorboard.json``."""

from __future__ import annotations

from pathlib import Path

from ignite.engine import Engine, Events
from monai.handlers import TensorBoardStatsHandler

from ..errors import FlipmapError

__all__ = ["TensorBoard"]


class TensorBoard:
    """The loss of every step, and what validation gives after every epoch, as MONAI's handler writes them.

    Args:
        log_dir: where to; ``tensorboard --logdir`` shows it.
        validator: whose metrics are written.

    Raises:
        FlipmapError: when TensorBoard is not installed.
    """

    def __init__(self, log_dir: str | Path, validator: Engine) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            remedy = 'pip install ".[tracking]" in the folder of flipmap'
            raise FlipmapError("--tracking tensorboard", "needs tensorboard, which is not installed", remedy) from error
        self.writer, self.validator = SummaryWriter(str(log_dir)), validator

    def attach(self, engine: Engine) -> None:
        TensorBoardStatsHandler(
            self.writer,
            epoch_log=False,
            tag_name="train_loss",
            output_transform=lambda output: output[0]["loss"].detach(),
        ).attach(engine)
        TensorBoardStatsHandler(
            self.writer, iteration_log=False, global_epoch_transform=lambda _: engine.state.epoch
        ).attach(self.validator)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.writer.flush)
        engine.add_event_handler(Events.COMPLETED, self.writer.close)
