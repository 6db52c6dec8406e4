# SPDX-License-Identifier: Apache-2.0
"""Dark pockets: what is darker than all that encloses it, as fluid within a retina is.

By morphology, without a network: holes of the grey values are filled (Soille, Morphological Image Analysis, 2003,
section 6.3.7: every voxel gets the lowest level over which a path leads out of the organ), and a voxel scores by how
far it was filled. Layers that are dark all along the B-scan, and shadows of vessels, are open to a side, so they are
not filled.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from monai.data import MetaTensor
from monai.utils import convert_to_dst_type
from scipy import ndimage

from .base import Network, SliceMethod, organ_of

__all__ = ["DarkPockets"]


class DarkPockets(SliceMethod[Network]):
    """One pass as a MONAI inferer; the network is not asked.

    Args:
        blur: sigma of a Gaussian before it, along both axes of a slice, voxels that are scored: a dot of speckle is no
            pocket, and does not open one.
        ceiling: intensity above which all is alike, so that what encloses a pocket need not be bright.
        margin: what a pocket must be deeper by to count, standard deviations of the speckle that the blur has left:
            noise alone has hollows, too.
        kwargs: of `SliceMethod`.

    Raises:
        ValueError: on a ceiling or widths that are not above 0, or a margin below 0.
    """

    remembers_training = False

    def __init__(
        self, blur: tuple[float, float] = (1.5, 3.0), ceiling: float = 0.2, margin: float = 2.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if ceiling <= 0 or min(blur) <= 0 or margin < 0:
            raise ValueError(f"ceiling {ceiling} and blur {list(blur)} are above 0, margin {margin} not below")
        self.blur, self.ceiling, self.margin = (float(blur[0]), float(blur[1])), float(ceiling), float(margin)

    def __call__(self, inputs: torch.Tensor, network: Network, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Map volumes, see `SliceMethod`; the organ is that of `organ_of`."""
        volumes = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        maps = super().__call__(torch.cat([volumes, organ_of(inputs)], dim=1), network)
        return convert_to_dst_type(maps, inputs)[0] if isinstance(inputs, MetaTensor) else maps

    def score(self, slices: torch.Tensor, numbers: torch.Tensor, network: Network) -> torch.Tensor:
        """Of slices with their organ as the last channel (N, C + 1, H, W): by how much it is filled, in parts of the
        ceiling.
        """
        images, organs = slices[:, :-1].amax(1).float().cpu().numpy(), slices[:, -1].cpu().numpy() > 0
        filled = np.stack([self._filled(*one) for one in zip(images, organs, strict=True)])
        return torch.from_numpy(filled)[:, None].to(slices.device)

    def _filled(self, image: np.ndarray, organ: np.ndarray) -> np.ndarray:
        if not organ.any():
            return np.zeros(image.shape, np.float32)
        smooth = ndimage.gaussian_filter(image, self.blur)
        apart = np.abs(smooth - ndimage.gaussian_filter(image, [2 * sigma for sigma in self.blur]))
        speckle = 1.4826 * float(np.median(apart[organ]))
        level = np.where(organ, np.minimum(smooth, self.ceiling), 0).astype(np.float32)
        full = sitk.GetArrayFromImage(sitk.GrayscaleFillhole(sitk.GetImageFromArray(level)))
        deeper = np.maximum(full - level - self.margin * speckle, 0)
        return np.where(organ, deeper / self.ceiling, 0).astype(np.float32)
