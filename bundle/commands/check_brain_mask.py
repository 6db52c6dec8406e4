# SPDX-License-Identifier: Apache-2.0
"""How good the brain mask is, where an honest reference can be had.

    flipmap lab check-brain-mask --label_maps FOLDER --stripped BIDS --scans BIDS

Held-out label maps: random scans painted from them, each of a contrast of its own. Stripped T1w: what was left by the
stripping, put into a synthetic skull and scalp, and as it is, where it must be recognised. Scans with FLAIR and T1w of
one head: both masks against each other, since nobody drew one. And the share of the head that the network takes for
brain, by which stripped scans are told from whole heads, in all scans there are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from scipy import ndimage

from ..io.nifti import read_scan
from ..paths import bundle_root
from ..synthesis.heads import SyntheticHeads, label_maps
from ..transforms.brain import GRID_SPACING, BrainMaskd
from ..transforms.head import head_mask
from ..transforms.mri import to_axial

__all__ = ["add_arguments", "run"]


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / max((a.sum() + b.sum()), 1))


def tell(what: str, values: list[float]) -> None:
    figures = f"mean {np.mean(values):.3f}, least {min(values):.3f}, most {max(values):.3f}"
    print(f"{what}: {figures}, n = {len(values)}", flush=True)


def mask_of(find: BrainMaskd, volume: np.ndarray, affine: np.ndarray) -> np.ndarray:
    scan = MetaTensor(torch.from_numpy(volume[None].astype(np.float32)), affine=torch.as_tensor(affine))
    return find({"image": scan})["brain"][0].numpy() > 0


def share_of(find: BrainMaskd, volume: np.ndarray, spacing: tuple[float, ...]) -> float:
    """Part of the head that is taken for brain."""
    head, brain = find.head_and_brain(volume, spacing)
    return float(brain[head].mean())


def shares(find: BrainMaskd, paths: list[Path]) -> tuple[list[float], list[float]]:
    """`share_of` scans as they are, and stripped by what was found in them."""
    whole, stripped = [], []
    for path in paths:
        scan = to_axial(read_scan(path))
        volume, spacing = np.maximum(scan[0].numpy(), 0), tuple(float(s) for s in scan.pixdim)
        whole.append(share_of(find, volume, spacing))
        stripped.append(share_of(find, volume * find.head_and_brain(volume, spacing)[1], spacing))
    return whole, stripped


def in_a_skull(brain: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A 1 mm volume of a stripped brain with fluid, bone and scalp around it, and the brain with its fluid."""
    rng = np.random.RandomState(seed)
    brain = np.pad(brain, 20)
    inside = ndimage.binary_fill_holes(ndimage.binary_closing(brain > 0, iterations=4))
    distance = ndimage.distance_transform_edt(~inside)
    top = np.percentile(brain[brain > 0], 90)
    fluid, bone, scalp = (r + rng.uniform(0, 2) for r in (1.5, 5, 10))
    volume = np.where(inside, np.maximum(brain, 0.15 * top), 0)
    for low, high, value in ((0, fluid, 0.2), (fluid, bone, 0.08), (bone, scalp, rng.uniform(0.6, 1.4))):
        volume[(distance > low) & (distance <= high)] = value * top
    volume = ndimage.gaussian_filter(volume, 0.7) + rng.normal(0, 0.03 * top, volume.shape)
    return np.maximum(volume, 0), distance <= fluid


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--label_maps", type=Path, required=True, help="folder of label maps, of which held-out ones are painted"
    )
    parser.add_argument("--stripped", type=Path, required=True, help="BIDS root of stripped T1w scans")
    parser.add_argument("--scans", type=Path, required=True, help="BIDS root of whole heads, FLAIR and T1w")
    parser.add_argument("--count", type=int, default=20, help="scans of each kind (default: %(default)s)")


def run(options: argparse.Namespace) -> None:
    find = BrainMaskd("image", Path(bundle_root()) / "models" / "brain_mask" / "model.pt")
    lps = np.diag([-1.0, -1.0, 1.0, 1.0])

    heads = SyntheticHeads(label_maps(options.label_maps, "validation"), options.count, seed=1000)
    grid = lps @ np.diag([GRID_SPACING] * 3 + [1])
    items = [heads[number] for number in range(len(heads))]
    pairs = [(item["image"][0].numpy(), item["label"][0].numpy() > 0.5) for item in items]
    tell("Dice, held-out label maps, random contrast", [dice(mask_of(find, i, grid), b) for i, b in pairs])

    framed, recognised, skulls = [], [], []
    for number, path in enumerate(sorted(options.stripped.glob("sub-*/anat/*_T1w.nii.gz"))[: options.count]):
        scan = to_axial(read_scan(path))[0].numpy()
        volume, reference = in_a_skull(scan, number)
        skulls.append(share_of(find, volume, (1.0, 1.0, 1.0)))
        framed.append(dice(mask_of(find, volume, lps), reference))
        recognised.append(dice(mask_of(find, scan, lps), head_mask(scan, (1, 1, 1))))
    tell("Dice, stripped T1w put into a synthetic skull", framed)
    tell("Dice with what is left, T1w stripped already", recognised)

    agreement = []
    for flair in sorted(options.scans.glob("sub-*/anat/*_FLAIR.nii.gz"))[: options.count]:
        other = flair.with_name(flair.name.replace("_FLAIR", "_T1w"))
        if other.is_file():
            masks = [find({"image": to_axial(read_scan(path))})["brain"][0].numpy() > 0 for path in (flair, other)]
            agreement.append(dice(*masks))
    tell("Dice, mask of the FLAIR with that of the T1w of the same head", agreement)

    whole, own = shares(find, sorted(options.scans.glob("sub-*/anat/*.nii.gz")))
    stripped, _ = shares(find, sorted(options.stripped.glob("sub-*/anat/*.nii.gz")))
    tell("Share taken for brain, whole heads", whole)
    tell("Share taken for brain, the same, stripped by their own mask", own)
    tell("Share taken for brain, synthetic skulls", skulls)
    tell("Share taken for brain, T1w stripped already", stripped)
