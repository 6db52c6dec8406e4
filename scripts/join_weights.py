# SPDX-License-Identifier: Apache-2.0
"""Put the separately trained parts of the default method into one file, as MONAI Label wants it, and beside it where
each of them comes from (provenance.json).

python scripts/join_weights.py --half models/model.pt runs/denoiser/weights.pt restoration=runs/disyre/weights.pt
"""

import argparse
from pathlib import Path

import torch

from bundle.io.files import whole_file
from bundle.scoring.calibration import weights_hash
from bundle.training.provenance import read_provenance, write_provenance


def halve(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """In 16 bits; what two names share stays shared, and is stored once."""
    known: dict[tuple, torch.Tensor] = {}
    for value in state.values():
        key = (value.data_ptr(), tuple(value.shape))
        known.setdefault(key, value.half() if value.is_floating_point() else value)
    return {name: known[value.data_ptr(), tuple(value.shape)] for name, value in state.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, help="where to")
    parser.add_argument("base", type=Path, help="weights whose other parts stay as they are")
    parser.add_argument("parts", nargs="*", metavar="NAME=FILE", help="further parts, alone or in a whole network")
    parser.add_argument("--half", action="store_true", help="16 bits a number, as the shipped weights have")
    arguments = parser.parse_args()
    base = torch.load(arguments.base, map_location="cpu", weights_only=True)
    parts = dict(given.split("=", 1) for given in arguments.parts)
    joined = {key: value for key, value in base.items() if key.partition(".")[0] not in parts}
    for name, file in parts.items():
        state = torch.load(file, map_location="cpu", weights_only=True)
        own = {key: value for key, value in state.items() if key.startswith(f"{name}.")}  # of a whole network
        joined |= own or {f"{name}.{key}": value for key, value in state.items()}
    if arguments.half:
        joined = halve(joined)
    with whole_file(arguments.path) as temporary:
        torch.save(joined, temporary)
    files = {"": arguments.base, **parts}
    origins = {name: read_provenance(file) for name, file in files.items()}
    write_provenance(arguments.path, {"sha256": weights_hash(arguments.path), "parts": origins})


if __name__ == "__main__":
    main()
