# SPDX-License-Identifier: Apache-2.0
"""What every method shares: volumes come in, slices are scored in batches, maps of the same grid go out."""

from __future__ import annotations

import functools
from abc import abstractmethod
from typing import Any, Generic, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers import Inferer
from monai.utils import convert_to_dst_type
from scipy import ndimage

from ..networks.anomaly_network import AnomalyNetwork
from ..networks.protocol import SliceNetwork
from ..networks.weights import in_fast_layout
from ..precision import autocast
from ..threads import ARITHMETIC
from ..transforms.brain_depth import brain_depth
from .guided_filter import sharpen

__all__ = ["SliceMethod", "nonzero", "organ_of", "smooth_across"]

#: The network that a method asks; MONAI's Inferer says "any callable", which says less.
Network = TypeVar("Network", bound=SliceNetwork)


def smooth_across(scores: np.ndarray, sigma: float) -> np.ndarray:
    """Scores (…, Z) smoothed by a Gaussian across their slices; ``sigma`` in slices, 0 leaves them as they are."""
    return ndimage.gaussian_filter1d(scores, sigma, axis=-1, mode="nearest") if sigma else scores


def nonzero(volumes: torch.Tensor, channels: int) -> torch.Tensor:
    """Where a voxel is above zero in any channel; ``channels`` is their dimension, of which 1 is left."""
    # Not amax: over the single channel that scans have it takes ten times as long.
    return functools.reduce(torch.maximum, volumes.split(1, channels)) > 0


def organ_of(inputs: torch.Tensor) -> torch.Tensor:
    """The mask (B, 1, X, Y, Z), 0 or 1, of the organ in volumes (B, C, X, Y, Z): where the preprocessing has noted a
    depth (`bundle.transforms.brain_depth`), or else all that is not zero.
    """
    volumes = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
    depth = brain_depth(inputs)
    organ = volumes.amax(1, keepdim=True) > 0 if depth is None else torch.as_tensor(depth > 0).to(volumes.device)
    return organ.expand(len(volumes), 1, *volumes.shape[2:]).to(volumes.dtype)


