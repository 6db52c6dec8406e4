# SPDX-License-Identifier: Apache-2.0
"""Measure the case scores of healthy tissue, for the histogram of the report; after a calibration.

flipmap case-scores DATA --modality flair --models DIR
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from .options import add_modality, add_models, positive

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, help="folder of the sets of bundle/evaluation/untrained.py")
    parser.add_argument("--threads", type=positive, help="most threads of arithmetic (default: all cores)")
    add_modality(parser)
    add_models(parser, written=True)


def run(options: argparse.Namespace) -> None:
    from ..evaluation.case_scores import write_case_scores

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    own, overwrite = options.models, options.overwrite_shipped
    print(write_case_scores(options.data, options.modality, options.threads, own, overwrite))
