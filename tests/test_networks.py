# SPDX-License-Identifier: Apache-2.0
"""Autoencoder, denoiser and the one module that holds them."""

import copy

import pytest
import torch

from bundle.cli import main
from bundle.errors import WeightsError
from bundle.networks.anomaly_network import AnomalyNetwork, with_part
from bundle.networks.binary_autoencoder import BinaryAutoencoder, straight_through_bernoulli
from bundle.networks.weights import load_weights


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("attention", [False, True])
def test_autoencoder_shapes(spatial_dims, channels, attention):
    model = BinaryAutoencoder(spatial_dims, channels, 6, (8, 8, 16), norm_num_groups=4, attention=attention).eval()
    image = torch.rand(2, channels, *(16,) * spatial_dims)
    code = model.encode(image)
    assert code.shape == (2, 6, *(4,) * spatial_dims)
    assert set(code.unique().tolist()) <= {0.0, 1.0}
    assert model(image).shape == image.shape
    assert torch.equal(model(image), model(image)), "one image, one code"


def test_training_draws_bits():
    model = BinaryAutoencoder(code_channels=6, channels=(8, 8), norm_num_groups=4).train()
    image = torch.rand(1, 1, 16, 16)
    assert not torch.equal(model(image), model(image))


def test_straight_through():
    probability = torch.full((20_000,), 0.3, requires_grad=True)
    bits = straight_through_bernoulli(probability, torch.Generator().manual_seed(0))
    assert set(bits.detach().round(decimals=5).unique().tolist()) == {0.0, 1.0}
    assert float(bits.detach().mean()) == pytest.approx(0.3, abs=0.02)
    (bits * torch.arange(20_000)).sum().backward()
    assert torch.equal(probability.grad, torch.arange(20_000).float())


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_one_module_one_state_dict(spatial_dims):
    model = AnomalyNetwork(
        spatial_dims, 2, 6, {"channels": (8, 8), "norm_num_groups": 4}, (16, 16), (False, True), 1, 8, 8
    ).eval()
    size = model.multiple
    image = torch.rand(1, 2, *(size,) * spatial_dims)
    assert model(image).shape == image.shape
    parts = {name.split(".")[0] for name in model.state_dict()}
    assert parts == {"autoencoder", "denoiser"}
    probability = model.flip_probability(model.encode(image), 5)
    assert 0 <= probability.min() <= probability.max() <= 1


def test_time_tells_the_denoiser_something(network):
    code = network.encode(torch.rand(1, 1, 32, 32))
    assert not torch.equal(network.flip_probability(code, 0), network.flip_probability(code, 500))


def test_weights_load_strictly(tmp_path, network):
    path = tmp_path / "model.pt"
    torch.save(network.state_dict(), path)
    assert load_weights(network, path) is network
    with pytest.raises(WeightsError, match="not the weights of this network"):
        load_weights(BinaryAutoencoder(), path)
    alone = copy.deepcopy(network.autoencoder)
    for parameter in alone.parameters():
        torch.nn.init.zeros_(parameter)
    assert load_weights(alone, path, part="autoencoder") is alone
    for ours, theirs in zip(alone.parameters(), network.autoencoder.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(WeightsError, match="no such file"):
        load_weights(network, tmp_path / "absent.pt")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=r"model\.pt"):
        load_weights(network, path)


def test_with_part_leaves_the_original_alone(network):
    other = torch.nn.Identity()
    twin = with_part(network, "denoiser", other)
    assert twin.denoiser is other
    assert network.denoiser is not other
    assert twin.autoencoder is network.autoencoder


def test_a_part_is_joined_alone_or_out_of_a_whole_network(tmp_path, network):
    state = network.state_dict()
    other = {key: value + 1 if value.is_floating_point() else value for key, value in state.items()}
    torch.save(state, tmp_path / "base.pt")
    torch.save(other, tmp_path / "whole.pt")
    torch.save({key[9:]: one for key, one in other.items() if key.startswith("denoiser.")}, tmp_path / "alone.pt")
    for name in ("whole", "alone"):
        target = tmp_path / f"joined_{name}.pt"
        assert main(["join-weights", str(target), str(tmp_path / "base.pt"), f"denoiser={tmp_path / name}.pt"]) == 0
        joined = torch.load(target, weights_only=True)
        assert joined.keys() == state.keys()
        for key, value in joined.items():
            assert torch.equal(value, (other if key.startswith("denoiser.") else state)[key])
