# SPDX-License-Identifier: Apache-2.0
"""Cases one after another, where a bad one is a record and not the end."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from monai.data import Dataset, list_data_collate

from ..errors import FlipmapError, ScanError, cause_of
from ..threads import ARITHMETIC

__all__ = ["FAILURE", "CaseDataset", "collate_case", "explain"]

logger = logging.getLogger(__name__)

#: Key under which a case that could not be prepared carries its error.
FAILURE = "failure"


class CaseDataset(Dataset):
    """MONAI's Dataset, but a case whose transforms fail comes out as ``{**case, "failure": error}``."""

    def _transform(self, index: int) -> dict:
        case = dict(self.data[index])
        try:
            with ARITHMETIC.turn():
                return super()._transform(index)
        except Exception as error:
            return {**case, FAILURE: explain(error, case)}


def explain(error: Exception, case: dict) -> FlipmapError:
    """The error of ours behind an exception; else one made of it."""
    if (known := cause_of(error)) is not None:
        return known
    where = str(case.get("image"))
    root: BaseException = error
    while (deeper := root.__cause__ or root.__context__) is not None:
        root = deeper
    logger.debug("unexpected error at %s", case.get("name"), exc_info=error)
    if isinstance(root, MemoryError) or "out of memory" in str(root).lower():
        return ScanError(where, "does not fit into memory", "Free memory, or lower --threads")
    reason = f"unexpected {type(root).__name__}: {' '.join(str(root).split())}"
    return ScanError(where, reason, "Report it, with the log at level DEBUG")


def collate_case(items: Sequence[dict]) -> dict:
    """A batch of one case; a failed case stays as it is."""
    return items[0] if FAILURE in items[0] else list_data_collate(items)
