# SPDX-License-Identifier: Apache-2.0
"""The errors of flipmap, and the exit codes that they stand for.

FlipmapError
├── ScanError      one scan cannot be read or scored: it is named, the rest of the batch goes on
│   └── ContrastError  it has another contrast than the weights are for
├── OutputError    a result cannot be written (no permission, disk full)
├── DatasetError   a folder holds nothing to work on, or a split does not fit it
└── WeightsError   the weights or their calibration are missing, or do not belong together

Every error says what is wrong, where, and the remedy.
"""

from __future__ import annotations

from pathlib import Path

__all__ = [
    "EXIT_CODES",
    "ContrastError",
    "DatasetError",
    "FlipmapError",
    "OutputError",
    "ScanError",
    "WeightsError",
    "cause_of",
]


class FlipmapError(Exception):
    """Something that the user can mend.

    Args:
        where: the file, folder or setting that the error is about.
        reason: what is wrong with it, with the offending value.
        remedy: what to do about it.
    """

    def __init__(self, where: str | Path, reason: str, remedy: str) -> None:
        self.where, self.reason, self.remedy = str(where), reason, remedy
        super().__init__(f"{where}: {reason}. {remedy}")

    def __reduce__(self) -> tuple:
        # Exceptions are rebuilt from `args` alone, which is not what __init__ takes: loader workers need this.
        return type(self), (self.where, self.reason, self.remedy)


class ScanError(FlipmapError):
    """One scan cannot be read or scored."""


class ContrastError(ScanError):
    """A scan has another contrast than the weights are for.

    Args:
        contrast: BIDS suffix of the one that it has.
    """

    def __init__(self, where: str | Path, reason: str, remedy: str, contrast: str = "") -> None:
        super().__init__(where, reason, remedy)
        self.contrast = contrast

    def __reduce__(self) -> tuple:
        return type(self), (self.where, self.reason, self.remedy, self.contrast)


class OutputError(FlipmapError):
    """A result cannot be written."""


class DatasetError(FlipmapError):
    """A folder holds nothing to work on, or a split does not fit it."""


class WeightsError(FlipmapError):
    """Weights or calibration are missing, or do not belong together."""


#: What a batch run returns to the shell.
EXIT_CODES = {"all good": 0, "some case failed": 1, "usage": 2, "nothing to do": 3, "interrupted": 130}


def cause_of(error: BaseException) -> FlipmapError | None:
    """The error of ours in a chain of exceptions, since MONAI wraps what its components raise; None without one."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, FlipmapError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None
