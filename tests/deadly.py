# SPDX-License-Identifier: Apache-2.0
"""Scans that a worker dies of, for tests of workers."""

from __future__ import annotations

import os
import signal
from pathlib import Path

MARK = "FLIPMAP_TEST_DIED"  # environment: folder where a death is noted


class Deadly:
    """Kills its process on scans named ``poison``, and once on those named ``once``, as a lack of memory would."""

    changes_nothing = True  # so the calibration holds

    def __call__(self, data):
        name = Path(data["image"].meta["filename_or_obj"]).name
        if "poison" in name or "once" in name:
            died = Path(os.environ[MARK]) / f"{name}-{os.getpid()}"
            before = list(died.parent.glob(f"{name}-*"))
            if "poison" in name or not before:
                died.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return data
