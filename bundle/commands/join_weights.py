# SPDX-License-Identifier: Apache-2.0
"""Put parts that were trained one by one into one file of weights, and beside it where each of them comes from.

    flipmap join-weights --models DIR --half model.pt runs/denoiser/weights.pt lesions=runs/lesions/weights.pt

A part that is given by no file is left out, which is said; --rest FILE takes it from there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import FlipmapError
from ..model_files import model_file, refuse_shipped
from ..paths import bundle_root

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, help="where to; with --models, in that folder: model.pt, t1w/model.pt …")
    parser.add_argument("base", type=Path, help="weights of the denoiser, or of another whole network")
    parser.add_argument("parts", nargs="*", metavar="NAME=FILE", help="further parts, alone or in a whole network")
    parser.add_argument("--half", action="store_true", help="16 bits a number, as the shipped weights have")
    parser.add_argument("--rest", type=Path, metavar="FILE", help="weights to take from what no other file has")
    parser.add_argument("--models", type=Path, metavar="DIR", help="folder of weights of your own (made as needed)")
    parser.add_argument("--overwrite-shipped", action="store_true", help="replace weights that came with flipmap")


def run(options: argparse.Namespace) -> None:
    from ..training.join import join_weights  # brings PyTorch along

    parts: dict[str, str] = {}
    for given in options.parts:
        name, separator, file = given.partition("=")
        if not separator:
            raise FlipmapError(given, "no NAME=FILE", "Write lesions=runs/lesions/weights.pt")
        parts[name] = file
    path = options.models / options.path if options.models else options.path
    refuse_shipped(path, options.overwrite_shipped)
    like = _shipped_like(path, options.models)
    made = join_weights(path, options.base, parts, options.rest, like, options.half)
    for name, file in made.origins.items():
        print(f"{name}: from {file}")
    if made.left_out:
        print(f"left out: {', '.join(made.left_out)} (take them with --rest {like}, or train them)")
    print(path)


def _shipped_like(path: Path, models_dir: Path | None) -> str | None:
    """The shipped weights of the same place in the folder of weights."""
    name = path.relative_to(models_dir) if models_dir else Path(*path.parts[-2:])
    found = [model_file(None, bundle_root(), one) for one in (name.as_posix(), name.name)]
    return next((one for one in found if Path(one).exists()), None)
