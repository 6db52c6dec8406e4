# SPDX-License-Identifier: Apache-2.0
"""Join what several runs have left in an output folder into batch.csv and report.html."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..errors import EXIT_CODES

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", type=Path, help="output folder of flipmap run, with or without --shard")


def run(options: argparse.Namespace) -> int:
    from ..batch.shards import TABLE, join, missing_shards

    records = join(options.output)
    for name in missing_shards(options.output):
        print(f"flipmap: nothing of shard {name} yet", file=sys.stderr)
    failed = sum(record.status == "failed" for record in records)
    print(f"{len(records)} rows, {failed} failed: {options.output / TABLE}")
    return EXIT_CODES["some case failed" if failed else "all good"]
