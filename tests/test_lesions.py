# SPDX-License-Identifier: Apache-2.0
"""What the UNet of synthetic lesions learns from, and how it is asked."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from bundle.methods.synthetic_lesions import SIGNS, SyntheticLesions
from bundle.networks.lesion_unet import BRIGHTER, DARKER, LesionUNet
from bundle.synthesis.lesions import (
    Anatomy,
    CropBraind,
    LesionTargetd,
    RandContrastd,
    RandHealthyBraind,
    RandSmallLesionsd,
)
from bundle.synthesis.painted_labels import RandPaintLabelsd
from bundle.synthesis.scanner import RandMarginsd
from bundle.synthesis.ventricles import RandLargeVentriclesd
from bundle.training.inferers import LesionLoss, SliceScore
from bundle.training.mixed_slices import MixedSlices
from bundle.training.slices import SliceDataset
from bundle.transforms.brain_depth import DEPTH


@pytest.fixture
def slice_of_brain():
    """A disc of white matter with dark fluid in its middle; image and mask (1, X, Y)."""
    x, y = np.ogrid[-1:1:160j, -1:1:180j]
    radius = np.hypot(x, y)
    image = np.select([radius < 0.15, radius < 0.8], [0.05, 1 / 3], 0).astype(np.float32)
    return {"image": torch.from_numpy(image)[None], "brain": torch.from_numpy((radius < 0.8).astype(np.float32))[None]}


def test_anatomy(slice_of_brain):
    image, brain = (slice_of_brain[key][0].numpy() for key in ("image", "brain"))
    known = Anatomy.of(image, brain > 0, 0.9375)
    assert known.median == pytest.approx(1 / 3)
    assert known.depth.max() == pytest.approx(0.8 * 80 * 0.9375, rel=0.05)
    assert (known.from_fluid == 0).sum() == pytest.approx((image == np.float32(0.05)).sum())
    assert Anatomy.of(image, np.zeros_like(brain, bool), 0.9375) is None


def test_small_lesions_stay_small_and_in_the_brain(slice_of_brain):
    painter, seen = RandSmallLesionsd("image", prob=1.0, dark=0.0).set_random_state(0), 0
    for _ in range(12):
        change = painter(slice_of_brain)["image"] - slice_of_brain["image"]
        assert change.min() >= -1e-6
        assert not change[slice_of_brain["brain"] == 0].any()
        assert (change > 0.02).float().sum() < 0.25 * slice_of_brain["brain"].sum()
        seen += bool(change.max() > 0.05)
    assert seen >= 9, "now and then nothing is left of a rim"


@pytest.mark.parametrize("seed", range(4))
def test_healthy_variation_is_faint(slice_of_brain, seed):
    painted = RandHealthyBraind("image", prob=1.0).set_random_state(seed)(slice_of_brain)["image"]
    change = (painted - slice_of_brain["image"]).abs()
    assert 0 < change.mean() < 0.05
    same = RandHealthyBraind("image", prob=0.0)(slice_of_brain)["image"]
    torch.testing.assert_close(same, slice_of_brain["image"])


def test_contrast_keeps_the_median_and_the_order():
    ramp = torch.linspace(0, 1, 101)[None, None]
    bent = RandContrastd("image", scale=0.0).set_random_state(3)({"image": ramp})["image"]
    assert (bent.diff(dim=-1) >= 0).all()
    same = RandContrastd("image", gamma=(1.0, 1.0), scale=0.0, dark_prob=0.0)({"image": ramp})["image"]
    torch.testing.assert_close(same, ramp)
    middle = RandContrastd("image", scale=0.0).set_random_state(1)({"image": torch.full((1, 2, 2), 1 / 3)})["image"]
    torch.testing.assert_close(middle, torch.full((1, 2, 2), 1 / 3))


def test_the_target_says_how_far_and_which_way():
    healthy = torch.full((1, 1, 5), 0.3)
    twin = healthy + torch.tensor([0.0, 0.01, 0.075, 0.5, -0.2])
    target = LesionTargetd("anomalous")({"image": healthy, "anomalous": twin})["target"]
    torch.testing.assert_close(target[BRIGHTER, 0], torch.tensor([0, 0, 0.5, 1, 0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(target[DARKER, 0], torch.tensor([0, 0, 0, 0, 1.0]), atol=1e-3, rtol=0)


def test_a_window_about_the_brain(slice_of_brain):
    cut = CropBraind(["image", "brain"], (96, 112))(slice_of_brain)
    assert cut["image"].shape == cut["brain"].shape == (1, 96, 112)
    tiny = {key: torch.zeros(1, 128, 160) for key in ("image", "brain")}
    assert CropBraind(["image", "brain"], (128, 160))(tiny)["image"].shape == (1, 128, 160)


@pytest.mark.parametrize(("grow", "sign"), [(2, 1), (-2, -1), (0, 0)])
def test_margins(slice_of_brain, grow, sign):
    grown = RandMarginsd("brain", grow, grow)(slice_of_brain)["brain"]
    assert np.sign(float(grown.sum() - slice_of_brain["brain"].sum())) == sign
    assert set(grown.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("seed", range(3))
def test_painted_label_maps_look_like_flair(seed):
    x, y, z = np.ogrid[-1:1:60j, -1:1:70j, -1:1:50j]
    radius = np.sqrt(x**2 + y**2 + z**2)
    labels = np.select([radius < 0.25, radius < 0.6, radius < 0.75, radius < 0.8, radius < 0.95], [4, 2, 3, 24, 507], 0)
    case = {"image": MetaTensor(torch.from_numpy(labels.astype(np.float32))[None], affine=torch.eye(4))}
    painted = RandPaintLabelsd("image", aged=0.0).set_random_state(seed)(case)
    scan, brain = painted["image"][0].numpy(), painted["brain"][0].numpy() > 0
    thick = 50 // scan.shape[2]
    assert painted["image"].affine[2, 2] == thick
    seen = labels[..., : thick * scan.shape[2]][..., thick // 2 :: thick][..., : scan.shape[2]]
    assert np.median(scan[seen == 4]) < 0.6 * np.median(scan[seen == 2]) < np.median(scan[seen == 3])
    assert brain[seen == 2].all()
    assert not brain[(seen == 0) | (seen == 507)].mean() > 0.05
    aged = RandPaintLabelsd("image", aged=1.0).set_random_state(seed)(case)
    assert aged["image"].shape[1:3] == (60, 70)


def test_places_are_mixed_in_their_shares(slice_of_brain):
    """Few slices of one place count as much as asked, and donors come from any."""
    many, few = (
        SliceDataset([{}], lambda case, level=level, n=n: {
            "image": torch.full((1, 16, 16, n), level), "brain": torch.ones(1, 16, 16, n)})
        for level, n in ((0.2, 30), (0.8, 2))
    )  # fmt: skip
    mixed = MixedSlices([many, few], [1, 3], length=400).set_random_state(0)
    items = [mixed[n] for n in range(len(mixed))]
    share = np.mean([float(item["image"].mean()) > 0.5 for item in items])
    donors = np.mean([float(item["donor"].mean()) > 0.5 for item in items])
    assert share == pytest.approx(0.75, abs=0.07)
    assert donors == pytest.approx(0.75, abs=0.07)
    assert items[0]["brain"].shape == (1, 16, 16)
    with pytest.raises(IndexError):
        mixed[400]
    with pytest.raises(ValueError, match="shares"):
        MixedSlices([many, few], [1], 3)


def test_the_loss_looks_at_the_brain_alone():
    brain, target = torch.zeros(1, 1, 8, 8), torch.zeros(1, 2, 8, 8)
    brain[..., :4] = 1
    right, wrong = torch.full((1, 2, 8, 8), -8.0), torch.full((1, 2, 8, 8), -8.0)
    wrong[..., 4:] = 8
    torch.testing.assert_close(LesionLoss()((right, brain), target), LesionLoss()((wrong, brain), target))
    wrong[..., :4] = 8
    assert LesionLoss()((wrong, brain), target) > 1 + LesionLoss()((right, brain), target)


class Marks(torch.nn.Module):
    """A UNet that marks what is bright as brighter, and what is dark in the brain as darker."""

    multiple = 4

    def forward(self, image, brain):
        return torch.cat([20 * (image - 0.6), 20 * (0.1 - image) - 40 * (1 - brain)], dim=1)


def test_signs_apart_and_together():
    volume = torch.full((1, 1, 40, 44, 3), 0.3)
    volume[..., 15:18, 15:18, 1], volume[..., 25:28, 20:23, 1] = 0.9, 0.02
    depth = torch.zeros(40, 44, 3)
    depth[8:34, 8:36] = 5
    scan = MetaTensor(volume, meta={DEPTH: depth})
    maps = {sign: SyntheticLesions(sign, precision="float32")(scan, Marks()) for sign in SIGNS}
    assert maps["brighter"][0, 0, 16, 16, 1] > 0.9
    assert maps["brighter"][0, 0, 26, 21, 1] < 0.1
    assert maps["darker"][0, 0, 26, 21, 1] > 0.5
    torch.testing.assert_close(maps["either"], torch.maximum(maps["brighter"], maps["darker"]))
    halved = SyntheticLesions("either", dark_share=0.5, precision="float32")(scan, Marks())
    torch.testing.assert_close(halved, torch.maximum(maps["brighter"], 0.5 * maps["darker"]))
    with pytest.raises(ValueError, match="brighter, darker, either"):
        SyntheticLesions("sideways")
    with pytest.raises(ValueError, match="not between 0 and 1"):
        SyntheticLesions(dark_share=1.5)


def test_the_unet_does_not_see_the_skull():
    torch.manual_seed(0)
    unet = LesionUNet(filters=(8, 8, 16)).eval()
    assert unet.multiple == 4
    brain = torch.zeros(1, 1, 32, 32)
    brain[..., 8:24, 8:24] = 1
    image = torch.rand(1, 1, 32, 32)
    stripped = image.clone()
    stripped[..., :4, :] = 0
    with torch.no_grad():
        torch.testing.assert_close(unet(image, brain), unet(stripped, brain))
        assert unet(image, brain).shape == (1, 2, 32, 32)


def test_validation_counts_the_organ_alone():
    """Outside of its mask the UNet was never told anything."""
    slices = torch.rand(2, 2, 32, 32)
    slices[:, 1] = 0
    slices[:, 1, 8:20, 8:20] = 1
    network = LesionUNet(filters=(8, 8, 16))
    scores = SliceScore(SyntheticLesions(precision="float32"), masked=True)(slices, network)
    assert not scores[:, 0][slices[:, 1] == 0].any()
    assert (scores[:, 0][slices[:, 1] > 0] > 0).all()


@pytest.mark.parametrize("bright", [False, True])
def test_large_ventricles(slice_of_brain, bright):
    """Fluid takes more room, as dark or bright as it was; the surface of the brain stays where it is."""
    image, brain = slice_of_brain["image"], slice_of_brain["brain"]
    if bright:
        image = torch.where(image == 0.05, torch.tensor(0.9), image)
    fluid = image[0, 80, 90]
    make = RandLargeVentriclesd("image", prob=1.0, grow=9.0, bright_fluid=bright)
    make.set_random_state(seed=0)
    made = make({"image": image, "brain": brain})["image"]
    before, after = (torch.isclose(one, fluid, atol=0.02) for one in (image, made))
    assert after.sum() > 1.2 * before.sum()
    assert (after | ~before).all(), "what was fluid stays fluid"
    outside = brain == 0
    torch.testing.assert_close(made[outside], image[outside])
    never = RandLargeVentriclesd("image", prob=0.0, bright_fluid=bright)
    torch.testing.assert_close(never({"image": image, "brain": brain})["image"], image)
