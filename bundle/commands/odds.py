# SPDX-License-Identifier: Apache-2.0
"""Make the odds of findings from healthy tissue of people who trained nothing; after a calibration.

flipmap odds DATA --modality flair --models DIR
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from .options import add_modality, add_models, add_settings, positive, settings_of

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, help="data set whose validation people make them, or folder of all sets")
    parser.add_argument("--split", type=Path, help="split file of that data set (default: by a hash of the names)")
    parser.add_argument("--threads", type=positive, help="most threads of arithmetic (default: all cores)")
    add_modality(parser)
    parser.add_argument("--method", default="default", help="whose findings (default: those of the default map)")
    add_models(parser, written=True)
    add_settings(parser)


def run(options: argparse.Namespace) -> None:
    from ..evaluation.healthy_findings import make_odds

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    own, overwrite = options.models, options.overwrite_shipped
    settings = settings_of(options.set)
    data, modality, method = options.data, options.modality, options.method
    print(make_odds(data, modality, method, options.threads, own, overwrite, options.split, **settings))
