# SPDX-License-Identifier: Apache-2.0
"""What must hold of every method and every transform, whichever it is; applied in tests/test_laws.py."""

import copy

import numpy as np
import torch
from monai.data import MetaTensor


def map_has_the_grid_and_is_nothing_outside(method, network, volumes):
    """Float32 of the shape of one channel, finite, not negative, zero where the volume is."""
    scores = method(volumes, network)
    assert scores.dtype == torch.float32
    assert scores.shape == (len(volumes), 1, *volumes.shape[2:])
    assert torch.isfinite(scores).all() and (scores >= 0).all()
    assert not scores[(volumes <= 0).all(1, keepdim=True)].any()


def batch_equals_a_loop(method, network, volumes):
    """Nothing depends on what else is in the batch; nor on what was asked before."""
    together = method(volumes, network)
    alone = torch.cat([method(volume[None], network) for volume in volumes])
    torch.testing.assert_close(together, alone, atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(method(volumes, network), together, atol=0, rtol=0)


def keeps_places(transform, item, key="image"):
    """What is bright stays where it is in the world, whatever becomes of the voxels; mm of the new ones at most."""
    before, after = item[key], transform(copy.deepcopy(item))[key]
    step = max(float(size) for size in (*before.pixdim, *after.pixdim))
    assert np.linalg.norm(place_of_the_brightest(before) - place_of_the_brightest(after)) < step


def inverse_brings_back(transform, item, key="image"):
    """The shape and the affine that were there before, and the places."""
    before = item[key]
    forward = transform(copy.deepcopy(item))
    again = transform.inverse({key: forward[key]})[key]
    assert again.shape == before.shape
    np.testing.assert_allclose(again.affine, before.affine, atol=1e-4)
    step = max(float(size) for size in (*before.pixdim, *forward[key].pixdim))
    assert np.linalg.norm(place_of_the_brightest(before) - place_of_the_brightest(again)) < step


def same_seed_same_result(transform, item):
    """A draw follows from the seed alone."""
    drawn = [transform.set_random_state(seed=number)(copy.deepcopy(item)) for number in (3, 3, 4)]
    keys = [key for key, value in drawn[0].items() if isinstance(value, (torch.Tensor, np.ndarray))]
    assert all(np.array_equal(np.asarray(drawn[0][key]), np.asarray(drawn[1][key])) for key in keys)


def place_of_the_brightest(scan: MetaTensor) -> np.ndarray:
    """World coordinates of the middle of what is brightest, mm."""
    values = np.asarray(scan[0], dtype=float)
    index = np.argwhere(values >= 0.9 * values.max()).mean(0)
    return np.asarray(scan.affine, dtype=float)[:3] @ [*index, 1]
