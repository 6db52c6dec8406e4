# SPDX-License-Identifier: Apache-2.0
"""Which job: what another process, or another machine, needs to load the same one."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import FlipmapError, cause_of
from ..paths import default_config
from .contrasts import by_contrast, job_of_any_contrast
from .job import Job

__all__ = ["AUTO", "JobSpec"]

AUTO = "auto"


@dataclass(frozen=True)
class JobSpec:
    """A job that is not loaded yet; it can be pickled.

    Attributes:
        configs: files over configs/inference.json.
        settings: ids of the config and their values.
        contrast: BIDS suffix of the scans, or `AUTO`: each goes to the weights of the contrast that it has.
    """

    configs: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    contrast: str = AUTO

    def load(self) -> Job:
        """Load it.

        Raises:
            FlipmapError: on a contrast without weights, a setting that there is not, or a config that cannot be read.
            WeightsError: when weights or calibration are missing or do not belong together.
        """
        known = by_contrast()
        if self.contrast not in (AUTO, *known):
            reason, remedy = "no weights for it", f"Choose from {', '.join(known)}"
            raise FlipmapError(f"--contrast {self.contrast}", reason, remedy)
        try:
            if self.contrast != AUTO:
                configs = [str(path) for path in known[self.contrast].configs()]
                return Job([*configs, *self.configs], **{"check_contrast": False, **self.settings})
            if not self.configs:
                return job_of_any_contrast(**self.settings)
            return Job([default_config(), *self.configs], **self.settings)
        except Exception as error:
            cause = cause_of(error)
            reason = " ".join(str(error).split())
            raise cause or FlipmapError("the config", reason, "Check --config and --set") from error

    def loaded(self) -> Job:
        """The same, loaded once a process; files of configs are taken as they were then."""
        key = json.dumps([list(self.configs), dict(self.settings), self.contrast], sort_keys=True, default=str)
        with _LOADING:
            if key not in _LOADED:
                _LOADED[key] = self.load()
            return _LOADED[key]

    def elsewhere(self) -> JobSpec:
        """For a process with another working directory."""
        return JobSpec([str(Path(one).resolve()) for one in self.configs], self.settings, self.contrast)


_LOADED: dict[str, Job] = {}
_LOADING = threading.Lock()
