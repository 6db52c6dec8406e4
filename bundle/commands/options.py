# SPDX-License-Identifier: Apache-2.0
"""Options that several commands share, and how they are read."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from ..errors import FlipmapError
from ..model_files import check_models_dir

__all__ = ["add_modality", "add_models", "add_settings", "models_of", "positive", "seconds", "settings_of"]


def add_settings(parser: argparse.ArgumentParser) -> None:
    """``--set ID=VALUE``."""
    parser.add_argument(
        "--set", action="append", default=[], metavar="ID=VALUE", help="a setting of the config; repeatable"
    )


def add_models(parser: argparse.ArgumentParser, written: bool = False) -> None:
    """``--models DIR``; where a command writes what may be that of flipmap itself, ``--overwrite-shipped`` as well."""
    parser.add_argument(
        "--models",
        type=Path,
        metavar="DIR",
        help="folder of weights and calibrations of your own, laid out like models/; what it lacks is that of flipmap"
        + (" (made as needed)" if written else ""),
    )
    if written:
        parser.add_argument(
            "--overwrite-shipped", action="store_true", help="replace what came with flipmap, without --models"
        )


def models_of(options: argparse.Namespace) -> dict[str, str]:
    """The setting that ``--models`` is; none without it.

    Raises:
        FlipmapError: when it is no folder, or holds nothing of the kind.
    """
    return {"models_dir": check_models_dir(options.models)} if options.models else {}


def add_modality(parser: argparse.ArgumentParser) -> None:
    """``--modality NAME``."""
    from ..modalities import MODALITIES  # brings PyTorch along, for which not every --help is to wait

    known = ", ".join(MODALITIES)
    parser.add_argument("--modality", default="flair", help=f"{known} (default: %(default)s)")


def settings_of(given: Sequence[str]) -> dict[str, object]:
    """``ID=VALUE`` → id → value, read as JSON where it is any.

    Raises:
        FlipmapError: when there is no ``=``.
    """
    settings: dict[str, object] = {}
    for text in given:
        key, separator, value = text.partition("=")
        if not separator:
            raise FlipmapError(f"--set {text}", "there is no = in it", "Write --set threshold=3")
        try:
            settings[key] = json.loads(value)
        except ValueError:
            settings[key] = value
    return settings


def positive(text: str) -> int:
    """A whole number above zero."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def seconds(text: str) -> float | None:
    """A time limit; None for 0, which is none."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no time")
    return value or None
