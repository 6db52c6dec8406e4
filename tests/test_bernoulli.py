# SPDX-License-Identifier: Apache-2.0
"""The Bernoulli scheduler against its own definition, by enumeration and by moments."""

import itertools
import math

import pytest
import torch

from bundle.diffusion.bernoulli import BernoulliScheduler, flip_bits

SCHEDULER = BernoulliScheduler()


def transition(t: int, s: int = 0) -> torch.Tensor:
    """2 x 2 matrix P(z_t = column | z_s = row) as the product of the single steps of eq. (1)."""
    matrix = torch.eye(2, dtype=torch.float64)
    for step in range(s, t):
        alpha = float(SCHEDULER.alphas[step])
        stay, flip = (1 + alpha) / 2, (1 - alpha) / 2
        matrix = matrix @ torch.tensor([[stay, flip], [flip, stay]], dtype=torch.float64)
    return matrix


@pytest.mark.parametrize("t", [1, 2, 200, 1000])
def test_flip_rate_is_the_product_of_single_steps(t):
    assert float(SCHEDULER.flip_rate(t)) == pytest.approx(float(transition(t)[0, 1]), rel=1e-5)


def test_flip_rate_at_the_published_level():
    """1 − ᾱ is 0.343 at the reference's index 200, which counts from 0: our t = 201."""
    assert 2 * float(SCHEDULER.flip_rate(201)) == pytest.approx(0.343, abs=1e-3)


@pytest.mark.parametrize("t", [1, 50, 200, 1000])
def test_noise_flips_both_ways_at_the_rate(t):
    """Chi-square of the four counts against q(z_t | z_0); 3 degrees of freedom, p = 1e-4 at 21.1."""
    generator = torch.Generator().manual_seed(t)
    clean = torch.cat([torch.zeros(40_000), torch.ones(40_000)])[None]
    noisy = SCHEDULER.add_noise(clean, torch.rand(clean.shape, generator=generator), torch.tensor([t]))
    rate = float(SCHEDULER.flip_rate(t))
    chi_square = 0.0
    for before, after in itertools.product((0, 1), (0, 1)):
        expected = 40_000 * (rate if before != after else 1 - rate)
        observed = int(((clean == before) & (noisy == after)).sum())
        chi_square += (observed - expected) ** 2 / expected
    assert chi_square < 21.1


def test_every_item_has_its_own_noise_level():
    clean = torch.zeros(3, 4, 50, 50)
    noisy = SCHEDULER.add_noise(clean, torch.rand(clean.shape), torch.tensor([0, 300, 1000]))
    rates = noisy.mean((1, 2, 3))
    assert rates[0] == 0
    assert rates[1:].tolist() == pytest.approx(SCHEDULER.flip_rate(torch.tensor([300, 1000])).tolist(), abs=0.02)


@pytest.mark.parametrize(("t", "s"), [(2, 1), (200, 180), (1000, 1), (5, 0)])
def test_posterior_is_bayes(t, s):
    """P(z_s | z_t, z_0) by enumeration over z_s with the single-step transition matrices."""
    for z_t, z_0 in itertools.product((0, 1), (0, 1)):
        joint = [transition(s)[z_0, z_s] * transition(t, s)[z_s, z_t] for z_s in (0, 1)]
        probability = SCHEDULER.posterior(torch.tensor(float(z_t)), torch.tensor(float(z_0)), t, s)
        assert float(probability) == pytest.approx(float(joint[1] / sum(joint)), rel=1e-4)


def test_posterior_of_an_uncertain_code_averages_over_it():
    sample, certain = torch.tensor(1.0), torch.tensor([0.0, 1.0])
    ends = SCHEDULER.posterior(sample, certain, 200, 100)
    middle = SCHEDULER.posterior(sample, torch.tensor(0.3), 200, 100)
    assert float(middle) == pytest.approx(0.7 * float(ends[0]) + 0.3 * float(ends[1]))


@pytest.mark.parametrize("path", [[900, 500, 100], [900, 100], [900, 899, 101, 100]])
def test_steps_compose(path):
    """From z_900 ~ q(· | z_0), posterior steps along any path end in q(z_100 | z_0): a moment test."""
    generator = torch.Generator().manual_seed(0)
    scheduler = BernoulliScheduler()
    scheduler.set_timesteps(timesteps=[*path, 1])
    clean = torch.ones(1, 200_000)
    sample = scheduler.add_noise(clean, torch.rand(clean.shape, generator=generator), torch.tensor([path[0]]))
    for t in path[:-1]:
        sample = scheduler.step(clean, t, sample, torch.rand(clean.shape, generator=generator))
    expected = 1 - float(scheduler.flip_rate(100))
    deviation = math.sqrt(expected * (1 - expected) / clean.numel())
    assert float(sample.mean()) == pytest.approx(expected, abs=4 * deviation)


def test_the_last_step_returns_the_clean_code():
    clean = torch.bernoulli(torch.full((2, 8, 4, 4), 0.5))
    scheduler = BernoulliScheduler()
    scheduler.set_timesteps(5, noise_level=200)
    assert scheduler.previous(int(scheduler.timesteps[-1])) == 0
    assert torch.equal(scheduler.step(clean, int(scheduler.timesteps[-1]), 1 - clean, torch.rand_like(clean)), clean)


@pytest.mark.parametrize(
    ("count", "level", "first", "length"), [(10, 200, 200, 10), (None, None, 1000, 1000), (9, 4, 4, 4)]
)
def test_set_timesteps(count, level, first, length):
    scheduler = BernoulliScheduler()
    scheduler.set_timesteps(count, noise_level=level)
    steps = scheduler.timesteps.tolist()
    assert (steps[0], len(steps), scheduler.num_inference_steps) == (first, length, length)
    assert steps == sorted(set(steps), reverse=True)
    assert steps[-1] >= 1


def test_no_noise_no_steps():
    scheduler = BernoulliScheduler()
    scheduler.set_timesteps(10, noise_level=0)
    assert len(scheduler.timesteps) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        {"timesteps": [5, 5]},
        {"timesteps": [1, 2]},
        {"timesteps": [1001]},
        {"timesteps": [0]},
        {"noise_level": 1001},
        {"num_inference_steps": 0},
    ],
)
def test_wrong_steps_are_named(arguments):
    with pytest.raises(ValueError, match=r"1001|fall strictly|less than 1"):
        SCHEDULER.set_timesteps(**arguments)


def test_flip_bits():
    bits = torch.tensor([0.0, 0.0, 1.0, 1.0])
    assert flip_bits(bits, torch.tensor([0.0, 1.0, 0.0, 1.0])).tolist() == [0, 1, 1, 0]
