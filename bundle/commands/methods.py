# SPDX-License-Identifier: Apache-2.0
"""List modalities and the methods that ship with a calibration for each."""

from __future__ import annotations

import argparse
import json

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for machines")


def run(options: argparse.Namespace) -> None:
    from ..modalities import DEFAULT, MODALITIES
    from ..paths import __version__

    rows: list[dict] = [
        {
            "modality": modality.name,
            "weights": bool(modality.entries),
            "methods": [DEFAULT, *modality.methods] if modality.entries else [],
            "configs": [path.name for path in modality.configs()],
        }
        for modality in MODALITIES.values()
    ]
    if options.json:
        print(json.dumps({"flipmap": __version__, "modalities": rows}, indent=1))
        return
    for row in rows:
        print(f"{row['modality']}: {', '.join(row['methods']) or 'no weights, train them (docs/training.md)'}")