class SliceMethod(Inferer, Generic[Network]):
    """A method that scores axial slices. It keeps nothing between calls: one object may serve every request.

    On a CPU the slices go over the threads of `bundle.threads.ARITHMETIC`.

    A subclass gives `score`. Everything else is the same for all methods, so that only the score differs when they
    are compared.

    Args:
        slices_per_pass: slices in one batch; bounds the memory, does not change the map.
        coarsen: so many voxels of the model's grid are averaged, along both axes of a slice, to one that is scored: for
            networks that learned on a coarser grid. The score comes back to the model's grid linearly.
        smoothing: sigma of an in-plane Gaussian over the score, voxels that are scored; 0 for none.
        sharpening: radius of the windows in which the score follows the scan's own edges
            (`bundle.methods.guided_filter.sharpen`), voxels that are scored; 0 for none. After the Gaussian.
        across: sigma of a Gaussian across slices, in slices; 0 for none. Lesions go on from slice to slice, noise does
            not.
        precision: see `bundle.precision.autocast`.
        roi_size: length of the windows, along the first axis of a slice (H), in which it is scored: that of the pieces
            that trained the networks, which may go astray in longer ones. In voxels that are scored, a multiple of
            ``network.multiple``. Windows overlap by half or more and are blended by Gaussian weights. Shorter slices,
            and None: the whole slice at once.

    Attributes:
        remembers_training: whether scores are lower on the scans that trained the network, so that these cannot
            calibrate.
    """

    remembers_training = True

    def __init__(
        self,
        slices_per_pass: int = 4,
        coarsen: int = 1,
        smoothing: float = 0.0,
        sharpening: int = 0,
        across: float = 0.0,
        precision: str = "auto",
        roi_size: int | None = None,
    ) -> None:
        if slices_per_pass < 1:
            raise ValueError(f"slices_per_pass {slices_per_pass} is less than 1")
        if sharpening < 0 or sharpening != int(sharpening):
            raise ValueError(f"sharpening {sharpening} is no number of voxels")
        if roi_size is not None and (roi_size < 2 or roi_size != int(roi_size)):
            raise ValueError(f"roi_size {roi_size} is no number of voxels, 2 or more")
        if coarsen < 1 or coarsen != int(coarsen):
            raise ValueError(f"coarsen {coarsen} is no number of voxels")
        self.slices_per_pass, self.coarsen, self.precision = slices_per_pass, coarsen, precision
        self.smoothing, self.sharpening, self.across, self.roi_size = smoothing, sharpening, across, roi_size

    @abstractmethod
    def score(self, slices: torch.Tensor, numbers: torch.Tensor, network: Network) -> torch.Tensor:
        """Score a batch of slices.

        Args:
            slices: (N, C, H, W), coarsened, intensities in [0, 1]; H and W multiples of ``network.multiple``.
            numbers: (N,) number of each slice in its volume: where randomness comes from, never the place in a batch.
            network: in evaluation mode.

        Returns:
            (N, 1, H, W), not negative, the higher the more anomalous, comparable across scans.
        """

    def _score_in_windows(self, slices: torch.Tensor, numbers: torch.Tensor, network: Network) -> torch.Tensor:
        """`score` of slices (N, C, H, W), in windows if they are longer than these."""
        length, (height, width) = self.roi_size or 0, slices.shape[2:]
        if length % network.multiple:
            raise ValueError(f"roi_size {length} is no multiple of {network.multiple}, as the network wants it")
        if not length or height <= length:
            return self.score(slices, numbers, network).float()
        # Along H alone: over both axes MONAI bounds the product from below, and rows at the border get seams.
        weight = compute_importance_map((length, 1), mode="gaussian", sigma_scale=0.125, device=slices.device)
        scores = torch.zeros(len(slices), 1, height, width, device=slices.device)
        weights = torch.zeros(height, 1, device=slices.device)
        for rows, _ in dense_patch_slices((height, width), (length, width), (length // 2, width)):
            scores[:, :, rows] += weight * self.score(slices[:, :, rows], numbers, network).float()
            weights[rows] += weight
        return scores / weights

    @staticmethod
    def encode(slices: torch.Tensor, network: AnomalyNetwork) -> torch.Tensor:
        """Bits of slices, always in float32: rounding to bfloat16 would tip bits over, and the map with them."""
        with torch.autocast(slices.device.type, enabled=False):
            return network.encode(slices.float())

    def finish(self, scores: torch.Tensor, slices: torch.Tensor) -> torch.Tensor:
        """Scores (N, 1, H, W) of slices (N, C, H, W), smoothed and sharpened in plane as the settings say."""
        if self.smoothing:
            sigma = (0, 0, *[self.smoothing * self.coarsen] * 2)
            scores = torch.from_numpy(ndimage.gaussian_filter(scores.cpu().numpy(), sigma)).to(scores.device)
        return sharpen(scores, slices, self.sharpening * self.coarsen) if self.sharpening else scores

    def __call__(self, inputs: torch.Tensor, network: Network, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Map volumes.

        Args:
            inputs: (B, C, X, Y, Z) on the model's grid, from the preprocessing.
            network: the network of ``models/model.pt``.

        Returns:
            float32 (B, 1, X, Y, Z), zero where the volume is.

        Raises:
            ValueError: on another shape.
        """
        if inputs.ndim != 5:
            raise ValueError(f"shape {tuple(inputs.shape)}, not (B, C, X, Y, Z): batch, channels, volume")
        in_fast_layout(network)  # MONAI Label loads weights by itself
        volumes = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        maps = torch.stack([self._map(volume.float(), network) for volume in volumes])
        # With the meta data of the input, so that MONAI can invert the preprocessing on the map.
        return convert_to_dst_type(maps, inputs)[0] if isinstance(inputs, MetaTensor) else maps

    @torch.no_grad()
    def _map(self, volume: torch.Tensor, network: Network) -> torch.Tensor:
        slices = volume.movedim(-1, 0)
        multiple = network.multiple * self.coarsen
        extra = [-size % multiple for size in slices.shape[2:]]
        if self.roi_size and slices.shape[2] > self.roi_size * self.coarsen:  # windows fit into any length
            extra[0] = -slices.shape[2] % self.coarsen
        padded = F.pad(slices, (0, extra[1], 0, extra[0]))
        batches = list(
            zip(padded.split(self.slices_per_pass), torch.arange(len(slices)).split(self.slices_per_pass), strict=True)
        )

        def scored(batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
            # Autocast and gradients are settings of a thread.
            with torch.no_grad(), autocast(volume.device, self.precision):
                part = F.avg_pool2d(batch[0], self.coarsen) if self.coarsen > 1 else batch[0]
                part = part.contiguous(memory_format=torch.channels_last)
                score = self._score_in_windows(part, batch[1], network)
            if self.coarsen > 1:
                score = F.interpolate(score, scale_factor=float(self.coarsen), mode="bilinear", align_corners=False)
            height, width = slices.shape[2:]
            return self.finish(score[..., :height, :width], batch[0][..., :height, :width])

        parts = ARITHMETIC.map(scored, batches) if volume.device.type == "cpu" else [scored(one) for one in batches]
        scores = smooth_across(torch.cat(parts).movedim(0, -1).cpu().numpy(), self.across)
        # What the preprocessing has put to zero (air, fill) is nothing to score.
        there = nonzero(volume, 0).cpu().numpy()
        return torch.from_numpy(np.where(there, scores, 0).astype(np.float32, copy=False)).to(volume.device)
