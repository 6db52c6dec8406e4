# SPDX-License-Identifier: Apache-2.0
"""Say where the main config is, for ``python -m monai.bundle run``."""

from __future__ import annotations

import argparse

from ..paths import default_config

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    del parser  # it takes none


def run(options: argparse.Namespace) -> None:
    del options
    print(default_config())
