# SPDX-License-Identifier: Apache-2.0
"""DISYRE, MDPS and the fusion: identities at the ends, reproducible, the observation pulls, the mask holds."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.networks.schedulers import DDIMScheduler
from scipy import ndimage
from torch import nn

from bundle.errors import WeightsError
from bundle.methods.denoising import Denoising, RandCoarseNoised
from bundle.methods.disyre import Disyre
from bundle.methods.fused import Fused, GatedFusion, part_entry
from bundle.methods.intensity import Intensity
from bundle.methods.likelihood import BitLikelihood
from bundle.methods.masked_bernoulli import SliceNoise
from bundle.methods.mdps import Mdps, feature_distance, guided_noise, posterior_sample
from bundle.methods.structured_flips import StructuredFlips
from bundle.methods.windowed import WindowedFusion
from bundle.networks.fused_network import FusedNetwork, load_parts
from bundle.networks.slice_unet import SliceUNet
from bundle.scoring.calibration import Calibration, write_calibration
from bundle.transforms.brain_depth import DEPTH
from bundle.transforms.mri import ScaleHeadIntensityd
from bundle.transforms.surroundings import mean_around

SMALL = {"channels": (8, 16), "attention": (False, True), "num_head_channels": 8}


class Darkens(nn.Module):
    """P(x, t) = x · (1 − t/200): a restoration that is known."""

    multiple = 4

    def forward(self, x, timesteps):
        return x * (1 - timesteps.view(-1, 1, 1, 1) / 200)


@pytest.fixture
def parts(network):
    torch.manual_seed(1)
    prior = SliceUNet(residual=False, **SMALL)
    for parameter in prior.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.2)
    return FusedNetwork({"flips": network, "prior": prior}).eval()


@pytest.fixture
def slices():
    image = torch.rand(3, 1, 40, 48, generator=torch.Generator().manual_seed(0))
    return image * (torch.arange(48) > 8)


def test_an_untrained_restoration_changes_nothing(slices):
    restored = SliceUNet(**SMALL)(slices, torch.tensor([1, 50, 100]))
    torch.testing.assert_close(restored, slices)
    assert SliceUNet(**SMALL).multiple == 4


def test_disyre_by_hand(slices):
    ensembled = Disyre(severities=(20, 60)).score(slices, torch.arange(3), Darkens())
    torch.testing.assert_close(ensembled, slices * (0.1 + 0.3) / 2)
    # Steps 100 → 50 → 0: half of the way to x/2, then all of the way to 3/4 of that.
    stepwise = Disyre(severities=(50, 100), stepwise=True).restore_stepwise(slices, Darkens())
    torch.testing.assert_close(stepwise, slices * 0.75 * 0.75)


def test_the_denoising_autoencoder_by_hand(slices):
    torch.testing.assert_close(Denoising().score(slices, torch.arange(3), Darkens()), slices / 200)


def test_coarse_noise_is_coarse_and_stays_in_the_head():
    image = torch.full((1, 128, 128), 0.5)
    image[:, :20] = 0
    noisy = RandCoarseNoised("image", std=0.2)
    twins = torch.stack([noisy.set_random_state(n)({"image": image})["anomalous"] - image for n in range(40)])
    assert not twins[:, :, :20].any()
    inside = twins[:, :, 20:]
    assert inside.std() == pytest.approx(0.2 * 2 / 3, rel=0.15), "linear between the places of the coarse grid"
    neighbours = (inside[..., 1:] * inside[..., :-1]).mean() / (inside**2).mean()
    assert neighbours > 0.95, "eight pixels a place"
    out = noisy({"image": image, "donor": image})
    assert set(out) == {"image", "anomalous", "severity"}
    assert torch.equal(RandCoarseNoised("image", std=0)({"image": image})["anomalous"], image), "no noise, no change"


@pytest.mark.parametrize("severities", [(), (0,), (50, 101)])
def test_severities_out_of_range(severities):
    with pytest.raises(ValueError, match="from 1 to 100"):
        Disyre(severities=severities)


def test_guidance_reduces_the_distance_to_the_observation(slices, parts):
    """The data term falls with the weight, and each image has its own gradient."""
    scheduler = DDIMScheduler(num_train_timesteps=1000)
    bar = float(scheduler.alphas_cumprod[200])
    observed, ones = 2 * slices - 1, torch.ones_like(slices)
    sample = bar**0.5 * observed + (1 - bar) ** 0.5 * torch.randn(
        slices.shape, generator=torch.Generator().manual_seed(2)
    )

    def epsilon(x):
        return parts.parts["prior"](x, torch.full((len(x),), 200))

    def data_term(noise):
        return ((sample - (1 - bar) ** 0.5 * noise) / bar**0.5 - observed).flatten(1).norm(dim=1)

    terms = [data_term(guided_noise(sample, observed, ones, bar, epsilon, w)) for w in (0.0, 0.5, 2.0)]
    assert (terms[1] < terms[0]).all()
    assert (terms[2] < terms[1]).all()
    together = guided_noise(sample, observed, ones, bar, epsilon, 1.0)
    alone = guided_noise(sample[:1], observed[:1], ones[:1], bar, epsilon, 1.0)
    torch.testing.assert_close(together[:1], alone, rtol=1e-3, atol=1e-4)


def test_what_is_healthy_stays_as_observed(slices, parts):
    observed = 2 * slices - 1
    healthy = torch.ones_like(slices)
    healthy[..., 10:20, 20:30] = 0
    scheduler, noise = DDIMScheduler(num_train_timesteps=1000), SliceNoise(0, torch.arange(3), torch.randn)

    def epsilon(x, t):
        return parts.parts["prior"](x, torch.full((len(x),), t))

    restored = posterior_sample(observed, healthy, scheduler, [60, 40, 20], epsilon, 0.5, noise, keep=True)
    assert torch.equal(restored[healthy > 0], observed[healthy > 0])
    assert not torch.allclose(restored[healthy == 0], observed[healthy == 0])


def test_feature_distance(slices, network):
    autoencoder = network.autoencoder
    same = feature_distance(autoencoder, slices, slices)
    torch.testing.assert_close(same, torch.zeros_like(same), atol=1e-5, rtol=0)
    changed = slices.clone()
    changed[:, :, 10:20, 20:30] = 1
    distance = feature_distance(autoencoder, slices, changed)
    assert distance.shape == slices.shape
    assert distance[..., 10:20, 20:30].mean() > 2 * distance[..., 30:, 40:].mean()


@pytest.mark.parametrize(
    "method",
    [Mdps(noise_level=40, stride=20, precision="float32"), BitLikelihood((50,), precision="float32")],
    ids=["mdps", "likelihood"],
)
def test_maps_repeat_and_do_not_hang_on_the_batch(method, slices, parts):
    network = parts if isinstance(method, Mdps) else parts.parts["flips"]
    volume = slices.movedim(0, -1)[None]
    first = method(volume, network)
    assert first.shape == volume.shape
    assert torch.isfinite(first).all()
    assert first.max() > 0
    assert torch.equal(first, method(volume, network))
    method.slices_per_pass = 1
    torch.testing.assert_close(first, method(volume, network), rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("wrong", [{"noise_level": 0}, {"noise_level": 1000}, {"stride": 0}, {"samples": 0}])
def test_mdps_refuses(wrong):
    with pytest.raises(ValueError, match="noise_level"):
        Mdps(**wrong)


@pytest.fixture
def fusion(tmp_path, slices, parts):
    """Two methods, their raw scores of a volume, the calibration file of both, and the volume."""
    path, volume = tmp_path / "calibration.json", slices.movedim(0, -1)[None]
    methods = {"flips": StructuredFlips("flips", precision="float32"), "intensity": Intensity(smoothing=1.0)}
    raw = {name: method(volume, parts.parts["flips"]).numpy() for name, method in methods.items()}
    for name in methods:
        write_calibration(path, part_entry(name), Calibration.fit([raw[name]]))
    return methods, raw, path, volume


def test_fusion_is_a_mean_of_calibrated_maps(fusion, parts, tmp_path):
    methods, raw, path, volume = fusion
    method = Fused(methods, path, {"flips": 3, "intensity": 1}, dict.fromkeys(methods, "flips"))
    values = [Calibration.fit([raw[name]])(raw[name], capped=False) for name in methods]
    expected = 0.75 * values[0] + 0.25 * values[1]
    np.testing.assert_allclose(method(volume, parts).numpy(), expected, atol=1e-3)
    alone = Fused(methods, path, {"flips": 3, "intensity": 1})
    np.testing.assert_allclose(alone(volume, parts.parts["flips"]).numpy(), expected, atol=1e-3)
    smooth = Fused(methods, path, {"flips": 3, "intensity": 1}, across=0.5)(volume, parts.parts["flips"]).numpy()
    assert 0 < np.abs(smooth - expected).max() < expected.max()
    assert (smooth[volume.numpy() == 0] == 0).all()
    (tmp_path / "w.pt").write_bytes(b"other weights")
    with pytest.raises(WeightsError, match="is not for"):
        Fused(methods, path, weights=[tmp_path / "w.pt"])
    Fused(methods, path, weights=[tmp_path / "w.pt"], checked=False)
    with pytest.raises(WeightsError, match="is for other settings"):
        Fused(methods, path, preprocessing=[ScaleHeadIntensityd("image")])


def test_a_gated_part_counts_as_far_as_the_others_stand_out_around(fusion, parts):
    methods, raw, path, volume = fusion
    network, shares = parts.parts["flips"], {"flips": 3, "intensity": 1}
    values = [Calibration.fit([raw[name]])(raw[name], capped=False) for name in methods]
    gate = {"gated": "flips", "gate": "intensity", "around": 2.0, "own": 0.25}
    gated = GatedFusion(methods, path, shares, **gate)(volume, network).numpy()
    inside = volume.numpy() > 0
    around = mean_around(values[1][0, 0], inside[0, 0], [2.0] * 2, [GatedFusion.COARSE] * 2)
    expected = 0.75 * values[0] ** 0.25 * around**0.75 + 0.25 * values[1]
    np.testing.assert_allclose(gated[inside], expected[inside], atol=1e-3)
    flat = volume.clone()
    flat[..., : volume.shape[-2] // 2, :] *= 0.02  # dark: the intensity finds nothing there, nor around
    plain, gated = (
        method(flat, network).numpy()
        for method in (Fused(methods, path, shares), GatedFusion(methods, path, shares, **gate))
    )
    deep = (slice(None), slice(None), slice(None), slice(0, volume.shape[-2] // 2 - 10))
    assert gated[deep].mean() < 0.5 * plain[deep].mean()


@pytest.mark.parametrize("wrong", [{"gated": "other"}, {"gate": "other"}, {"around": 0.0}, {"own": 0.0}, {"own": 1.0}])
def test_a_gate_that_cannot_be(fusion, wrong):
    methods, _, path, _ = fusion
    with pytest.raises(ValueError, match=r"'other' is none|is no width"):
        GatedFusion(methods, path, **{"gated": "flips", "gate": "intensity", "around": 2.0, "own": 0.5, **wrong})


GATE = {"gated": "flips", "gate": "intensity", "around": 2.0, "own": 0.5}
WINDOW = {"rise": (1.1, 1.3), "fall": (0.8, 1.0), "outside": 0.25, "fluid_least": 0.0}


def test_a_windowed_fusion_counts_less_outside_its_window(fusion, parts):
    """Two volumes at once, each with bright voxels outside of the brain, which say nothing about its fluid."""
    methods, _, path, volume = fusion
    network = parts.parts["flips"]
    volumes = torch.cat([volume, 0.5 * volume])
    depth = (volume[0, 0] > 0).numpy().astype(np.float16)
    depth[: depth.shape[0] // 3] = 0
    volumes[:, :, : depth.shape[0] // 3] *= 3
    scans = MetaTensor(volumes, meta={DEPTH: torch.from_numpy(depth)})
    plain, found = (
        method(scans, network)
        for method in (GatedFusion(methods, path, **GATE), WindowedFusion(methods, path, **GATE, **WINDOW))
    )
    assert isinstance(found, MetaTensor) and found.shape == volumes.shape
    for values, before, after in zip(volumes[:, 0].numpy(), plain[:, 0].numpy(), found[:, 0].numpy(), strict=True):
        brain = (values > 0) & (depth > 0)
        median, fluid = np.median(values[brain]), np.percentile(values[brain], 99)
        outside = (values > 0) & ((values < 1.1 * median) | (values > fluid))
        within = (values > 1.3 * median) & (values < 0.8 * fluid)
        assert outside.any() and within.any()
        np.testing.assert_allclose(after[outside], 0.25 * before[outside], rtol=1e-5)
        np.testing.assert_allclose(after[within], before[within], rtol=1e-5)
    empty = WindowedFusion(methods, path, **GATE, **WINDOW)(torch.zeros_like(volume), network)
    assert not empty.any()


def test_the_window_is_a_trapezium_of_what_the_brain_says(fusion):
    methods, _, path, _ = fusion
    brain = np.ones((10, 10, 10), bool)
    brain[0] = False
    volume = np.ones(brain.shape)
    volume[1, :2] = 4.0  # 20 of 900 voxels are fluid
    volume[0, 0, :7] = [1.0, 1.5, 2.0, 2.5, 3.2, 3.6, 4.0]
    bounds = {**WINDOW, "rise": (1.0, 2.0)}
    window = WindowedFusion(methods, path, **GATE, **bounds).window
    np.testing.assert_allclose(window(volume, brain)[0, 0, :7], [0, 0.5, 1, 1, 1, 0.5, 0], atol=1e-6)
    assert (window(volume, np.zeros_like(brain)) == 1).all()
    volume[1] = 1.0  # no fluid in the field of view: grey matter must not stand for it
    guarded = WindowedFusion(methods, path, **GATE, **{**bounds, "fluid_least": 4.0}).window
    assert window(volume, brain)[0, 0, 2] == 0
    np.testing.assert_allclose(guarded(volume, brain)[0, 0, :7], [0, 0.5, 1, 1, 1, 0.5, 0], atol=1e-6)


@pytest.mark.parametrize(
    "wrong", [{"rise": (1.5, 1.3)}, {"fall": (1.0, 1.0)}, {"rise": (0.0, 1.0)}, {"rise": (1.0,)}, {"outside": 1.5}]
)
def test_a_window_that_cannot_be(fusion, wrong):
    methods, _, path, _ = fusion
    with pytest.raises(ValueError, match=r"rising bounds|no share"):
        WindowedFusion(methods, path, **GATE, **{**WINDOW, **wrong})


def test_mean_around_is_of_what_is_inside_alone():
    inside = np.zeros((45, 37, 2), bool)
    inside[5:40, 5:30] = True
    volume = np.where(inside, 3.0, 100.0)
    around = mean_around(volume, inside, [8.0, 8.0], [4, 4])
    assert around.shape == volume.shape
    np.testing.assert_allclose(around[inside], 3, rtol=1e-4)
    rng = np.random.RandomState(0)
    volume[inside] = rng.rand(inside.sum())
    both = np.stack([np.where(inside, volume, 0), inside])
    exact, weight = ndimage.gaussian_filter(both, [0, 8, 8, 0], mode="constant")
    found = mean_around(volume, inside, [8.0, 8.0], [4, 4])
    np.testing.assert_allclose(found[inside], (exact / np.maximum(weight, 1e-6))[inside], atol=0.03)
    assert not mean_around(volume, np.zeros_like(inside), [8.0, 8.0], [4, 4]).any()


def test_another_entry_stands_for_patients_that_were_seen(fusion, parts):
    methods, raw, path, volume = fusion
    write_calibration(path, "flips_seen", Calibration.fit([2 * raw["flips"]]))
    method = Fused(methods, path)
    seen = method.with_entries({"flips": "flips_seen"})
    known, network = method(volume, parts.parts["flips"]).numpy(), parts.parts["flips"]
    expected = (
        Calibration.fit([2 * raw["flips"]])(raw["flips"], capped=False)
        + method.calibrations["intensity"](raw["intensity"], capped=False)
    ) / 2
    np.testing.assert_allclose(seen(volume, network).numpy(), expected, atol=1e-3)
    np.testing.assert_array_equal(method(volume, network).numpy(), known)


@pytest.mark.parametrize("collated", [False, True], ids=["as read", "collated"])
def test_fusion_asks_how_rare_a_score_is_at_its_depth(fusion, parts, collated):
    methods, raw, path, volume = fusion
    rng, depth = np.random.RandomState(0), torch.zeros(volume.shape[2:])
    depth[:, 16:] = 25.0
    healthy, depths = rng.rand(40_000), rng.choice([1.0, 25.0], 40_000)
    write_calibration(path, part_entry("intensity"), Calibration.fit([healthy * depths], depths=[depths]))
    method, network = Fused({"intensity": methods["intensity"]}, path), parts.parts["flips"]
    plain = method(volume, network).numpy()
    meta = {DEPTH: depth[None] if collated else depth}
    known = method(MetaTensor(volume, meta=meta), network).numpy()
    shallow, deep = (depth.numpy() == d for d in (0.0, 25.0))
    some = raw["intensity"][0, 0] > 0.05
    assert (known[0, 0][shallow & some] > plain[0, 0][shallow & some]).all(), "there even small scores are rare"
    assert (known[0, 0][deep & some] <= plain[0, 0][deep & some] + 1e-6).all()


def test_parts_are_loaded_each_from_its_file(tmp_path, parts):
    torch.save(parts.parts["prior"].state_dict(), tmp_path / "prior.pt")
    fresh = FusedNetwork({"prior": SliceUNet(residual=False, **SMALL)})
    load_parts(fresh, {"prior": tmp_path / "prior.pt"})
    for one, other in zip(fresh.parts["prior"].parameters(), parts.parts["prior"].parameters(), strict=True):
        assert torch.equal(one, other)
    assert parts.multiple == 8
