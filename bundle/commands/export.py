# SPDX-License-Identifier: Apache-2.0
"""Write a method as a bundle of its own, for MONAI Label or a release."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..export import export
from .options import add_modality, add_models, models_of

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, help="OUT.zip, or a folder that is not there yet")
    add_modality(parser)
    add_models(parser)
    parser.add_argument("--method", default="default", help="a name from configs/methods (default: the best one)")
    parser.add_argument(
        "--url", help="where the weights will lie: leaves them out, with large_files.yml in their place"
    )


def run(options: argparse.Namespace) -> None:
    print(export(options.modality, options.method, options.path, options.url, **models_of(options)))
