# SPDX-License-Identifier: Apache-2.0
"""How surely a stripped skull is told from a whole head (`bundle.transforms.skull_stripping`), as volumes and as slabs.

    flipmap lab check-stripping --whole BIDS [BIDS ...] --stripped BIDS [BIDS ...]

Whole heads are asked as they are and stripped by the brain mask found in them; of every one a slab of 30 mm, too.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np

from ..io.nifti import read_scan
from ..paths import bundle_root
from ..transforms.brain import BrainMaskd
from ..transforms.mri import to_axial
from ..transforms.skull_stripping import is_stripped

__all__ = ["add_arguments", "run"]

SLAB_MM = 30.0


def slab(volume: np.ndarray, thickness: float) -> np.ndarray:
    """Slices a little above the middle."""
    middle, count = 5 * volume.shape[2] // 8, max(3, int(SLAB_MM / thickness))
    return volume[..., middle - count // 2 : middle + count // 2 + 1]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--whole", type=Path, nargs="+", required=True, help="BIDS roots of whole heads")
    parser.add_argument("--stripped", type=Path, nargs="+", required=True, help="BIDS roots of stripped heads")


def run(options: argparse.Namespace) -> None:
    find = BrainMaskd("image", Path(bundle_root()) / "models" / "brain_mask" / "model.pt")
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()

    def ask(what: str, volume: np.ndarray, spacing: tuple[float, ...], stripped: bool) -> None:
        for name, part in ((what, volume), (f"{what}, slab", slab(volume, spacing[2]))):
            head, brain = find.head_and_brain(part, spacing)
            if brain.any():
                asked[name] += 1
                right[name] += is_stripped(part, head, brain, spacing) == stripped

    for roots, stripped in ((options.whole, False), (options.stripped, True)):
        for path in sorted(path for root in roots for path in root.glob("sub-*/anat/*.nii.gz")):
            scan = to_axial(read_scan(path))
            volume, spacing = np.maximum(scan[0].numpy(), 0), tuple(float(s) for s in scan.pixdim)
            ask("stripped by others" if stripped else "whole head", volume, spacing, stripped)
            if not stripped:
                ask("stripped by the mask found", volume * find.head_and_brain(volume, spacing)[1], spacing, True)
    for name, count in asked.items():
        print(f"| {name} | {right[name]} of {count} |", flush=True)
