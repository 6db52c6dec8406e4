# SPDX-License-Identifier: Apache-2.0
"""Synthetic anomalies: reproducible, local, nothing at severity 0."""

import pytest
import torch

from bundle.synthesis.anomalies import SHAPES, TEXTURES, RandSyntheticAnomaly, RandSyntheticAnomalyd
from bundle.synthesis.scanner import RandScannerd


@pytest.fixture(scope="module")
def slices(head):
    image = torch.from_numpy(head[0].astype("float32"))[None, ..., 5] / 200
    return image.clamp(0, 1), image.flip(2).clamp(0, 1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("texture", TEXTURES)
def test_every_shape_and_texture(slices, shape, texture):
    anomaly = RandSyntheticAnomaly(shapes=[shape], textures=[texture], severity=(0.8, 1.0), radius=(6, 12))
    anomaly.set_random_state(1)
    changed = 0
    for _ in range(10):
        twin, mask = anomaly(*slices)
        assert twin.shape == slices[0].shape
        assert mask.shape == (1, *twin.shape[1:])
        assert 0 <= twin.min() <= twin.max() <= 1
        assert torch.equal(twin[:, :4], slices[0][:, :4]), "air stays air"
        difference = (twin - slices[0]).abs().amax(0, keepdim=True)
        assert torch.equal(mask > 0, difference > 0.02)
        changed += bool(mask.any())
    assert changed >= 5


def test_no_severity_no_change(slices):
    anomaly = RandSyntheticAnomaly(severity=(0.0, 0.0))
    anomaly.set_random_state(0)
    twin, mask = anomaly(*slices)
    torch.testing.assert_close(twin, slices[0], atol=1e-6, rtol=0)
    assert not mask.any()


def test_never_means_never(slices):
    twin, mask = RandSyntheticAnomaly(prob=0.0)(*slices)
    assert torch.equal(twin, slices[0])
    assert not mask.any()


def test_same_seed_same_anomaly(slices):
    item = {"image": slices[0], "donor": slices[1]}
    draws = [RandSyntheticAnomalyd("image").set_random_state(seed)(item) for seed in (4, 4, 5)]
    assert torch.equal(draws[0]["anomalous"], draws[1]["anomalous"])
    assert not torch.equal(draws[0]["anomalous"], draws[2]["anomalous"])
    assert torch.equal(draws[0]["image"], slices[0]), "the healthy slice stays"
    assert "donor" not in draws[0]


def test_small_ones_are_small(slices):
    anomaly = RandSyntheticAnomaly(radius=(1.5, 2.0), shapes=["blob"], max_count=1, scattered=0)
    anomaly.set_random_state(0)
    sizes = [float(anomaly(*slices)[1].sum()) for _ in range(20)]
    assert 0 < max(sizes) < 80


def test_an_empty_slice_has_room_for_none():
    twin, mask = RandSyntheticAnomaly()(torch.zeros(1, 64, 64))
    assert not twin.any()
    assert not mask.any()


def test_wrong_names_are_told():
    with pytest.raises(ValueError, match="unknown cube: choose from blob"):
        RandSyntheticAnomaly(shapes=["cube"])


def test_scanner_augmentation(slices):
    item = {"image": slices[0]}
    torch.testing.assert_close(RandScannerd("image", strength=0)(item)["image"], slices[0])
    one, two, three = (RandScannerd("image").set_random_state(seed)(item)["image"] for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)
    assert 0 <= one.min() <= one.max() <= 1
