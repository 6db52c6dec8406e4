# SPDX-License-Identifier: Apache-2.0
"""MONAI's SupervisedTrainer, for whole batches."""

from __future__ import annotations

from typing import Any

from monai.engines import SupervisedTrainer

__all__ = ["Trainer"]


class Trainer(SupervisedTrainer):
    """Takes the arguments of SupervisedTrainer.

    What a step leaves is a list of one dictionary for the whole batch, as if MONAI had decollated it: handlers that
    follow runs (``--tracking mlflow``) count on a list, and what our steps predict cannot be taken apart.
    """

    def _iteration(self, engine: SupervisedTrainer, batchdata: Any) -> Any:
        return [super()._iteration(engine, batchdata)]
