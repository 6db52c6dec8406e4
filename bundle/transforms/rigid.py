# SPDX-License-Identifier: Apache-2.0
"""Scans of one head brought to lie over each other: a rigid registration by SimpleITK, whatever their contrasts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from ..errors import ScanError

__all__ = ["Volume", "onto", "register_rigid"]

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS+, as in NIfTI, to LPS+, as in ITK, and back
STEPS_MM = (4.0, 2.0)  # voxel sizes that the registration works at, one after the other
MARGIN_MM = 8.0  # around the brain that counts too: its outline
BINS = 32  # of the joint histogram (Mattes' mutual information)
SAMPLED = 0.3  # of the voxels
LEAST_OVERLAP = 0.75  # Dice of the two brains afterwards: less is no registration


@dataclass(frozen=True)
class Volume:
    """A scan, or a map, and its brain.

    Attributes:
        values: (X, Y, Z), float.
        affine: voxel → world (RAS+), 4 x 4, mm.
        brain: bool, same shape.
        name: for messages.
    """

    values: np.ndarray
    affine: np.ndarray
    brain: np.ndarray
    name: str = "scan"


def register_rigid(fixed: Volume, moving: Volume, seed: int = 0) -> np.ndarray:
    """The rigid transform that brings two scans of one head together: mutual information over the brain (Mattes et al.,
    "PET-CT image registration in the chest using free-form deformations", IEEE TMI 2003).

    Args:
        fixed, moving: scans.
        seed: of the voxels that are sampled.

    Returns:
        (4, 4), a place in the world of ``fixed`` → the same place in that of ``moving``, RAS+, mm.

    Raises:
        ScanError: when the brains do not lie over each other afterwards.
    """
    images = [_image(v.values * _near(v), v.affine) for v in (fixed, moving)]
    try:
        transform = _first(images[0], images[1])
        for step in STEPS_MM:
            transform = _refined(_at(images[0], step), _at(images[1], step), transform, step, seed)
    except RuntimeError as error:  # of ITK: nothing to see in one of them, or no voxel in common
        reason = f"does not come to lie over {fixed.name} ({' '.join(str(error).split())[-120:]})"
        raise ScanError(moving.name, reason, "Check that both are of one person, and show the brain") from error
    found = LPS @ _matrix(transform) @ LPS
    moved = onto(moving.brain.astype(np.float32), moving.affine, found, fixed.affine, fixed.values.shape) > 0.5
    # What lies beyond the field of view of the other scan says nothing.
    seen = onto(np.ones(moving.brain.shape, np.float32), moving.affine, found, fixed.affine, fixed.values.shape) > 0.5
    inside = fixed.brain & seen
    overlap = 2 * (moved & inside).sum() / max(int(moved.sum()) + int(inside.sum()), 1)
    if overlap < LEAST_OVERLAP:
        reason = f"does not come to lie over {fixed.name}: their brains overlap by {overlap:.2f} (Dice)"
        raise ScanError(moving.name, reason, "Check that both are of one person, and show the brain")
    return found


def onto(
    values: np.ndarray,
    affine: np.ndarray,
    transform: np.ndarray,
    grid: np.ndarray,
    shape: tuple[int, ...],
    order: int = 1,
) -> np.ndarray:
    """Values of a volume at the places of another grid, 0 beyond its own.

    Args:
        values: (X, Y, Z).
        affine: of their grid, voxel → world, 4 x 4.
        transform: from `register_rigid`: world of the new grid → world of the values.
        grid, shape: affine and shape of the new grid.
        order: 1 for linear, 0 for the nearest voxel.
    """
    to_voxel = np.linalg.inv(affine) @ transform @ grid
    return ndimage.affine_transform(
        values, to_voxel[:3, :3], to_voxel[:3, 3], output_shape=shape, order=order, mode="constant"
    )


def _near(volume: Volume) -> np.ndarray:
    """The brain and a margin around it."""
    spacing = np.linalg.norm(volume.affine[:3, :3], axis=0)
    return ndimage.distance_transform_edt(~volume.brain, sampling=spacing) < MARGIN_MM


def _image(values: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """Of an array; the axes of its grid made square, as ITK wants them."""
    lps = LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(values.T, dtype=np.float32))
    u, _, v = np.linalg.svd(lps[:3, :3] / spacing)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((u @ v).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def _at(image: sitk.Image, step: float) -> sitk.Image:
    """At about the same voxel size along all axes; thick slices are interpolated."""
    size = [max(1, round(n * s / step)) for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)]
    sigma = [max(step / 2, 0.01)] * 3
    return sitk.Resample(
        sitk.DiscreteGaussian(image, [s * s for s in sigma]),
        size,
        sitk.Transform(),
        sitk.sitkLinear,
        image.GetOrigin(),
        [step] * 3,
        image.GetDirection(),
    )


def _first(fixed: sitk.Image, moving: sitk.Image) -> sitk.Euler3DTransform:
    """As the headers have it, or centre upon centre: whichever fits better."""
    coarse = [_at(image, STEPS_MM[0]) for image in (fixed, moving)]
    kinds = (sitk.CenteredTransformInitializerFilter.GEOMETRY, sitk.CenteredTransformInitializerFilter.MOMENTS)
    tried = [
        sitk.Euler3DTransform(sitk.CenteredTransformInitializer(*coarse, sitk.Euler3DTransform(), k)) for k in kinds
    ]
    as_it_is = sitk.Euler3DTransform(tried[1])
    as_it_is.SetTranslation((0.0, 0.0, 0.0))
    return min([as_it_is, *tried], key=lambda one: _metric(coarse[0], 0).evaluate(coarse[0], coarse[1], one))


class _Method(sitk.ImageRegistrationMethod):
    def evaluate(self, fixed: sitk.Image, moving: sitk.Image, transform: sitk.Transform) -> float:
        self.SetInitialTransform(transform)
        return float(self.MetricEvaluate(fixed, moving))


def _metric(fixed: sitk.Image, seed: int) -> _Method:
    method = _Method()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(SAMPLED, seed + 1)  # ITK takes 0 for the clock
    method.SetMetricFixedMask(sitk.Cast(fixed > 0, sitk.sitkUInt8))
    method.SetInterpolator(sitk.sitkLinear)
    method.SetNumberOfThreads(1)  # sums of several threads differ in their last digits
    return method


def _refined(
    fixed: sitk.Image, moving: sitk.Image, transform: sitk.Euler3DTransform, step: float, seed: int
) -> sitk.Euler3DTransform:
    method = _metric(fixed, seed)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=step / 2, minStep=step / 400, numberOfIterations=120, relaxationFactor=0.6
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(transform, inPlace=False)
    return sitk.Euler3DTransform(sitk.CompositeTransform(method.Execute(fixed, moving)).GetBackTransform())


def _matrix(transform: sitk.Euler3DTransform) -> np.ndarray:
    """(4, 4): T(x) = A (x - c) + c + t."""
    matrix, centre = np.eye(4), np.array(transform.GetCenter())
    matrix[:3, :3] = np.array(transform.GetMatrix()).reshape(3, 3)
    matrix[:3, 3] = centre + np.array(transform.GetTranslation()) - matrix[:3, :3] @ centre
    return matrix
