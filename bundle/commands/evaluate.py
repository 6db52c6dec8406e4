# SPDX-License-Identifier: Apache-2.0
"""Make a table of results: of a data set's test patients, of several places, or of retinal OCT."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import monai.bundle

from ..arguments import check_settings
from ..errors import FlipmapError, cause_of
from ..paths import bundle_root
from .options import add_models, add_settings, models_of, settings_of

__all__ = ["add_arguments", "run"]

#: Protocol → config files over configs/inference.json, and the id that takes the folder of the data.
PROTOCOLS = {
    "patients": (["evaluate.json"], "dataset_dir"),
    "places": (["evaluate_places.json"], "data_dir"),
    "findings": (["evaluate_findings.json"], "data_dir"),
    "findings-t1w": (["t1w.json", "evaluate_findings_t1w.json"], "data_dir"),
    "findings-t2w": (["t2w.json", "evaluate_findings_t2w.json"], "data_dir"),
    "findings-oct": (["oct.json", "evaluate_findings_oct.json"], "dataset_dir"),
    "noise-oct": (["oct.json", "evaluate_noise_oct.json"], "dataset_dir"),
    "stability": (["evaluate_stability.json"], "data_dir"),
    "t1w": (["t1w.json", "evaluate_t1w.json"], "data_dir"),
    "t2w": (["t2w.json", "evaluate_t2w.json"], "data_dir"),
    "oct": (["oct.json", "evaluate_oct.json"], "dataset_dir"),
}
#: Protocols of one data set, which a split file deals.
SPLIT = ("patients", "oct", "findings-oct", "noise-oct")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("protocol", choices=PROTOCOLS, help="what is evaluated; see docs/protocol.md and docs/oct.md")
    parser.add_argument(
        "data", type=Path, help="folder of the data; for places, findings, stability, t1w and t2w, of all sets"
    )
    parser.add_argument("output", type=Path, help="folder of the tables and pictures")
    parser.add_argument(
        "--split",
        type=Path,
        help="split file, for patients and oct; by default that of flipmap, or, where it knows none of them, by a hash",
    )
    add_models(parser)
    add_settings(parser)


def run(options: argparse.Namespace) -> None:
    names, data = PROTOCOLS[options.protocol]
    files = [str(Path(bundle_root()) / "configs" / name) for name in ("inference.json", *names)]
    settings: dict[str, Any] = {**settings_of(options.set), **models_of(options)}
    if options.split:
        if options.protocol not in SPLIT:
            remedy = "Leave it out: the places of the config say which people are tested, --set places=… changes them"
            raise FlipmapError(f"--split {options.split}", f"evaluate {options.protocol} takes none", remedy)
        settings["split"] = str(options.split)
    check_settings(settings, monai.bundle.ConfigParser.load_config_files(files))
    given: dict[str, Any] = {data: str(options.data), "output_dir": str(options.output), "bundle_root": bundle_root()}
    try:
        monai.bundle.run(config_file=files, **{"precision": "float32", **given, **settings})
    except Exception as error:
        raise cause_of(error) or FlipmapError("the evaluation", " ".join(str(error).split()), "Check --set") from error
