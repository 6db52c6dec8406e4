# SPDX-License-Identifier: Apache-2.0
"""Settings that nobody knows are refused: a misspelt one would otherwise change nothing, without a word."""

from __future__ import annotations

import difflib
import inspect
import json
import logging
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from .config_errors import install_hook
from .errors import EXIT_CODES, FlipmapError

__all__ = ["check_arguments", "check_settings"]

logger = logging.getLogger(__name__)

OPTION = re.compile("-{1,2}[A-Za-z+]")  # as Fire reads them: one dash or two, dashes within for underscores
SEPARATORS = re.compile("#|::")  # of the places in a config
OPEN = ("rows", "places", "shares")  # ids under which names are the user's own
RUN = "run"  # id of a config that MONAI runs
#: Ids that are for MONAI itself, or that a method may do without.
WITHOUT_REFERENCE = ("imports", "initialize", RUN, "finalize", "precision")
MERGE = "+"  # before an id: MONAI adds to it instead of replacing it


def check_settings(settings: Iterable[str], config: Mapping) -> None:
    """See that every setting is an id of a config.

    Args:
        settings: ids, such as ``threshold`` or ``steps#grid#size``.
        config: what the config files hold, before the settings went in.

    Raises:
        FlipmapError: on the first that is not, with the nearest that is; on one that changes nothing, since nothing in
            this config reads it.
    """
    for setting in settings:
        _check_read(setting, config)
        place: object = config
        for part in SEPARATORS.split(setting.removeprefix(MERGE)):
            if isinstance(place, str) and place.startswith(("@", "$", "%")):
                break  # what an expression or a reference gives is not known here
            if _is_component(place) or part in OPEN:
                break  # a component may take more than the config gives it
            known = _ids(place)
            if part not in known:
                near = difflib.get_close_matches(part, known, 1)
                remedy = f"Did you mean {near[0]}?" if near else f"Choose from {', '.join(known) or 'none'}"
                raise FlipmapError(f"setting {setting}", f"the config has no {part!r}", remedy)
            place = _inside(place, part)


def _check_read(setting: str, config: Mapping) -> None:
    """See that a plain id of a config that runs stands for something.

    Raises:
        FlipmapError: when no other id refers to it.
    """
    if (
        RUN not in config
        or setting not in config
        or setting in WITHOUT_REFERENCE
        or isinstance(config[setting], Mapping)
    ):
        return
    others = json.dumps({key: value for key, value in config.items() if key != setting}, default=str)
    if not re.search(rf"[@%]{re.escape(setting)}\b", others):
        raise FlipmapError(f"setting {setting}", "nothing in this config reads it", "Leave it out")


def _ids(place: object) -> list[str]:
    if isinstance(place, Mapping):
        return [str(key) for key in place]
    return [str(number) for number in range(len(place))] if isinstance(place, list) else []


def _is_component(place: object) -> bool:
    return isinstance(place, Mapping) and "_target_" in place


def _inside(place: object, part: str) -> object:
    if isinstance(place, Mapping):
        return place.get(part)
    return place[int(part)] if isinstance(place, list) else place


def check_arguments(arguments: Sequence[str] | None = None) -> None:
    """For ``initialize`` of a config: see that ``python -m monai.bundle run`` was given ids that its configs have, and
    let it end with one line where a config or data are wrong (`bundle.config_errors`).

    What is no such command is left alone.

    Args:
        arguments: of the command; those of this process by default.

    Raises:
        SystemExit: with the exit code for wrong usage, after one line that names the id and the nearest one.
    """
    given = list(sys.argv if arguments is None else arguments)
    # An expression or a path of Python's own module syntax stands before the name of MONAI's command.
    if "run" not in given[:3] or "monai" not in Path(given[0]).parts:
        return
    install_hook()
    options = _options(given)
    files = _files(options.get("config_file"))
    if not files:
        return
    _check_one_flipmap(files[0])
    try:
        from monai.bundle import ConfigParser, run

        own = set(inspect.signature(run).parameters)
        config = ConfigParser.load_config_files(files)
        check_settings([key for key in options if key not in own], config)
    except FlipmapError as error:
        logger.error("%s", error)
        raise SystemExit(EXIT_CODES["usage"]) from error


def _check_one_flipmap(config: str) -> None:
    """Say so where the config is that of another flipmap than the code: a checkout where Python was started comes
    before what is installed.
    """
    theirs = Path(config).resolve().parent.parent
    package = next((one for one in (theirs / "bundle", theirs) if (one / "model_files.py").is_file()), None)
    ours = Path(__file__).resolve().parent
    if package is not None and package != ours:
        remedy = "Start in another folder, give the config of that code, or pip install -e"
        logger.warning("the config is that of %s, the code is that of %s. %s", theirs, ours, remedy)


def _options(arguments: Sequence[str]) -> dict[str, str]:
    """``--id value`` and ``--id=value`` → id → value; those of ``--args_file`` as well."""
    found: dict[str, str] = {}
    for number, argument in enumerate(arguments):
        if OPTION.match(argument):
            key, separator, value = argument.lstrip("-").partition("=")
            following = arguments[number + 1] if number + 1 < len(arguments) else ""
            found[key.replace("-", "_")] = value if separator else following
    if path := found.get("args_file"):
        from monai.bundle import ConfigParser

        given = ConfigParser.load_config_file(path)
        found |= {str(key): str(value) for key, value in given.items() if key not in found}
    return found


def _files(given: str | None) -> list[str]:
    """The config files of ``--config_file``: one, several with commas, or a list as Python writes it."""
    return [part.strip(" '\"") for part in (given or "").strip("[]()").split(",") if part.strip(" '\"")]
