# SPDX-License-Identifier: Apache-2.0
"""Options that several commands share, and how they are read."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from ..errors import FlipmapError

__all__ = ["add_modality", "add_settings", "positive", "seconds", "settings_of"]


def add_settings(parser: argparse.ArgumentParser) -> None:
    """``--set ID=VALUE``."""
    parser.add_argument(
        "--set", action="append", default=[], metavar="ID=VALUE", help="a setting of the config; repeatable"
    )


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
