# SPDX-License-Identifier: Apache-2.0
"""Weights on disk: pure tensor state dicts."""

from __future__ import annotations

import pickle
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from ..errors import WeightsError
from .protocol import SliceNetwork

__all__ = ["in_fast_layout", "load_weights", "start_from"]

Module = TypeVar("Module", bound=nn.Module)
Network = TypeVar("Network", bound="nn.Module | SliceNetwork")
#: Dimensions of a kernel → channels last.
LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


_LAID_OUT: weakref.WeakSet[Any] = weakref.WeakSet()


def load_weights(network: Module, path: str | Path, without: Sequence[str] = (), part: str = "") -> Module:
    """Load a state dict strictly, tensors only, and lay it out in memory as convolutions on a CPU like it best.

    Args:
        network: to load it into.
        path: of the file.
        without: parts of the file that the network may do without.
        part: of the file that is the network; by default the whole file is.

    Raises:
        WeightsError: when the file is missing, is no state dict, or belongs to another network.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if part:
            state = {key.removeprefix(f"{part}."): one for key, one in state.items() if key.startswith(f"{part}.")}
        _check_parts(network, state, path)
        left_out = tuple(f"{part}." for part in without if part not in dict(network.named_children()))
        network.load_state_dict({key: value for key, value in state.items() if not key.startswith(left_out or "\0")})
    except FileNotFoundError as error:
        raise WeightsError(path, "no such file", "Train first, or give the path of the weights") from error
    except (RuntimeError, pickle.UnpicklingError, EOFError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise WeightsError(path, f"not the weights of this network ({reason})", "Take those it was made for") from error
    return in_fast_layout(network)


def start_from(network: Module, path: str | Path | None, without: Sequence[str] = (), part: str = "") -> Module:
    """What a training begins with: `load_weights`, or the network as it is where there is no ``path``."""
    return load_weights(network, path, without, part) if path else network


def _check_parts(network: nn.Module, state: Mapping[str, object], path: str | Path) -> None:
    """See that the weights have every part of a network that is made of parts, some of them.

    Raises:
        WeightsError: when some are missing, but not all.
    """
    there = {key.partition(".")[0] for key in state}
    wanted = {key.partition(".")[0] for key in network.state_dict()}
    if there & wanted and (missing := sorted(wanted - there)):
        remedy = "Join the weights again with these parts, or with --rest FILE, which has them (flipmap join-weights)"
        raise WeightsError(path, f"without {' and '.join(missing)}, which this network has", remedy)


def in_fast_layout(network: Network) -> Network:
    """Kernels with their channels last: a quarter faster on CPUs than PyTorch's own order, and the same numbers."""
    if network not in _LAID_OUT:  # going through hundreds of modules is slow, and methods ask before every scan
        for parameter in network.parameters():
            if parameter.ndim in LAYOUTS:
                parameter.data = parameter.data.contiguous(memory_format=LAYOUTS[parameter.ndim])
        _LAID_OUT.add(network)
    return network
