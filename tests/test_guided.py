# SPDX-License-Identifier: Apache-2.0
"""The guided filter: the paper's equations window by window, and edges of the scan that come into the map."""

import numpy as np
import pytest
import torch

from bundle.methods.guided_filter import FLOOR, NOISE, guided_filter, sharpen


def test_against_the_fit_in_every_window():
    rng = np.random.default_rng(0)
    values, guide = rng.random((2, 9, 11))
    radius, lines = 2, np.zeros((9, 11, 2))
    for x, y in np.ndindex(9, 11):
        window = np.s_[max(x - radius, 0) : x + radius + 1, max(y - radius, 0) : y + radius + 1]
        g, v = guide[window], values[window]
        slope = np.mean((g - g.mean()) * (v - v.mean())) / (g.var() + 0.1**2)
        lines[x, y] = slope, v.mean() - slope * g.mean()
    expected = np.zeros((9, 11))
    for x, y in np.ndindex(9, 11):
        slope, offset = lines[max(x - radius, 0) : x + radius + 1, max(y - radius, 0) : y + radius + 1].mean((0, 1))
        expected[x, y] = slope * guide[x, y] + offset
    found = guided_filter(*(torch.from_numpy(a)[None, None] for a in (values, guide)), radius, noise=0.1)
    np.testing.assert_allclose(found[0, 0].numpy(), expected, atol=1e-9)


@pytest.fixture
def lesion():
    """A slice with a bright square, and a score that has found it, but not its edge; (1, 1, 40, 40) each."""
    inside = torch.zeros(1, 1, 40, 40)
    inside[..., 12:28, 12:28] = 1
    noise = NOISE / 2 * torch.randn(inside.shape, generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool2d(inside, 9, stride=1, padding=4)
    return (0.4 + 0.2 * inside + noise).clamp(0, 1), 0.3 * blurred, inside > 0


def test_the_edge_comes_from_the_scan(lesion):
    scan, score, inside = lesion
    map_ = sharpen(score, scan, 4)
    near = torch.nn.functional.max_pool2d(inside.float(), 5, stride=1, padding=2).bool() & ~inside
    assert score[near].max() > score[inside].min(), "the score spills over the edge"
    assert map_[inside].min() > 1.4 * map_[near].max()


def test_where_the_scan_shows_nothing_the_map_is_only_smoothed(lesion):
    _, score, _ = lesion
    flat = sharpen(score, torch.full_like(score, 0.4), 2)
    assert flat.max() <= torch.log1p(score / FLOOR).max() + 1e-5
    torch.testing.assert_close(flat, guided_filter(torch.log1p(score / FLOOR), torch.zeros_like(score), 2))
    assert not sharpen(torch.zeros_like(score), score, 4).any(), "nothing stays nothing"


def test_many_contrasts_are_one_guide(lesion):
    scan, score, _ = lesion
    torch.testing.assert_close(sharpen(score, scan.expand(-1, 4, -1, -1), 3), sharpen(score, scan, 3))
