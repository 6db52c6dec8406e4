# SPDX-License-Identifier: Apache-2.0
"""Write the Boutiques descriptor of the BIDS App, made from its own options.

flipmap lab boutiques > flipmap.json
bosh exec launch flipmap.json invocation.json
"""

from __future__ import annotations

import argparse
import json
import re

from ..paths import __version__
from . import bids

__all__ = ["add_arguments", "descriptor", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image", help="container image that has flipmap, docker://registry/name for instance")


def run(options: argparse.Namespace) -> None:
    print(json.dumps(descriptor(options.image), indent=1))


def descriptor(image: str | None = None) -> dict:
    """Of ``flipmap bids``, by the schema of Boutiques 0.5 (https://boutiques.github.io).

    Args:
        image: container image, if there is one.
    """
    parser = argparse.ArgumentParser()
    bids.add_arguments(parser)
    actions = [action for action in parser._actions if action.dest != "help"]  # argparse has no public list of them
    inputs = [_input(action) for action in actions]
    described = {
        "name": "flipmap",
        "description": "Anomaly maps of brain MRI, learned from healthy scans alone. Research only.",
        "tool-version": __version__,
        "schema-version": "0.5",
        "command-line": " ".join(["flipmap bids", *(one["value-key"] for one in inputs)]),
        "inputs": inputs,
        "output-files": [
            {"id": "output", "name": "Folder of the derivatives", "path-template": "[OUTPUT_DIR]", "optional": False}
        ],
        "suggested-resources": {"cpu-cores": 2, "ram": 2},
        "tags": {"domain": ["neuroinformatics", "mri"]},
    }
    if image:
        described["container-image"] = {"type": "docker", "image": image}
    return described


def _input(action: argparse.Action) -> dict:
    """Of one option."""
    found: dict[str, object] = {
        "id": action.dest,
        "name": action.dest.replace("_", " "),
        "description": re.sub(r"\s+", " ", action.help or ""),
        "value-key": f"[{action.dest.upper()}]",
        "optional": bool(action.option_strings),
        "type": "String",
    }
    if action.option_strings:
        found["command-line-flag"] = action.option_strings[-1]
    if action.nargs == 0:
        found["type"] = "Flag"
    elif getattr(action.type, "__name__", "") == "positive":
        found |= {"type": "Number", "integer": True, "minimum": 1}
    elif getattr(action.type, "__name__", "") == "Path":
        # The output need not be there yet, so it is no File.
        found["type"] = "File" if action.dest == "bids_dir" else "String"
    if action.choices:
        found["value-choices"] = list(action.choices)
    if action.nargs == "+":
        found["list"] = True
    return found
