# SPDX-License-Identifier: Apache-2.0
"""Keeps the libraries of DICOM from telling names: their warnings, log lines and errors quote patients' attributes."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["quiet", "redacted"]

#: Loggers that quote attributes.
LOUD = ("pydicom", "highdicom")
#: Attributes that say who somebody is; what stands in one of them is left out of messages.
PERSONAL = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientAddress", "PatientMotherBirthName", "PatientBirthName"),
    *("OtherPatientIDs", "OtherPatientNames", "PatientComments", "PatientTelephoneNumbers", "IssuerOfPatientID"),
    *("ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName", "NameOfPhysiciansReadingStudy"),
    *("AccessionNumber", "InstitutionName", "StudyID", "PatientAge"),
)
LEAST_LETTERS = 3  # of a value: shorter ones are found in any word
LONGEST = 200  # letters of a message


class _Quiet:
    """Warnings and log lines are off while anybody is inside, whichever thread: both belong to the whole process."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._levels: dict[str, int] = {}
        self._filters: Any = None

    def enter(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._levels = {name: logging.getLogger(name).level for name in LOUD}
                for name in LOUD:
                    logging.getLogger(name).setLevel(logging.CRITICAL + 1)
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.simplefilter("ignore")

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._filters.__exit__(None, None, None)
                for name, level in self._levels.items():
                    logging.getLogger(name).setLevel(level)


_QUIET = _Quiet()


@contextmanager
def quiet() -> Iterator[None]:
    """A block in which pydicom and highdicom say nothing."""
    _QUIET.enter()
    try:
        yield
    finally:
        _QUIET.leave()


def redacted(error: BaseException, *datasets: Any) -> str:
    """What an error says, on one line, without what the personal attributes of data sets hold and without paths.

    Args:
        error: of a library.
        datasets: of pydicom, that it may quote.
    """
    text = " ".join(str(error).split())
    for value in sorted({v for dataset in datasets for v in _personal(dataset)}, key=len, reverse=True):
        text = text.replace(value, "…")
    text = " ".join("…" if "/" in word or "\\" in word else word for word in text.split())
    return text[:LONGEST] or type(error).__name__


def _personal(dataset: Any) -> Iterator[str]:
    """Values of the attributes of `PERSONAL`, whole and in their parts."""
    for keyword in PERSONAL:
        try:
            value = str(dataset.get(keyword, "") or "")
        except Exception:  # as unreadable here as elsewhere
            continue
        for part in (value, *value.replace("^", " ").replace("=", " ").replace("\\", " ").split()):
            if len(part) >= LEAST_LETTERS:
                yield part
