# SPDX-License-Identifier: Apache-2.0
"""What the whole package stands on: where the bundle lies, and its version."""

from __future__ import annotations

from pathlib import Path

__all__ = ["__version__", "bundle_root", "default_config"]

__version__ = "0.19.0"


def bundle_root() -> str:
    """Folder of the MONAI bundle, with configs/ and models/: the repository, or, installed from a wheel, this
    package.
    """
    package = Path(__file__).resolve().parent
    checkout = package.parent
    return str(checkout if (checkout / "configs" / "inference.json").is_file() else package)


def default_config() -> str:
    """Path of configs/inference.json."""
    return str(Path(bundle_root()) / "configs" / "inference.json")
