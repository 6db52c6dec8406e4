# SPDX-License-Identifier: Apache-2.0
"""Weights and calibrations: those that ship with flipmap, and a folder of one's own over them, laid out the same way.

A folder of one's own need not hold everything: weights that it lacks are the shipped ones. Nothing that ships is
written over unless that is asked for.
"""

from __future__ import annotations

from pathlib import Path

from .errors import FlipmapError, OutputError
from .paths import bundle_root

__all__ = ["check_models_dir", "made_models_dir", "model_file", "own_file", "refuse_shipped", "tables_file"]

MODELS = "models"  # folder of the bundle
KEEP = "Give --models DIR for one of your own, or --overwrite-shipped to replace it"


def model_file(models_dir: str | Path | None, root: str | Path, name: str) -> str:
    """Where weights are: in one's own folder if it has them, else among those that ship.

    Args:
        models_dir: folder of one's own, or None.
        root: of the bundle.
        name: relative to ``models``, ``t1w/model.pt`` for instance.

    Raises:
        FlipmapError: when there is no such folder.
    """
    shipped = Path(root) / MODELS / name
    if models_dir is None:
        return str(shipped)
    own = Path(models_dir) / name
    if not Path(models_dir).is_dir():
        raise FlipmapError(models_dir, "no such folder", "Give the folder of your weights or calibrations")
    return str(own if own.exists() else shipped)


def tables_file(models_dir: str | Path | None, root: str | Path, weights: str | Path, name: str) -> str:
    """Where calibrations are: those of weights of one's own are one's own, too.

    Args:
        models_dir, root, name: see `model_file`.
        weights: that they are for.
    """
    found = Path(model_file(models_dir, root, name))
    if models_dir is not None and Path(weights).resolve().is_relative_to(Path(models_dir).resolve()):
        return str(Path(models_dir) / name)
    return str(found)


def check_models_dir(models_dir: str | Path) -> str:
    """The absolute path of a folder of one's own that is to be read.

    Raises:
        FlipmapError: when it is no folder, or holds neither weights nor calibrations.
    """
    folder = Path(models_dir).expanduser()
    if not folder.is_dir():
        raise FlipmapError(folder, "no such folder", "Give the folder of your weights or calibrations")
    if not any(any(folder.rglob(name)) for name in ("*.pt", "calibration.json")):
        remedy = "Make them with flipmap join-weights and flipmap calibrate (docs/training.md)"
        raise FlipmapError(folder, "neither weights (model.pt) nor calibrations (calibration.json) in it", remedy)
    return str(folder.resolve())


def made_models_dir(models_dir: str | Path) -> str:
    """The absolute path of a folder of one's own that is to be written; made as needed.

    Raises:
        OutputError: when it cannot be made.
    """
    folder = Path(models_dir).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(folder, f"cannot be made ({error.strerror})", "Give another folder") from error
    return str(folder.resolve())


def own_file(models_dir: str | Path, path: str | Path) -> Path:
    """The place in a folder of one's own of what lies among the shipped models; of anything else, where it is."""
    shipped = Path(bundle_root()) / MODELS
    return Path(models_dir) / Path(path).relative_to(shipped) if _is_shipped(path) else Path(path)


def refuse_shipped(path: str | Path, overwrite: bool = False) -> None:
    """See that nothing that ships is written over.

    Args:
        path: that is to be written.
        overwrite: whether that was asked for.

    Raises:
        OutputError: when it ships with flipmap, and was not to be replaced.
    """
    if _is_shipped(path) and not overwrite:
        raise OutputError(path, "ships with flipmap, and every run reads it", KEEP)


def _is_shipped(path: str | Path) -> bool:
    return Path(path).resolve().is_relative_to((Path(bundle_root()) / MODELS).resolve())
