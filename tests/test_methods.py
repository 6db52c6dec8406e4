# SPDX-License-Identifier: Apache-2.0
"""Methods: what they promise of every map, and what the masked chain promises of its bits."""

import copy

import pytest
import torch

from bundle.diffusion.bernoulli import BernoulliScheduler
from bundle.methods.differences import DIFFERENCES, difference
from bundle.methods.intensity import Intensity
from bundle.methods.masked_bernoulli import MaskedBernoulli, SliceNoise, restore_masked
from bundle.methods.reconstruction import Reconstruction
from bundle.methods.structured_flips import StructuredFlips

METHODS = [
    MaskedBernoulli(num_steps=4, precision="float32"),
    MaskedBernoulli(num_steps=3, compare_with="image", score_with="absolute", precision="float32"),
    StructuredFlips(precision="float32"),
    StructuredFlips(score_with="flips", mirrored=True, precision="float32"),
    StructuredFlips(score_with="brighter", smoothing=1.0, precision="float32"),
    StructuredFlips(sharpening=4, across=0.5, precision="float32"),
    StructuredFlips(roi_size=24, smoothing=1.0, precision="float32"),
    Reconstruction(precision="float32"),
    Intensity(smoothing=2.0),
]
IDS = [type(method).__name__ + str(number) for number, method in enumerate(METHODS)]


@pytest.fixture
def volume(head):
    """(1, 1, 44, 52, 5): neither side a multiple of what the network wants."""
    scan = torch.from_numpy(head[0].astype("float32"))[::2, ::2, 3:8] / 200
    return torch.nn.functional.pad(scan.clamp(0, 1), (0, 0, -2, -2, -2, -2))[None, None]


@pytest.mark.parametrize("method", METHODS, ids=IDS)
def test_a_map_has_the_grid_of_its_volume(method, volume, network):
    scores = method(volume, network)
    assert scores.shape == volume.shape
    assert scores.dtype == torch.float32
    assert torch.isfinite(scores).all()
    assert scores.min() >= 0
    assert scores.max() > 0
    assert (scores[volume[:, :1] == 0][:50] == 0).all(), "air is no anomaly"


