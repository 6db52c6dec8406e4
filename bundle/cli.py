# SPDX-License-Identifier: Apache-2.0
"""``flipmap``: the command for people who run it every night. The engine is the bundle's own."""

from __future__ import annotations

import argparse
import difflib
import importlib
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import EXIT_CODES, DatasetError, cause_of
from .paths import __version__, default_config

__all__ = ["COMMANDS", "LAB", "entry", "main"]

PURPOSE = "Maps of what is not normal in brain MRI and retinal OCT, learned from healthy tissue alone."
#: Command → what it is for. Its module in `bundle.commands` has the same name, with underscores.
COMMANDS = {
    "run": "map every scan of a folder",
    "follow": "compare two scans of one person: what is new, gone, larger, smaller",
    "report": "join the tables of several runs",
    "listen": "be a DICOM node: map what an archive sends, and send the results back",
    "bids": "map a BIDS data set, as a BIDS App",
    "mercure": "be a module of mercure: map a series in a folder, leave DICOM files in another",
    "methods": "list modalities and methods",
    "export": "write a method as a bundle of its own, for MONAI Label or a release",
    "config": "say where the main config is, for python -m monai.bundle run",
    "train": "train a network by one of the recipes",
    "join-weights": "put parts that were trained one by one into one file of weights",
    "calibrate": "make calibrations anew, after a training or a change of settings",
    "odds": "make the odds of findings from healthy tissue of people who trained nothing",
    "evaluate": "make a table of results",
}
#: Those of ``flipmap lab``: how the choices of this project were made, and are checked.
LAB = {
    "benchmark": "measure time and memory",
    "boutiques": "write the Boutiques descriptor of the BIDS App",
    "several": "choose, calibrate and evaluate the map of several contrasts of one head",
    "compare-trainings": "measure the variability across training seeds",
    "leave-site-out": "train without each hospital, and test on it",
    "choose-percentile": "say how reliable thresholds of few patients are",
    "choose-settings": "try settings of the methods on synthetic anomalies",
    "check-brain-mask": "measure the brain mask",
    "check-contrast": "count how often the contrast of a scan is told right",
    "check-small-lesions": "measure small lesions planted into healthy slices",
    "check-stripping": "measure how stripped heads are told from whole ones",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments and arguments[0] in LAB:  # its name until 0.17.0
        print(f"flipmap: {arguments[0]} is flipmap lab {arguments[0]} now", file=sys.stderr)
        arguments.insert(0, "lab")
    parser = _parser(arguments)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        parser.error(_unrecognised(unknown, options))
    try:
        return options.run(options) or EXIT_CODES["all good"]
    except Exception as error:
        if (cause := cause_of(error)) is None:
            raise
        print(f"flipmap: {cause}", file=sys.stderr)  # MONAI wraps what its components raise
        return EXIT_CODES["nothing to do" if isinstance(cause, DatasetError) else "usage"]
    except KeyboardInterrupt:
        print("flipmap: interrupted; the same command goes on from here", file=sys.stderr)
        return EXIT_CODES["interrupted"]


def entry() -> None:
    """For the installed command: threads that are stuck do not keep the process, those that wait leave the cores to
    reading and writing.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before PyTorch is imported
    code = main()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """Of all commands; only of those among the arguments the module is imported, since most bring PyTorch along."""
    codes = ", ".join(f"{code} {meaning}" for meaning, code in sorted(EXIT_CODES.items(), key=lambda i: i[1]))
    parser = argparse.ArgumentParser(prog="flipmap", description=PURPOSE, epilog=f"exit codes: {codes}")
    parser.add_argument("--version", action="version", version=f"flipmap {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add(commands, COMMANDS, arguments, codes)
    lab = commands.add_parser(
        "lab", help="how the choices of this project were made and are checked: flipmap lab --help"
    )
    lab.description = "How the choices of this project were made, and are checked."
    _add(lab.add_subparsers(required=True, metavar="COMMAND"), LAB, arguments, codes)
    return parser


def _add(commands: Any, purposes: Mapping[str, str], arguments: Sequence[str], codes: str) -> None:
    for name, purpose in purposes.items():
        command = commands.add_parser(
            name, help=purpose, epilog=f"exit codes: {codes}", formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name in arguments:
            module = importlib.import_module(f".commands.{name.replace('-', '_')}", __package__)
            command.description = module.__doc__
            module.add_arguments(command)
            command.set_defaults(run=module.run, parser=command)


def _unrecognised(unknown: Sequence[str], options: argparse.Namespace) -> str:
    """What to say of arguments that a command has not: the nearest option, or setting of a config, is offered."""
    ours = {text.lstrip("-"): text for action in options.parser._actions for text in action.option_strings}
    settings = _settings(options) if "set" in ours else []
    said = [f"unrecognized arguments: {' '.join(unknown)}"]
    for number, argument in enumerate(unknown):
        if not argument.startswith("--"):
            continue
        name, _, value = argument.lstrip("-").partition("=")
        following = unknown[number + 1] if number + 1 < len(unknown) else ""
        value = value or (following if following and not following.startswith("--") else "VALUE")
        near = difflib.get_close_matches(name, [*settings, *ours], 1, 0.7)
        near = near or difflib.get_close_matches(name.replace("-", "_"), settings, 1, 0.7)
        if near:
            offer = ours.get(near[0]) if near[0] not in settings else f"--set {near[0]}={value}"
            said.append(f"Did you mean {offer}?")
    return ". ".join(said)


def _settings(options: argparse.Namespace) -> list[str]:
    """Ids that ``--set`` takes, as they stand in the configs."""
    configs = Path(default_config()).parent
    recipes = getattr(options, "recipe", ())
    paths = [configs / f"train_{name}.json" for name in recipes] if recipes else [configs / "inference.json"]
    known = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]
    return [key for one in known for key, value in one.items() if not isinstance(value, (dict, list))]


if __name__ == "__main__":
    entry()
