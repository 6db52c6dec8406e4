# SPDX-License-Identifier: Apache-2.0
"""The map of several contrasts of one head: choose the shares, calibrate it, evaluate it.

    flipmap lab several choose DATA docs/evaluation/several_shares.csv
    flipmap lab several calibrate DATA --models DIR
    flipmap lab several odds DATA --models DIR
    flipmap lab several evaluate DATA docs/evaluation/several.csv

Shares stand in configs/several.json; after a change of them, or of a calibration of one contrast, calibrate anew.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from ..errors import FlipmapError
from .options import add_models, models_of, positive

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("step", choices=("choose", "calibrate", "odds", "evaluate"), help="what to do")
    parser.add_argument("data", type=Path, help="folder of the sets")
    parser.add_argument("output", type=Path, nargs="?", help="table to write, CSV; not for calibrate and odds")
    parser.add_argument("--threads", type=positive, help="most threads of arithmetic (default: all cores)")
    add_models(parser, written=True)


def run(options: argparse.Namespace) -> None:
    from ..evaluation.several import calibrate_several, choose_shares, evaluate_several, odds_of_several
    from ..threads import limit_threads

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.threads:
        limit_threads(options.threads)
    if options.step in ("calibrate", "odds"):
        step = calibrate_several if options.step == "calibrate" else odds_of_several
        print(step(options.data, options.models, options.overwrite_shipped))
        return
    models_of(options)
    if options.output is None:
        raise FlipmapError("several", "no table named", f"Write flipmap lab several {options.step} DATA TABLE.csv")
    if options.step == "choose":
        print(choose_shares(options.data, options.output, options.models))
    else:
        evaluate_several(options.data, options.output, options.models)
