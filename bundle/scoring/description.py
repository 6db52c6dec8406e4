# SPDX-License-Identifier: Apache-2.0
"""What made the scores, as plain data: every setting of a preprocessing and a method, so that a calibration can be held
against the job that uses it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import PurePath

import numpy as np
import torch
from torch import nn

__all__ = ["describe", "differences_between", "fingerprint_of"]

#: Attributes that say where and how fast scores are made, which keys hold them, or how large the voxels of a scan
#: are, and not how scores are made. Weights are compared by the content of their files.
IGNORED = frozenset(
    (
        "keys",
        "allow_missing_keys",
        "label_keys",
        "contrast",
        "precision",
        "slices_per_pass",
        "threads",
        "voxel_um",
        "weights",
        "calibration",
    )
)

OURS = __name__.partition(".")[0]
PRESENT = "present"  # a component, whatever its settings

Setting = str | int | float | bool | None


def describe(**parts: object) -> dict[str, Setting]:
    """Settings of the parts of a job, flat: ``preprocessing.3.ScaleHeadIntensityd.headroom`` → 3.0.

    Objects are walked through their public attributes. Networks, files, tensors and the attributes in `IGNORED` are
    left out, and so are transforms with an attribute ``changes_nothing``; data classes, such as a calibration within a
    method, are told by a hash of what they are compared by.

    Args:
        parts: name → transform, inferer, or a list or mapping of them.
    """
    found: dict[str, Setting] = {}
    for name, part in parts.items():
        _walk(name, part, found)
    return found


def fingerprint_of(settings: Mapping[str, Setting]) -> str:
    """SHA-256 of settings, first 16 digits."""
    return hashlib.sha256(json.dumps(dict(settings), sort_keys=True).encode()).hexdigest()[:16]


def differences_between(known: Mapping[str, Setting], here: Mapping[str, Setting], most: int = 3) -> str:
    """What differs between the settings of a calibration and those of a job, in words; empty when nothing does.

    A setting that is None counts as absent: a calibration from before there was the setting holds. So None has to mean
    "as before" where a method or transform gets a new one.
    """
    keys = [key for key in dict.fromkeys((*here, *known)) if known.get(key) != here.get(key)]
    differing = sorted(keys, key=lambda key: PRESENT not in (known.get(key), here.get(key)))  # components first
    said = [f"{key} is {here.get(key, 'absent')}, it was {known.get(key, 'absent')}" for key in differing[:most]]
    return "; ".join([*said, f"and {len(differing) - most} more"] if len(differing) > most else said)


def _walk(name: str, value: object, found: dict[str, Setting]) -> None:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (str, int, float, bool)):
        found[name] = value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            _walk(f"{name}.{key}", part, found)
    elif isinstance(value, (list, tuple, set, frozenset)):
        parts = sorted(value) if isinstance(value, (set, frozenset)) else value
        for number, part in enumerate(one for one in parts if not getattr(one, "changes_nothing", False)):
            _walk(f"{name}.{number}", part, found)
    elif dataclasses.is_dataclass(value):
        content = {one.name: getattr(value, one.name) for one in dataclasses.fields(value) if one.compare}
        found[name] = fingerprint_of({"content": json.dumps(content, sort_keys=True, default=str)})
    elif isinstance(value, (nn.Module, torch.Tensor, np.ndarray, PurePath, torch.device, torch.dtype, type)):
        return
    elif callable(value) and hasattr(value, "__qualname__"):
        found[name] = str(value.__qualname__)
    elif isinstance(getattr(value, "transforms", None), (list, tuple)):  # a Compose
        _walk(name, vars(value)["transforms"], found)
    elif hasattr(value, "__dict__") and not isinstance(value, np.random.RandomState):
        found[f"{name}.{type(value).__name__}"] = PRESENT
        if not type(value).__module__.startswith(OURS):
            return  # a library's attributes change with its version
        for key, part in sorted(vars(value).items()):
            if not key.startswith("_") and key not in IGNORED:
                _walk(f"{name}.{type(value).__name__}.{key}", part, found)
