# SPDX-License-Identifier: Apache-2.0
r"""Train a network by one of the recipes; a run that was cut short goes on, given the same command.

    flipmap train autoencoder --dataset_dir DATA --output_dir runs/autoencoder
    flipmap train denoiser --dataset_dir DATA --output_dir runs/denoiser \
        --set autoencoder_weights=runs/autoencoder/weights.pt

A recipe is a file of configs: train_NAME.json, NAME.json, or a file of your own. Several are laid over each other in
their order. It is python -m monai.bundle run with these files; docs/training.md says what to train in which order.
"""

from __future__ import annotations

import argparse
import difflib
from pathlib import Path
from typing import Any

from ..errors import FlipmapError
from ..paths import bundle_root
from .options import add_settings, settings_of

__all__ = ["add_arguments", "run"]

TRACKING = ("mlflow", "tensorboard")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", nargs="+", help="name of a recipe, or a config file")
    parser.add_argument("--dataset_dir", type=Path, required=True, help="scans to train on")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of weights, checkpoints and pictures")
    parser.add_argument("--split", type=Path, help="split file; by default a hash of names deals people not known")
    parser.add_argument(
        "--tracking", metavar="WHERE", help=f"follow the curves in {' or '.join(TRACKING)}, or as a config file says"
    )
    add_settings(parser)


def run(options: argparse.Namespace) -> None:
    import monai.bundle

    from ..arguments import check_settings
    from ..config_errors import explained

    files = [str(_file_of(name)) for name in options.recipe]
    settings: dict[str, Any] = settings_of(options.set)
    if options.split:
        settings["split"] = str(options.split)
    given: dict[str, Any] = {"dataset_dir": str(options.dataset_dir), "output_dir": str(options.output_dir)}
    try:
        check_settings({**settings, **given}, monai.bundle.ConfigParser.load_config_files(files))
        tracking: dict[str, Any] = {"tracking": _tracking(options.tracking)} if options.tracking else {}
        monai.bundle.run(config_file=files, bundle_root=bundle_root(), **given, **tracking, **settings)
    except Exception as error:
        if (known := explained(error)) is None:
            raise
        raise known from error


def _file_of(name: str) -> Path:
    """The config file of a recipe.

    Raises:
        FlipmapError: when there is none.
    """
    configs = Path(bundle_root()) / "configs"
    for path in (configs / f"train_{name}.json", configs / f"{name}.json", Path(name)):
        if path.is_file():
            return path
    names = sorted(path.stem.removeprefix("train_") for path in configs.glob("train_*.json"))
    near = difflib.get_close_matches(name, names, 1)
    remedy = f"Did you mean {near[0]}?" if near else f"Choose from {', '.join(names)}"
    raise FlipmapError(f"recipe {name}", "no such recipe, and no such file", remedy)


def _tracking(where: str) -> str:
    """As ``monai.bundle run`` takes it: it knows mlflow by name."""
    ours = Path(bundle_root()) / "configs" / "tracking" / f"{where}.json"
    if where == "mlflow" or Path(where).is_file():
        return where
    if not ours.is_file():
        raise FlipmapError(f"--tracking {where}", "not known", f"Choose from {', '.join(TRACKING)}, or give a file")
    return str(ours)
