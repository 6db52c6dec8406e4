# SPDX-License-Identifier: Apache-2.0
"""A fusion for contrasts on which lesions lie between two healthy intensities, as on T2w."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils import convert_to_dst_type

from ..transforms.brain_depth import brain_depth
from .base import nonzero
from .fused import GatedFusion

__all__ = ["WindowedFusion"]


class WindowedFusion(GatedFusion):
    """A gated fusion that counts less outside a window of intensity.

    On T2w lesions are brighter than grey matter, and darker than fluid. Old brains have more fluid, and in other
    places, than the healthy scans that train networks, so that networks mark it; the window says that it is fluid
    (docs/decisions/0009-t2w-again.md).

    Args:
        args, kwargs: of `GatedFusion`.
        rise: where the window begins and is full, multiples of the median of the brain.
        fall: where it begins to fall and ends, shares of the intensity of fluid.
        outside: share of a value that is left outside the window, between 0 and 1.
        fluid_percentile: of the brain, taken as fluid: ventricles and sulci are more than 1 % of it.
        fluid_least: the least that counts as fluid, multiples of the median: slices without any, or a brain without its
            fluid, must not close the window.

    Raises:
        ValueError: on bounds that do not rise, or a share that is not between 0 and 1.
    """

    def __init__(
        self,
        *args: Any,
        rise: tuple[float, float],
        fall: tuple[float, float],
        outside: float,
        fluid_percentile: float = 99.0,
        fluid_least: float = 2.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        for name, bounds in (("rise", rise), ("fall", fall)):
            if len(bounds) != 2 or not 0 < bounds[0] < bounds[1]:
                raise ValueError(f"{name} {list(bounds)} is not two rising bounds above 0")
        if not 0 <= outside <= 1:
            raise ValueError(f"outside {outside} is no share between 0 and 1")
        self.rise, self.fall, self.outside = rise, fall, outside
        self.fluid_percentile, self.fluid_least = fluid_percentile, fluid_least

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Map volumes, see `Fused`. The brain is where the preprocessing has noted a depth, or else all above zero."""
        volumes = (inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs).float()
        inside = nonzero(volumes, 1).cpu().numpy()
        depth = brain_depth(inputs)
        brain = inside if depth is None else inside & (depth > 0)
        brightest = volumes.amax(1, keepdim=True).cpu().numpy()
        window = np.stack([self.window(*one) for one in zip(brightest, brain, strict=True)])
        maps = super().__call__(inputs, network)
        share = torch.from_numpy(self.outside + (1 - self.outside) * window).to(maps.device)
        weighted = (maps.as_tensor() if isinstance(maps, MetaTensor) else maps) * share
        return convert_to_dst_type(weighted, maps)[0] if isinstance(maps, MetaTensor) else weighted

    def window(self, volume: np.ndarray, brain: np.ndarray) -> np.ndarray:
        """How far each voxel lies in the window; a trapezium.

        Args:
            volume: intensities, any shape.
            brain: bool, same shape.

        Returns:
            float32 between 0 and 1, same shape; 1 everywhere where there is no brain.
        """
        if not brain.any():
            return np.ones(volume.shape, np.float32)
        median = max(float(np.median(volume[brain])), 1e-6)
        fluid = max(float(np.percentile(volume[brain], self.fluid_percentile)), self.fluid_least * median)
        from_below = (volume / median - self.rise[0]) / (self.rise[1] - self.rise[0])
        from_above = (self.fall[1] - volume / fluid) / (self.fall[1] - self.fall[0])
        return np.clip(np.minimum(from_below, from_above), 0, 1).astype(np.float32)
