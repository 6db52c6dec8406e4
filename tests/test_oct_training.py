# SPDX-License-Identifier: Apache-2.0
"""What OCT trains on, and the protocol by image: synthetic retinas, their augmentation, patients against each other."""

import csv

import numpy as np
import pytest
import torch

from bundle.evaluation.images import THICKNESS, benchmark_images, healthy_images, thickness_score
from bundle.methods.intensity import Intensity
from bundle.methods.reconstruction import Reconstruction
from bundle.oct_cases import normal_oct_cases, oct_cases
from bundle.synthesis.camera import RandCamerad, RandPieced, RandSpeckled, RandVesselShadowd
from bundle.synthesis.retinas import LAYERS, SyntheticRetinas, paint_retina
from tests.oct_files import bscan, save_picture
from tests.test_oct import pipeline


def test_a_painted_retina_is_one():
    for seed in range(5):
        image, mask = paint_retina(np.random.RandomState(seed))
        assert image.shape == mask.shape == (128, 128)
        assert 0 <= image.min() < image.max() <= 1
        thickness = 6 * np.median(mask.sum(1))
        assert 120 < thickness < 520, "µm"
        assert image[mask > 0].mean() > 5 * image[:, :20].mean(), "the vitreous is dark"
    away = sum(layer.thickness_um for layer in LAYERS)
    assert 300 < away < 360, "µm, as in healthy adults"
    assert 200 < sum(layer.fovea_um for layer in LAYERS) < 260


def test_the_same_seed_is_the_same_retina():
    one, other = (SyntheticRetinas(3, RandCamerad("image", "retina"), seed=5)[1] for _ in range(2))
    for key in ("image", "donor", "retina"):
        torch.testing.assert_close(one[key], other[key])
    assert not torch.equal(SyntheticRetinas(3, seed=5)[0]["image"], SyntheticRetinas(3, seed=5)[1]["image"])
    with pytest.raises(IndexError):
        SyntheticRetinas(3)[3]


@pytest.mark.parametrize("width", [90, 128, 300])
def test_every_width_becomes_a_piece_of_one_size(width):
    item = {key: torch.rand(1, width, 128) for key in ("image", "retina", "donor")}
    for strength in (0.0, 1.0):
        out = RandCamerad("image", "retina", strength=strength).set_random_state(0)(item)
        assert all(out[key].shape == (1, 128, 128) for key in out)
        assert 0 <= out["image"].min() <= out["image"].max() <= 1


def test_pieces_reach_the_ends_of_a_bscan():
    """RandSpatialCropd begins at the first of 121 columns in one piece of 121: a network never learns how scans end."""
    columns = torch.arange(248.0)[None, :, None].expand(1, 248, 128)
    cut = RandPieced(("image", "donor", "retina"), (128, 128), allow_missing_keys=True).set_random_state(0)
    firsts = []
    for _ in range(400):
        out = cut({"image": columns, "retina": columns})
        assert torch.equal(out["image"], out["retina"]), "one draw for all"
        assert torch.equal(out["image"][0, :, 0].diff(), torch.ones(127))
        firsts.append(int(out["image"][0, 0, 0]))
    ends = [firsts.count(first) / len(firsts) for first in (0, 120)]
    assert ends == pytest.approx([64 / 248] * 2, abs=0.07)
    assert len(set(firsts)) > 80


def test_speckle_and_shadows():
    image = torch.full((1, 64, 64), 0.5)
    speckled = RandSpeckled("image", prob=1.0).set_random_state(0)({"image": image})["image"]
    assert speckled.std() > 0.01
    assert speckled.mean() == pytest.approx(0.5, abs=0.1)
    shadowed = RandVesselShadowd("image", prob=1.0).set_random_state(0)({"image": image})["image"]
    torch.testing.assert_close(shadowed[:, :, :12], image[:, :, :12])
    assert shadowed[:, :, 20:].min() < 0.48


@pytest.fixture(scope="module")
def eyes(tmp_path_factory):
    """Normal and diseased patients, the latter with a bright block in the retina; and a picture without a retina."""
    root = tmp_path_factory.mktemp("oct")
    for number in range(6):
        picture, base = bscan(number, width=256)
        if number >= 3:
            top = int(base.mean() - 55)
            picture[top : top + 40, 80:130] = 250
        kind = "NORMAL" if number < 3 else "CNV"
        save_picture(root / kind / f"{kind}-{number}-1.png", picture)
    save_picture(root / "CNV" / "CNV-9-1.png", np.random.RandomState(0).randint(0, 255, (300, 300)).astype(np.uint8))
    return root


def test_the_protocol_by_image(eyes, network, tmp_path, monkeypatch):
    monkeypatch.setattr("bundle.evaluation.images.DRAWS", 50)
    methods = {"intensity": Intensity(smoothing=2.0), "residual": Reconstruction(precision="float32")}
    cases, normal = oct_cases(eyes), normal_oct_cases(eyes)
    assert len(cases) == 7
    device = torch.device("cpu")
    parts, shipped = (network, pipeline(), device, tmp_path, "retina", 2e-6), {"intensity": lambda scores: 4 * scores}
    rows = benchmark_images(cases, normal, methods, *parts, cropped=normal[:1], shipped=shipped)
    assert rows["intensity"]["auroc_cnv"] == 1.0, "a bright block against none"
    assert rows["intensity"]["ap_all"] == 1.0
    low, high = rows["intensity"]["auroc_cnv_interval"]
    assert 0 <= low <= 1.0 == high
    assert rows["intensity"]["reached_rate_0.01"] == pytest.approx(0.01, abs=0.004), "on the same normal images"
    at_2, at_3 = (rows["intensity"][f"shipped_rate_{rate}"] for rate in ("0.01", "0.001"))
    assert 0 < at_3 < at_2 < 1, "intensities of 0.5 and 0.75 by that calibration"
    assert 0 < rows["intensity"]["shipped_rate_0.01_cropped"] < 1
    assert "shipped_rate_0.01" not in rows["residual"], "which has none"
    assert rows["intensity"]["elevation_auprc"] >= 0
    assert (tmp_path / "drawn.png").stat().st_size > 2000
    assert 0 < rows["residual"]["synthetic_auprc"] < 1
    assert set(rows) == {THICKNESS, *methods}
    with (tmp_path / "images.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 6, "the one without a retina is named and left out"
    assert (tmp_path / "table.md").read_text().count("\n| ") == 4

    healthy = healthy_images(normal, methods["intensity"], network, pipeline(), device, "retina")
    assert len(healthy) == len({case["subject"] for case in normal}), "an array a patient"
    assert sum(map(len, healthy)) > 10_000


def test_thickness_score():
    assert thickness_score(np.full(50, 10.0), 10.0, 1.0) == 0
    assert thickness_score(np.full(50, 7.0), 10.0, 1.5) == pytest.approx(2)
