# SPDX-License-Identifier: Apache-2.0
"""What goes wrong in a config, in one line: MONAI wraps each error once for every id that leads to it."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Iterator
from types import TracebackType

from .errors import FlipmapError, cause_of

__all__ = ["explained", "install_hook"]

#: Package that a config may ask for → extra that brings it.
EXTRAS = {"mlflow": "tracking", "tensorboard": "tracking", "tensorboardX": "tracking", "onnxscript": "export"}
RUNS = "ignite/engine/engine.py"  # in the traceback of what went wrong after the config was read


def explained(error: BaseException) -> FlipmapError | None:
    """The cause of an error of ``monai.bundle`` as something that the user can mend.

    Args:
        error: as MONAI raises it.

    Returns:
        the error of ours in its chain; else one made of its cause, where that is a package that is not installed, or
        something that the config says; None where a run had begun: that asks for a whole traceback.
    """
    if (known := cause_of(error)) is not None:
        return known
    chain = list(_chain(error))
    for one in chain:
        if (package := _missing(one)) is not None:
            extra = EXTRAS.get(package)
            remedy = f'pip install ".[{extra}]" in the folder of flipmap' if extra else f"pip install {package}"
            return FlipmapError(package, "is asked for and not installed", remedy)
    if any(RUNS in frame.filename.replace("\\", "/") for one in chain for frame in _frames(one)):
        return None
    cause = chain[-1]
    reason = f"{type(cause).__name__}: {' '.join(str(cause).split())}"
    return FlipmapError("the config", reason, "Check the config files and the ids given")


def install_hook() -> None:
    """Let this process end with one line, the cause, where that says it all, and after a traceback otherwise."""
    sys.excepthook = _hook


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    known = explained(error)
    if known is None:
        sys.__excepthook__(kind, error, trace)
        cause = list(_chain(error))[-1]
        print(f"ERROR {type(cause).__name__}: {' '.join(str(cause).split())}", file=sys.stderr)
    else:
        print(f"ERROR {known}", file=sys.stderr)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what caused it, the first cause last."""
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__ or one.__context__


def _missing(error: BaseException) -> str | None:
    """The package that an error says is missing."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return error.name.partition(".")[0]
    if type(error).__name__ == "OptionalImportError":  # MONAI's, which names the package in its text alone
        found = re.search(r"No module named '(?P<name>\w+)|\b(?:import|from|install) (?P<asked>\w+)", str(error))
        return found["name"] or found["asked"] if found else None
    return None


def _frames(error: BaseException) -> traceback.StackSummary:
    return traceback.extract_tb(error.__traceback__)
