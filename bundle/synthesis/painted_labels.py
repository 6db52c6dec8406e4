# SPDX-License-Identifier: Apache-2.0
"""Label maps of heads painted like a scan of a contrast, with the large ventricles and wide sulci of old brains.

After Billot et al., "SynthSeg", arXiv 2107.09559: a label map gives the anatomy, intensities are drawn anew a scan.
Here they are drawn within what the contrast has, and the anatomy is aged.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable
from scipy import ndimage

__all__ = ["TISSUES", "RandPaintLabelsd"]

OUTSIDE = 500  # labels from here on lie outside the brain
#: FreeSurfer's numbers.
VENTRICLES, FLUID = (4, 43, 5, 44), (24, 14, 15)
WHITE, CORTEX, CEREBELLUM = (2, 41, 77), (3, 42, 17, 18, 53, 54), (8, 47)
AROUND_VENTRICLES = (2, 41, 77, 10, 49, 11, 50, 31, 63)  # what large ventricles take the place of
#: Label → intensity, least and most, in multiples of white matter's (or of what is named).
OTHERS = {
    7: (0.95, 1.1), 46: (0.95, 1.1), 13: (0.75, 1.0), 52: (0.75, 1.0), 16: (0.98, 1.15), 31: (0.6, 1.5), 63: (0.6, 1.5),
    30: (0.1, 1.1), 62: (0.1, 1.1),
}  # fmt: skip
#: Contrast → tissue → intensity, least and most: of white matter, and the others in multiples of it.
TISSUES = {
    "FLAIR": {"white": (0.85, 1.0), "grey": (1.05, 1.4), "fluid": (0.02, 0.45), "deep": (1.0, 1.25)},
    "T1w": {"white": (0.9, 1.0), "grey": (0.5, 0.88), "fluid": (0.04, 0.45), "deep": (0.65, 0.95)},
    "T2w": {"white": (0.8, 1.0), "grey": (1.1, 1.7), "fluid": (1.8, 4.5), "deep": (0.8, 1.4)},
    "PDw": {"white": (0.8, 1.0), "grey": (1.1, 1.35), "fluid": (0.9, 1.6), "deep": (1.0, 1.25)},
}
THICKNESSES = (1, 2, 3, 5)  # of slices, voxels of the label map


class RandPaintLabelsd(MapTransform, Randomizable):
    """Paint label maps.

    Args:
        keys: the one key of the label map (1, X, Y, Z), LPS, about 1 mm; it becomes the scan.
        brain_key: where the mask of the brain goes.
        aged: how often ventricles and sulci are widened.
        contrast: one of `TISSUES`.

    Raises:
        ValueError: on another contrast.
    """

    def __init__(
        self, keys: KeysCollection, brain_key: str = "brain", aged: float = 0.7, contrast: str = "FLAIR"
    ) -> None:
        super().__init__(keys)
        if contrast not in TISSUES:
            raise ValueError(f"contrast {contrast!r} is not one of {', '.join(TISSUES)}")
        self.brain_key, self.aged, self.tissues = brain_key, aged, TISSUES[contrast]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        d = dict(data)
        for key in self.key_iterator(d):
            source = d[key]
            labels = np.asarray(source[0]).astype(np.int32)
            brain = (labels > 0) & (labels < OUTSIDE)
            if self.R.rand() < self.aged:
                labels = self._age(labels, brain)
            scan, brain, affine = self._scan(self._paint(labels), brain, np.asarray(source.affine, dtype=float))
            meta = {key: value for key, value in source.meta.items() if key != "affine"}
            meta |= {"spatial_shape": np.array(scan.shape), "original_affine": affine}
            for name, values in ((key, scan), (self.brain_key, _whole(brain))):
                tensor = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))[None]
                d[name] = MetaTensor(tensor, affine=torch.as_tensor(affine), meta=dict(meta))
        return d

    def _noise(self, shape: tuple[int, ...], sigma: float) -> np.ndarray:
        noise = ndimage.gaussian_filter(self.R.standard_normal(shape).astype(np.float32), sigma)
        return noise / noise.std()

    def _age(self, labels: np.ndarray, brain: np.ndarray) -> np.ndarray:
        """Ventricles that have grown into what is around them, sulci into the cortex."""
        grown = self.R.uniform(0, 7) * (1 + 0.3 * self._noise(labels.shape, 6))
        distance = ndimage.distance_transform_edt(~np.isin(labels, VENTRICLES))
        labels = np.where((distance < grown) & np.isin(labels, AROUND_VENTRICLES), VENTRICLES[0], labels)
        widened = self.R.uniform(0, 2.5) * (1 + 0.5 * self._noise(labels.shape, 3))
        depth = ndimage.distance_transform_edt(brain & (labels != FLUID[0]))
        return np.where((depth < widened) & np.isin(labels, (*CORTEX[:2], *CEREBELLUM)), FLUID[0], labels)

    def _paint(self, labels: np.ndarray) -> np.ndarray:
        """Intensities of the contrast's tissues, and anything outside the brain."""
        white = self.R.uniform(*self.tissues["white"])
        grey, deep = (white * self.R.uniform(*self.tissues[name]) for name in ("grey", "deep"))
        fluid = np.exp(self.R.uniform(*np.log(self.tissues["fluid"])))
        drawn = np.zeros(labels.max() + 1, np.float32)
        for number in np.unique(labels):
            if number >= OUTSIDE:
                drawn[number] = self.R.uniform(0.1, 2.2)
            elif number in WHITE:
                drawn[number] = white
            elif number in (*CORTEX, *CEREBELLUM):
                drawn[number] = grey * self.R.uniform(0.94, 1.05)
            elif number in (*VENTRICLES, *FLUID):
                drawn[number] = fluid * self.R.uniform(0.8, 1.3)
            elif number in OTHERS:
                drawn[number] = white * self.R.uniform(*OTHERS[number])
            elif number:
                drawn[number] = deep * self.R.uniform(0.95, 1.08)
        scan = ndimage.gaussian_filter(drawn[labels], self.R.uniform(0.4, 0.9))
        scan *= 1 + self.R.uniform(0, 0.05) * self._noise(labels.shape, self.R.uniform(1, 3))
        return scan * (1 + self.R.uniform(0, 0.12) * self._noise(labels.shape, 40))

    def _scan(
        self, scan: np.ndarray, brain: np.ndarray, affine: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Thick slices and noise."""
        thick = int(self.R.choice(THICKNESSES))
        count = scan.shape[2] // thick
        scan, brain = (
            v[..., : count * thick].reshape(*v.shape[:2], count, thick).mean(3)
            for v in (scan, brain.astype(np.float32))
        )
        affine = affine @ np.diag([1.0, 1.0, thick, 1.0])
        affine[:3, 3] += affine[:3, 2] / thick * (thick - 1) / 2
        noise = self.R.uniform(0, 0.05) * self.R.standard_normal((2, *scan.shape))
        return 200 * np.hypot(scan + noise[0], noise[1]), brain > 0.5, affine


def _whole(mask: np.ndarray) -> np.ndarray:
    """The largest piece, without holes."""
    pieces, count = ndimage.label(mask)
    return ndimage.binary_fill_holes(pieces == np.bincount(pieces.ravel())[1:].argmax() + 1 if count else mask)
