# SPDX-License-Identifier: Apache-2.0
"""As a BIDS App: map the participants of a BIDS data set, any number of runs at a time, and join their results.

flipmap bids BIDS_DIR OUTPUT_DIR participant --participant-label 01 02
flipmap bids BIDS_DIR OUTPUT_DIR group
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DatasetError
from . import report
from .options import positive
from .run import add_arguments as add_run_arguments
from .run import run_shard

if TYPE_CHECKING:
    from ..batch.plan import PlannedCase

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bids_dir", type=Path, help="root of the BIDS data set")
    parser.add_argument("output_dir", type=Path, help="folder of the derivatives")
    parser.add_argument("level", choices=("participant", "group"), help="map participants, or join what they have left")
    parser.add_argument(
        "--participant-label", nargs="+", default=[], metavar="LABEL", help="with or without sub- (default: all)"
    )
    parser.add_argument(
        "--session-label", nargs="+", default=[], metavar="LABEL", help="with or without ses- (default: all)"
    )
    parser.add_argument("--n-cpus", type=positive, help="most threads of arithmetic (default: all cores)")
    parser.add_argument("-v", "--verbose", action="store_true", help="say more")


def run(options: argparse.Namespace) -> int:
    if options.level == "group":
        return report.run(argparse.Namespace(output=options.output_dir))
    from ..batch.shards import Shard
    from ..cases import is_bids_root

    if not is_bids_root(options.bids_dir):
        raise DatasetError(options.bids_dir, "no BIDS data set: no sub-*/anat in it", "Give the root of the data set")

    participants = {label.removeprefix("sub-") for label in options.participant_label}
    sessions = {label.removeprefix("ses-") for label in options.session_label}

    def wanted(case: PlannedCase) -> bool:
        parts = dict(part.partition("-")[::2] for part in case.stem.parent.parts if "-" in part)
        return (not participants or parts.get("sub") in participants) and (not sessions or parts.get("ses") in sessions)

    chosen = "_".join([*(f"sub-{one}" for one in sorted(participants)), *(f"ses-{one}" for one in sorted(sessions))])
    if len(chosen) > 100:  # a file is named by it
        chosen = f"participants-{hashlib.sha256(chosen.encode()).hexdigest()[:12]}"
    return run_shard(_as_run(options), Shard(label=chosen or "participants"), wanted)


def _as_run(options: argparse.Namespace) -> argparse.Namespace:
    """The options of ``flipmap run``, those that a BIDS App has not at their defaults."""
    parser = argparse.ArgumentParser()
    add_run_arguments(parser)
    given = [str(options.bids_dir), str(options.output_dir), *(["--verbose"] if options.verbose else [])]
    return parser.parse_args([*given, *(["--threads", str(options.n_cpus)] if options.n_cpus else [])])
