# SPDX-License-Identifier: Apache-2.0
"""The scores of a method on labelled cases, on each scan's own grid."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import Invertd, InvertibleTransform

from ..io.nifti import read_scan
from ..transforms.background import background_to_zero
from ..transforms.brain_depth import brain_depth
from ..transforms.head import free_slices, head_mask
from ..transforms.mri import to_axial

__all__ = ["CaseScores", "Prepared", "inverted", "prepare", "score_case"]


@dataclass
class Prepared:
    """A case, read once for all methods. Arrays are (X, Y, Z), Z across axial slices, at the scan's resolution.

    Attributes:
        name: of the case.
        item: what the preprocessing made of it.
        intensity: the scan as it was read.
        lesion: expert mask.
        head: voxels that count: air outside does not, unless an expert marked it.
        brain: the brain mask of the preprocessing, at the scan's resolution.
        healthy: (Z,) whether a slice has head and no lesion, nor its neighbours any.
        spacing: voxel size, mm.
        depth: below the brain's surface, mm, float16; zero throughout where the preprocessing notes none.
    """

    name: str
    item: dict
    intensity: np.ndarray
    lesion: np.ndarray
    head: np.ndarray
    brain: np.ndarray
    healthy: np.ndarray
    spacing: tuple[float, ...]
    depth: np.ndarray

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel."""
        return float(np.prod(self.spacing)) / 1000


@dataclass
class CaseScores:
    """Scores of one method on one case: (X, Y, Z), and the seconds that the map took."""

    scores: np.ndarray
    seconds: float


def prepare(case: dict, preprocessing: Callable) -> Prepared:
    """Read a case with ``image`` and, unless all of it is healthy, ``label``.

    Raises:
        ScanError: when scan or label cannot be read.
    """
    scan = to_axial(read_scan(case["image"]))
    intensity, spacing = scan[0].numpy(), tuple(float(s) for s in scan.pixdim)
    lesion = np.zeros(intensity.shape, bool)
    if "label" in case:
        lesion = to_axial(read_scan(case["label"], labels=True))[0].numpy() > 0.5
    head = head_mask(background_to_zero(intensity), spacing)
    item = preprocessing({"image": case["image"]})
    depth = brain_depth(item["image"])
    if depth is None:
        depth = np.zeros((1, *item["image"].shape[1:]), np.float32)
    return Prepared(
        name=case["name"],
        item=item,
        intensity=intensity,
        lesion=lesion,
        head=head | lesion,
        brain=to_axial(_invert(item["brain"], preprocessing, "brain"))[0].numpy() > 0.5,
        healthy=head.any((0, 1)) & free_slices(lesion),
        spacing=spacing,
        depth=to_axial(inverted(item, depth, preprocessing))[0].numpy().astype(np.float16),
    )


def score_case(
    case: Prepared, method: Inferer, network: torch.nn.Module, preprocessing: Callable, device: torch.device
) -> CaseScores:
    """Run a method on a case, without calibration, and bring its map back to the scan's resolution."""
    start = time.perf_counter()
    image = case.item["image"]
    network.eval()
    raw = method(image[None].to(device), network)[0].cpu()
    restored = inverted(case.item, raw, preprocessing)
    return CaseScores(to_axial(restored)[0].numpy(), time.perf_counter() - start)


def inverted(item: dict, values: torch.Tensor | np.ndarray, preprocessing: Callable) -> MetaTensor:
    """Values (1, X, Y, Z) on the model's grid, back on the scan's own."""
    image = item["image"]
    noted = {"meta": image.meta, "applied_operations": image.applied_operations}
    return _invert(MetaTensor(torch.as_tensor(np.asarray(values)), **noted), preprocessing, "image")


def _invert(values: MetaTensor, preprocessing: Callable, key: str) -> MetaTensor:
    """What the preprocessing did to the values of a key, undone."""
    return Invertd(key, cast(InvertibleTransform, preprocessing), nearest_interp=False)({key: values})[key]
