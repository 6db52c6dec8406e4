# SPDX-License-Identifier: Apache-2.0
"""Parts that were trained one by one in one file of weights, as MONAI Label wants it, and where each comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import WeightsError
from ..io.files import whole_file
from ..scoring.calibration import weights_hash
from .provenance import read_provenance, write_provenance

__all__ = ["Joined", "join_weights"]


@dataclass(frozen=True)
class Joined:
    """What was written.

    Attributes:
        origins: part of the network → file that it was taken from.
        left_out: parts that ``like`` has and the new file has not.
    """

    origins: Mapping[str, Path]
    left_out: tuple[str, ...]


def join_weights(
    path: str | Path,
    base: str | Path,
    parts: Mapping[str, str | Path],
    rest: str | Path | None = None,
    like: str | Path | None = None,
    half: bool = False,
) -> Joined:
    """Write weights, and their provenance beside them.

    Args:
        path: where to.
        base: weights of a whole network, of which all parts are taken but those in ``parts``.
        parts: name of a part → weights of it alone, or of a network that has it.
        rest: weights that the parts are taken from which no other file has; None to leave these out.
        like: weights of the same kind, to say what is left out; None where there are none.
        half: 16 bits a number, as the shipped weights have.

    Raises:
        WeightsError: when a file cannot be read, or has no such part.
        OutputError: when the file cannot be written.
    """
    state = {name: part for name, part in _parts(_load(base)).items() if name not in parts}
    origins = dict.fromkeys(state, Path(base))
    for name, file in parts.items():
        state[name], origins[name] = _part_of(file, name), Path(file)
    if rest:
        more = {name: part for name, part in _parts(_load(rest)).items() if name not in state}
        state, origins = state | more, origins | dict.fromkeys(more, Path(rest))
    joined = {key: value for part in state.values() for key, value in part.items()}
    with whole_file(path) as temporary:
        torch.save(_halved(joined) if half else joined, temporary)
    files = {"": base, **parts, **({"rest": rest} if rest else {})}
    known = {name: read_provenance(file) for name, file in files.items()}
    write_provenance(path, {"sha256": weights_hash(path), "parts": known})
    wanted = _parts(_load(like)) if like and Path(like).exists() else {}
    return Joined(origins, tuple(name for name in wanted if name not in state))


def _load(path: str | Path) -> dict[str, torch.Tensor]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever PyTorch makes of a file that it did not write
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"no weights ({type(error).__name__})"
        raise WeightsError(path, reason, "Give a weights.pt of a training") from error


def _parts(state: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """The parts of a network by name, their keys as they are."""
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in state.items():
        parts.setdefault(key.partition(".")[0], {})[key] = value
    return parts


def _part_of(path: str | Path, name: str) -> dict[str, torch.Tensor]:
    """A part out of a network that has it, or that is the part."""
    state = _load(path)
    own = {key: value for key, value in state.items() if key.startswith(f"{name}.")}
    return own or {f"{name}.{key}": value for key, value in state.items()}


def _halved(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """In 16 bits; what two names share stays shared, and is stored once."""
    known: dict[tuple, torch.Tensor] = {}
    for value in state.values():
        key = (value.data_ptr(), tuple(value.shape))
        known.setdefault(key, value.half() if value.is_floating_point() else value)
    return {name: known[value.data_ptr(), tuple(value.shape)] for name, value in state.items()}
