# SPDX-License-Identifier: Apache-2.0
"""Dark pockets: what is enclosed is found; what is open to a side, and noise, is not."""

import numpy as np
import pytest
import torch

from bundle.methods.dark_pockets import DarkPockets
from bundle.methods.fused import Fused


class Nobody(torch.nn.Module):
    multiple = 1


def drawn(noise=0.0):
    """A band of tissue with a pocket, a layer that is dark all along, and a shadow to its lower end."""
    image = np.zeros((90, 100), np.float32)
    image[:, 20:90] = 0.3
    organ = image > 0
    image[30:40, 40:55] = 0.02
    image[:, 65:70] = 0.1
    image[60:64, 30:90] = 0.05
    image = np.where(organ, image + noise * np.random.RandomState(0).standard_normal(image.shape), 0).clip(0, 1)
    return torch.from_numpy(np.stack([image, organ]).astype(np.float32))[None]


def test_a_pocket_is_found_and_neither_a_layer_nor_a_shadow():
    found = DarkPockets(blur=(0.5, 0.5)).score(drawn(), torch.zeros(1), Nobody())[0, 0].numpy()
    assert found[32:38, 43:52].min() > 0.5
    elsewhere = np.ones(found.shape, bool)
    elsewhere[27:43, 37:58] = False
    assert found[elsewhere].max() < 0.05


@pytest.mark.parametrize("noise", [0.03, 0.06, 0.12])
def test_noise_has_no_pockets(noise):
    """Its hollows are within the margin; without one they are not."""
    slices = drawn(noise)
    slices[0, 0, 30:40, 40:55] = slices[0, 0, 10:20, 40:55]
    slices[0, 0] *= 0.6  # below the ceiling, where noise shows
    far = (slice(5, 55), slice(25, 60))
    quiet = DarkPockets().score(slices, torch.zeros(1), Nobody())[0, 0].numpy()[far]
    loud = DarkPockets(margin=0).score(slices, torch.zeros(1), Nobody())[0, 0].numpy()[far]
    assert (quiet > 0.1).mean() < 0.002
    assert loud.sum() > 5 * quiet.sum() + 1


def test_without_an_organ_there_is_none():
    slices = drawn()
    slices[:, 1] = 0
    assert not DarkPockets().score(slices, torch.zeros(1), Nobody()).any()


@pytest.mark.parametrize("wrong", [{"ceiling": 0}, {"blur": (0, 1)}, {"margin": -1}])
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(ValueError, match="ceiling"):
        DarkPockets(**wrong)


def test_the_highest_counts_where_it_is_above_the_mean(monkeypatch):
    monkeypatch.setattr(Fused, "_read", lambda self, name, entry: None)
    methods = dict.fromkeys(("a", "b", "pockets"), DarkPockets())
    fused = Fused(methods, "none", {"a": 0.5, "b": 0.5}, highest=["pockets"])
    values = {"a": np.array([1.0, 3.0]), "b": np.array([2.0, 4.0]), "pockets": np.array([2.5, 0.0])}
    np.testing.assert_allclose(fused._join(values, None, None), [2.5, 3.5])
    for highest in (["a", "b", "pockets"], ["c"]):
        with pytest.raises(ValueError, match="highest"):
            Fused(methods, "none", highest=highest)