@pytest.mark.parametrize("method", METHODS, ids=IDS)
def test_a_batch_equals_a_loop(method, volume, network):
    other = volume.flip(2)
    batch = method(torch.cat([volume, other]), network)
    assert torch.equal(batch, torch.cat([method(volume, network), method(other, network)]))
    one_by_one = copy.copy(method)
    one_by_one.slices_per_pass = 1
    torch.testing.assert_close(one_by_one(volume, network), method(volume, network), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("method", METHODS, ids=IDS)
def test_same_seed_same_map_and_no_state(method, volume, network):
    before = {key: value for key, value in vars(method).items() if not callable(value)}
    first = method(volume, network)
    method(volume.flip(3), network)
    assert torch.equal(first, method(volume, network))
    assert before == {key: value for key, value in vars(method).items() if not callable(value)}


def test_another_seed_another_map(volume, network):
    maps = [MaskedBernoulli(num_steps=3, threshold=0.4, seed=seed)(volume, network) for seed in (0, 1)]
    assert not torch.equal(*maps)


def test_no_noise_no_anomaly(volume, network):
    assert MaskedBernoulli(noise_level=0)(volume, network).abs().max() == 0


def scheduler_of(level: int, steps: int) -> BernoulliScheduler:
    scheduler = BernoulliScheduler()
    scheduler.set_timesteps(steps, noise_level=level)
    return scheduler


def test_outside_the_mask_the_code_is_untouched_and_all_is_bits():
    code = torch.bernoulli(torch.full((3, 8, 6, 6), 0.5))

    def flips(sample, t):
        """Every item of the batch has other suspicious bits."""
        probability = torch.zeros_like(sample)
        for item in range(3):
            probability[item, item] = 0.9
        return probability

    noise = SliceNoise(0, torch.arange(3))
    restored, mask = restore_masked(code, flips, scheduler_of(300, 6), 0.5, noise)
    for item in range(3):
        assert mask[item, item].all()
        assert mask[item].sum() == 36
    assert torch.equal(restored[mask == 0], code[mask == 0])
    assert set(restored.unique().tolist()) <= {0.0, 1.0}


def test_a_perfect_denoiser_restores_the_code():
    code = torch.bernoulli(torch.full((2, 8, 8, 8), 0.5))
    restored, _ = restore_masked(
        code, lambda sample, t: (sample - code).abs(), scheduler_of(800, 20), 0.5, SliceNoise(0, torch.arange(2))
    )
    assert torch.equal(restored, code)


def test_noise_hangs_on_the_slice_not_on_its_place_in_the_batch():
    like = torch.zeros(3, 2, 4, 4)
    together = SliceNoise(5, torch.arange(3))(like)
    assert torch.equal(together[2], SliceNoise(5, torch.tensor([2]))(like[:1])[0])
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize(
    "build",
    [
        lambda: MaskedBernoulli(threshold=1.5),
        lambda: MaskedBernoulli(noise_level=2000),
        lambda: MaskedBernoulli(compare_with="nothing"),
        lambda: StructuredFlips(score_with="nothing"),
        lambda: StructuredFlips(slices_per_pass=0),
        lambda: Intensity(precision="float32", slices_per_pass=-1),
        lambda: Intensity(sharpening=1.5),
        lambda: Reconstruction(roi_size=1.5),
        lambda: Reconstruction(roi_size=0),
    ],
)
def test_wrong_settings_fail_when_built(build):
    with pytest.raises(ValueError, match=r"1\.5|2000|nothing|slices_per_pass|sharpening|roi_size"):
        build()


class Numbered(Intensity):
    """Every time it is asked it scores all that it is shown by the next number; and it notes how much that is."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self._shown = []

    def score(self, slices, numbers, network):
        self._shown.append(slices.shape[2])
        return torch.full((len(slices), 1, *slices.shape[2:]), float(len(self._shown)))


@pytest.mark.parametrize("coarsen", [1, 2])
@pytest.mark.parametrize("length", [65, 100, 131])
def test_networks_see_as_much_at_a_time_as_they_learned_from(coarsen, length, network):
    volume = torch.ones(1, 1, coarsen * length, 128, 3)
    method = Numbered(roi_size=64, coarsen=coarsen)
    scores = method(volume, network)[0, 0]
    assert scores.shape == volume.shape[2:]
    assert set(method._shown) == {64}
    assert len(method._shown) == -(-(length - 64) // 32) + 1
    assert (scores[0] == 1).all(), "the ends of a slice are those of a window"
    torch.testing.assert_close(scores[-1], torch.full_like(scores[-1], len(method._shown)))
    if length > 65:
        assert scores.diff(dim=0).abs().max() < 0.4, "no seams where a window ends"
    torch.testing.assert_close(scores, scores[:, :1].expand_as(scores))


@pytest.mark.parametrize("length", [20, 64])
def test_shorter_slices_are_scored_at_once(length, network):
    method = Numbered(roi_size=64)
    method(torch.ones(1, 1, length, 32, 3), network)
    assert method._shown == [-(-length // network.multiple) * network.multiple]


def test_windows_that_no_network_takes_are_named(network):
    with pytest.raises(ValueError, match=f"roi_size 65 is no multiple of {network.multiple}"):
        Intensity(roi_size=65)(torch.ones(1, 1, 70, 32, 1), network)


def test_windows_of_what_looks_at_single_pixels_change_nothing(volume, network):
    torch.testing.assert_close(Intensity(roi_size=24)(volume, network), Intensity()(volume, network))


@pytest.mark.parametrize("name", DIFFERENCES)
def test_no_difference_no_score(name):
    image = torch.rand(2, 3, 8, 8)
    assert difference(name)(image, image).abs().max() == 0
    assert difference(name)(image - 0.5 if name == "darker" else image + 0.5, image).min() > 0
    assert difference(name)(image, image).shape == (2, 1, 8, 8)


def test_bfloat16_and_float32_maps_agree(volume, network):
    """What a machine with bfloat16 makes may differ from float32 by rounding, and by the few bits that tip over."""
    wide, narrow = (StructuredFlips(precision=p)(volume, network) for p in ("float32", "bfloat16"))
    assert (wide - narrow).abs().mean() < 0.05 * wide.mean()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("method", METHODS, ids=IDS)
def test_cpu_and_gpu_maps_agree(method, volume, network):
    on_cpu = method(volume, network)
    on_gpu = method(volume.cuda(), network.cuda()).cpu()
    assert (on_cpu - on_gpu).abs().mean() < 0.02 * on_cpu.mean()
