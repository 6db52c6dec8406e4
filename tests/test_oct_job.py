# SPDX-License-Identifier: Apache-2.0
"""Retinal scans through the main job and through batches, with the weights of the repository."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from bundle.cli import main
from bundle.io.oct import oct_scan
from bundle.pipeline.job import Job
from bundle.report.enface import enface_views
from tests.conftest import ROOT, data_folder
from tests.oct_files import UM, bscan, save_picture
from tests.test_batch import shown_in

OVERRIDE = ROOT / "configs" / "oct.json"


@pytest.fixture(scope="module")
def job():
    return Job([ROOT / "configs" / "inference.json", OVERRIDE], precision="float32")


def with_fluid(picture, base):
    """A dark pocket with a bright rim in the middle of the retina."""
    rows, columns = np.mgrid[: picture.shape[0], : picture.shape[1]]
    centre = base[200] - 38
    apart = np.hypot((rows - centre) / 14, (columns - 200) / 16)
    return np.where(apart < 1, 8, np.where(apart < 1.25, 200, picture)).astype(np.uint8), apart


def test_fluid_lights_up(job):
    picture, base = bscan(11)
    ill, apart = with_fluid(picture, base)
    maps = [job({"image": oct_scan("s", p[None], UM)}) for p in (picture, ill)]
    assert maps[1]["findings"]["highest_value"] > maps[0]["findings"]["highest_value"]
    healthy, anomaly = (one["pred"][0, ..., 0].numpy().T for one in maps)
    inside = (maps[1]["retina"][0, ..., 0].numpy().T > 0) & (apart < 1)
    outside = (maps[1]["retina"][0, ..., 0].numpy().T > 0) & (apart > 3)
    assert anomaly[inside].mean() > 1 + healthy[inside].mean(), "ten times as rare as the same place without fluid"
    assert anomaly[inside].mean() > 0.7 + anomaly[outside].mean(), "five times as rare"
    assert anomaly[apart < 1.25].max() == anomaly.max(), "nothing stands out more"
    assert not anomaly[maps[1]["retina"][0, ..., 0].numpy().T == 0].any()
    assert maps[1]["findings"]["retina_ml"] > 0


def test_a_batch_of_pictures_volumes_and_what_is_none(tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    picture, _ = bscan(12)
    save_picture(folder / "a.png", picture)
    volume = np.stack([bscan(n)[0].T for n in (13, 14)], axis=-1)
    image = nib.Nifti1Image(volume, np.diag([11.5, -3.87, 90.0, 1.0]))
    image.header.set_xyzt_units("micron")
    nib.save(image, folder / "v.nii.gz")
    save_picture(folder / "noise.png", np.random.RandomState(0).randint(0, 255, (300, 300)).astype(np.uint8))
    (folder / "broken.jpeg").write_bytes(b"nothing")
    arguments = ["run", str(folder), str(out), "--config", str(OVERRIDE), "-q", "--set", "precision=float32"]
    assert main(arguments) == 1
    with (out / "batch.csv").open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert {name: row["status"] for name, row in rows.items()} == {
        "a": "done", "v": "done", "noise": "failed", "broken": "failed",
    }  # fmt: skip
    assert "no retina stands out" in rows["noise"]["reason"]
    assert "not readable as a picture" in rows["broken"]["reason"]
    mapped = nib.load(out / "v_desc-anomaly_map.nii.gz")
    assert mapped.shape == volume.shape
    assert mapped.header.get_xyzt_units()[0] == "micron"
    np.testing.assert_allclose(mapped.affine, image.affine, rtol=1e-5)
    single = nib.load(out / "a_desc-anomaly_map.nii.gz")
    assert single.shape == (400, 496, 1)
    assert single.header.get_xyzt_units()[0] == "unknown"
    assert (out / "a_desc-retina_mask.nii.gz").is_file()
    assert json.loads((out / "a_desc-anomaly_map.json").read_text())["settings"]["modality"] == "oct"
    with Image.open(out / "v_desc-anomaly_enface.png") as front:
        assert front.width > 600
    assert not (out / "a_desc-anomaly_enface.png").exists(), "one B-scan has no front"
    said = json.loads((out / "v_desc-anomaly_map.json").read_text())["outputs_sha256"]
    assert "v_desc-anomaly_enface.png" in said
    assert sum(row.get("enface") is not None for row in shown_in(out)) == 1
    assert "healthy retina" in (out / "report.html").read_text()
    assert main([*arguments, "--dry-run"]) == 0


def test_views_from_the_front():
    scan, anomaly, region = np.random.RandomState(0).rand(3, 4, 20, 3)
    region = np.zeros((4, 20, 3))
    region[1:, 5:15] = 1
    views = enface_views(scan, anomaly, region, 3.87)
    assert all(view.shape == (4, 3) and np.isnan(view[0]).all() for view in views.values())
    np.testing.assert_allclose(views["thickness"][1:], 38.7)
    np.testing.assert_allclose(views["highest"][1:], anomaly[1:, 5:15].max(1))
    np.testing.assert_allclose(views["mean"][1:], anomaly[1:, 5:15].mean(1))


def test_a_copy_with_another_voxel_size_is_the_same_retina(job):
    """A B-scan sampled half as finely, told its size, gets nearly the same map."""
    ill, _ = with_fluid(*bscan(15))
    fine = job({"image": oct_scan("s", ill[None], UM)})["pred"][0, ..., 0].numpy()
    half = ill.reshape(248, 2, 200, 2).mean((1, 3))
    coarse = job({"image": oct_scan("s", half[None], (2 * UM[0], 2 * UM[1]))})["pred"][0, ..., 0].numpy()
    shrunk = fine.reshape(200, 2, 248, 2).mean((1, 3))
    both = (shrunk > 0.5) | (coarse > 0.5)
    assert np.corrcoef(shrunk[both], coarse[both])[0, 1] > 0.6


def test_real_files_get_their_map(job):
    from bundle.oct_cases import find_oct

    for case in [*find_oct(data_folder("oct/duke")), *find_oct(data_folder("oct/kermany"))][::10]:
        result = job({"image": case["image"], "voxel_um": case.get("voxel_um"), "name": case["name"]})
        assert tuple(result["pred"].shape[1:]) == tuple(result["image"].meta["spatial_shape"])
        assert np.isfinite(result["pred"].numpy()).all()
