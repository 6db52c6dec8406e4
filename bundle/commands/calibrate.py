# SPDX-License-Identifier: Apache-2.0
"""Make calibrations anew, after a training or a change of settings.

    flipmap calibrate --models DIR --dataset_dir DATA

They are written beside the weights in DIR; where DIR has no weights, they are for those that came with flipmap.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from ..evaluation.calibrate import PERCENTILE, calibrate
from .options import add_modality, add_models, add_settings, settings_of

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset_dir", type=Path, required=True, help="scans whose healthy slices count")
    add_modality(parser)
    parser.add_argument(
        "--only", nargs="*", default=(), help="methods, default for the default (default: all that have a calibration)"
    )
    parser.add_argument("--cropped", nargs="*", default=(), help="folders of more normal B-scans, size unknown")
    parser.add_argument("--healthy", nargs="*", default=(), help="BIDS roots of healthy people, for T1w")
    parser.add_argument(
        "--split",
        type=Path,
        help="split file; by default that of the modality, or, where it knows none of the people, by a hash of names",
    )
    parser.add_argument(
        "--percentile", type=float, default=PERCENTILE, help="of the bootstrap over patients (%(default)g; 0: none)"
    )
    add_models(parser, written=True)
    add_settings(parser)


def run(options: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    calibrate(
        options.dataset_dir,
        options.modality,
        only=options.only,
        split=options.split,
        percentile=options.percentile or None,
        cropped_dirs=options.cropped,
        healthy_dirs=options.healthy,
        models_dir=options.models,
        overwrite_shipped=options.overwrite_shipped,
        **settings_of(options.set),
    )
