# SPDX-License-Identifier: Apache-2.0
"""Synthetic anomalies of the retina: each kind does what its name says, where it may, and nothing at no chance."""

import numpy as np
import pytest
import torch

from bundle.synthesis.retinal_lesions import RETINAL_LESIONS, RandRetinalLesionsd
from bundle.synthesis.retinas import paint_retina

DARKER = {"fluid", "subretinal fluid"}


@pytest.fixture(scope="module")
def bscan():
    image, mask = paint_retina(np.random.RandomState(3))
    return {"image": torch.from_numpy(image)[None], "retina": torch.from_numpy(mask)[None]}


def painted(bscan, kind, seed, **kwargs):
    transform = RandRetinalLesionsd("image", prob=1.0, most=1, kinds=[kind], **kwargs)
    return transform.set_random_state(seed)(dict(bscan))


@pytest.mark.parametrize("kind", RETINAL_LESIONS)
def test_every_kind_changes_the_retina_and_stays_an_image(bscan, kind):
    changed = 0
    for seed in range(6):
        out = painted(bscan, kind, seed)
        assert out["image"].shape == bscan["image"].shape
        assert 0 <= out["image"].min() <= out["image"].max() <= 1
        assert (out["retina"] >= bscan["retina"]).all(), "the mask only grows"
        change = (out["image"] - bscan["image"])[bscan["retina"] > 0]
        changed += bool((change.abs() > 0.05).sum() > 5)
        if kind == "fluid":
            assert change.max() < 0.2
        if kind == "bright spots":
            assert change.max() > 0.05
    assert changed >= 4, "a lesion that is hardly ever seen"


@pytest.mark.parametrize("kind", ["subretinal fluid", "drusen", "detachment"])
def test_what_is_lifted_lifts_what_lies_on_it(bscan, kind):
    """Somewhere above the bright outer bands the tissue has moved up, and the mask with it where it left the retina."""
    highest = [int((painted(bscan, kind, seed)["retina"] - bscan["retina"]).sum()) for seed in range(8)]
    assert max(highest) > 0
    image, mask = bscan["image"][0].numpy(), bscan["retina"][0].numpy() > 0
    outer = mask & (np.cumsum(mask, 1) > 0.75 * mask.sum(1, keepdims=True))
    brightest = np.argmax(np.where(outer, image, 0), axis=1)
    moved = 0
    for seed in range(8):
        out = painted(bscan, kind, seed)["image"][0].numpy()
        moved += bool((np.argmax(np.where(mask, out, 0), axis=1) < brightest - 2).sum() > 2)
    assert moved >= 4


def test_no_chance_is_the_identity(bscan):
    out = RandRetinalLesionsd("image", prob=0.0).set_random_state(0)(dict(bscan))
    assert torch.equal(out["image"], bscan["image"])
    assert torch.equal(out["retina"], bscan["retina"])


def test_no_retina_no_lesion(bscan):
    none = {**bscan, "retina": torch.zeros_like(bscan["retina"])}
    assert torch.equal(RandRetinalLesionsd("image", prob=1.0).set_random_state(0)(none)["image"], bscan["image"])


def test_the_same_seed_is_the_same_lesion(bscan):
    one, other, third = (painted(bscan, "fluid", seed)["image"] for seed in (1, 1, 2))
    assert torch.equal(one, other)
    assert not torch.equal(one, third)


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="unknown warts"):
        RandRetinalLesionsd("image", kinds=["warts"])
