# SPDX-License-Identifier: Apache-2.0
"""What the rules draw into B-scans: fluid, elevations of the epithelium, and nothing where there is neither."""

import numpy as np
import pytest

from bundle.synthesis.drawing import RULES, drawn, drawn_volume
from tests.oct_files import UM, bscan
from tests.test_oct_job import with_fluid


@pytest.mark.parametrize("seed", [11, 15])
def test_fluid(seed):
    picture, base = bscan(seed)
    ill, apart = with_fluid(picture, base)
    found = drawn(ill.T.astype(np.float32), UM)["fluid"].T
    assert found[apart < 0.7].mean() > 0.8
    assert not found[apart > 1.4].any()
    assert not drawn(picture.T.astype(np.float32), UM)["fluid"].any()


@pytest.mark.parametrize("seed", [11, 15])
def test_elevation(seed):
    picture, base = bscan(seed)
    lifted = picture.copy()
    lifted[:, 180:220] = np.roll(picture[:, 180:220], -round(80 / UM[1]), axis=0)
    found = drawn(lifted.T.astype(np.float32), UM)["elevation"].T
    assert found[:, 190:210].sum(0).min() * UM[1] > 35, "as high as the rule asks, in every lifted column"
    assert not found[:, :150].any()
    assert not found[:, 250:].any()
    rows = np.flatnonzero(found[:, 200])
    assert base[200] - 100 / UM[1] < rows.min() < rows.max() < base[200] + 20 / UM[1]
    assert not drawn(picture.T.astype(np.float32), UM)["elevation"].any()


def test_no_retina_and_volumes():
    noise = np.random.RandomState(0).rand(300, 300).astype(np.float32)
    assert not any(mask.any() for mask in drawn(noise, UM).values())
    volume = np.stack([with_fluid(*bscan(n))[0].T for n in (11, 15)], axis=-1).astype(np.float32)
    masks = drawn_volume(volume, UM)
    assert masks.keys() == RULES.keys()
    assert all(mask.shape == volume.shape for mask in masks.values())
    assert masks["fluid"].any((0, 1)).all()
