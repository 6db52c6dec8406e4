# SPDX-License-Identifier: Apache-2.0
"""Scans of any contrast, made from label maps, to learn the brain mask from.

A label map gives the anatomy; every label draws an intensity of its own, so that no contrast, skull or slice thickness
is ever taken for granted. After Billot et al., "SynthSeg", arXiv 2107.09559, and Hoopes et al., "SynthStrip",
arXiv 2203.09974.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from monai.transforms import Randomizable
from scipy import ndimage
from torch.utils.data import Dataset

from ..errors import DatasetError
from ..io.nifti import read_scan
from ..transforms.brain import GRID_SPACING, normalise
from ..transforms.mri import to_axial

__all__ = ["SyntheticHeads", "label_maps"]

OUTSIDE = 500  # labels from here on lie outside the brain
#: FreeSurfer numbers that share an intensity in most contrasts.
TISSUES = {
    "white matter": (2, 7, 16, 28, 41, 46, 60, 85),
    "grey matter": (3, 8, 10, 11, 12, 13, 17, 18, 26, 42, 47, 49, 50, 51, 52, 53, 54, 58),
    "fluid": (4, 5, 14, 15, 24, 30, 43, 44, 62),
}
STEP = 2  # label voxels (1 mm) to one voxel that intensities are drawn on


def label_maps(folder: str | Path, part: str, held_back: int = 2) -> list[Path]:
    """Files of a part: the last ``held_back`` by name are for validation, the others for training.

    Raises:
        DatasetError: when there are not enough.
    """
    paths = sorted(Path(folder).glob("*.nii.gz"))
    if len(paths) <= held_back:
        raise DatasetError(folder, f"{len(paths)} label maps, at least {held_back + 1} needed", "Check the path")
    return paths[-held_back:] if part == "validation" else paths[:-held_back]


class SyntheticHeads(Dataset, Randomizable):
    """Random scans of known brains.

    An item is ``image`` (1, X, Y, Z), normalised as `bundle.transforms.brain.BrainMaskd` does, and ``label``, the part
    of each voxel that is brain (cerebrospinal fluid within the skull counts), on a grid of ``GRID_SPACING`` mm, LPS.

    Args:
        paths: label maps, 1 mm, FreeSurfer numbers, 500 and more outside the brain.
        length: items an epoch.
        size: of the grid; multiples of 8.
        seed: makes every item draw its own reproducible randomness (for validation); None draws anew each time.
    """

    def __init__(
        self, paths: Sequence[Path], length: int, size: Sequence[int] = (64, 80, 64), seed: int | None = None
    ) -> None:
        self.length, self.size, self.seed = length, tuple(size), seed
        self.maps, self.numbers, self.brains = [], [], []
        for path in paths:
            labels = to_axial(read_scan(path, labels=True))[0].numpy().astype(np.int32)[::STEP, ::STEP, ::STEP]
            numbers, index = np.unique(labels, return_inverse=True)
            self.maps.append(index.reshape(labels.shape))
            self.numbers.append(numbers)
            pieces, _ = ndimage.label(((numbers > 0) & (numbers < OUTSIDE))[self.maps[-1]])
            self.brains.append(pieces == np.bincount(pieces.ravel())[1:].argmax() + 1)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if self.seed is not None:
            self.set_random_state(self.seed + index)
        which = self.R.randint(len(self.maps))
        labels, numbers, brain = self.maps[which], self.numbers[which], self.brains[which]
        scan, brain = self._paint(labels, numbers, brain)
        both = torch.from_numpy(np.stack([scan, brain.astype(np.float32)])).float()
        both = F.grid_sample(both[None], self._pose(brain)[None], align_corners=False)[0]
        image, target = self._scanner(both[0].numpy(), both[1].numpy())
        return {"image": torch.from_numpy(normalise(image))[None], "label": torch.from_numpy(target)[None]}

    def _paint(self, labels: np.ndarray, numbers: np.ndarray, brain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Intensities from labels: a mean and a grain for each, or for each tissue; blobs of pathology; air.

        And the brain, which is what is left where the skull was stripped.
        """
        mean, grain = self.R.uniform(0.05, 1, len(numbers)), self.R.uniform(0, 0.12, len(numbers))
        if self.R.rand() < 0.6:
            for members in TISSUES.values():
                shared = self.R.uniform(0.05, 1)
                these = np.isin(numbers, members)
                mean[these] = shared + self.R.uniform(-0.06, 0.06, these.sum())
        mean[numbers == 0] = 0 if self.R.rand() < 0.6 else self.R.uniform(0, 0.08)
        grain[numbers == 0] = 0 if self.R.rand() < 0.6 else self.R.uniform(0, 0.05)
        noise = self.R.standard_normal(labels.shape).astype(np.float32)
        scan = mean.astype(np.float32)[labels] + grain.astype(np.float32)[labels] * noise
        for _ in range(self.R.randint(0, 3)):
            scan = np.where(self._blob(labels.shape) & brain, self.R.uniform(0, 1.1), scan)
        if self.R.rand() < 0.35:
            brain = self._strip(labels, numbers, brain)
            scan = scan * brain
        return ndimage.gaussian_filter(np.maximum(scan, 0), self.R.uniform(0.3, 0.8)).astype(np.float32), brain

    def _blob(self, shape: Sequence[int]) -> np.ndarray:
        centre = [self.R.uniform(0.25, 0.75) * s for s in shape]
        radii = self.R.uniform(2, 16, 3)
        axes = [((np.arange(s) - c) / r) ** 2 for s, c, r in zip(shape, centre, radii, strict=True)]
        return axes[0][:, None, None] + axes[1][None, :, None] + axes[2][None, None] < 1

    def _strip(self, labels: np.ndarray, numbers: np.ndarray, brain: np.ndarray) -> np.ndarray:
        """Where something is left after skull stripping, tight or loose, with or without the outer fluid."""
        kept = brain if self.R.rand() < 0.5 else brain & (numbers != 24)[labels]
        grow = self.R.randint(0, 3)
        return ndimage.binary_dilation(kept, iterations=grow) if grow else kept

    def _pose(self, brain: np.ndarray) -> torch.Tensor:
        """Sampling grid (X, Y, Z, 3) for grid_sample: random size, angle, place, bending."""
        angles, scale = self.R.uniform(-0.35, 0.35, 3), np.exp(self.R.uniform(-0.2, 0.2, 3))
        scale[2] *= np.exp(self.R.uniform(-0.35, 0.35))  # the distance of slices is often wrong in a header
        turn = np.eye(3)
        for axis, angle in enumerate(angles):
            a, b = [i for i in range(3) if i != axis]
            rotation = np.eye(3)
            rotation[a, a] = rotation[b, b] = np.cos(angle)
            rotation[a, b], rotation[b, a] = -np.sin(angle), np.sin(angle)
            turn = turn @ rotation
        centre = np.array(ndimage.center_of_mass(brain)) + self.R.uniform(-8, 8, 3)
        steps = np.meshgrid(*[np.arange(s) - (s - 1) / 2 for s in self.size], indexing="ij")
        place = np.stack(steps, -1) * GRID_SPACING / STEP @ (turn @ np.diag(scale)).T + centre
        coarse = torch.from_numpy(self.R.uniform(-1, 1, (1, 3, 5, 5, 5)) * self.R.uniform(0, 5))
        bend = F.interpolate(coarse, size=self.size, mode="trilinear", align_corners=True)[0].movedim(0, -1).numpy()
        unit = 2 * (place + bend + 0.5) / np.array(brain.shape) - 1
        return torch.from_numpy(unit[..., ::-1].copy()).float()

    def _scanner(self, image: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Field of view, bias field, slice thickness, gamma and noise."""
        field = self._field_of_view(target)
        image, target = image * field, target * field
        coarse = torch.from_numpy(self.R.uniform(-1, 1, (1, 1, 3, 3, 3)) * self.R.uniform(0, 0.5)).float()
        bias = F.interpolate(coarse, size=self.size, mode="trilinear", align_corners=True)[0, 0].exp().numpy()
        sigma = self.R.uniform(0, 0.5, 3)
        sigma[self.R.choice(3, p=(0.2, 0.2, 0.6))] = self.R.uniform(0, 1.2)
        image = ndimage.gaussian_filter(image * bias, sigma)
        image = np.maximum(image, 0) ** np.exp(self.R.uniform(-0.4, 0.4))
        if self.R.rand() < 0.5:
            image = np.abs(image + self.R.uniform(0, 0.08) * self.R.standard_normal(image.shape))
        return image.astype(np.float32), target.astype(np.float32)

    def _field_of_view(self, target: np.ndarray) -> np.ndarray:
        """1 inside: a slab that holds part of the brain, without the face now and then."""
        field = np.ones(target.shape, np.float32)
        inside = np.flatnonzero(target.max((0, 1)) > 0.5)
        if inside.size:
            foot, top = inside[0], inside[-1]
            if self.R.rand() < 0.5:
                field[..., : max(int(self.R.uniform(foot - 8, foot + 0.4 * (top - foot))), 0)] = 0
            if self.R.rand() < 0.3:
                field[..., int(self.R.uniform(top - 0.3 * (top - foot), top + 8)) :] = 0
            if self.R.rand() < 0.15:  # LPS: the face is where the second axis begins
                field[:, : int(target.shape[1] * 0.4), : int(foot + 0.2 * (top - foot))] = 0
        return field
