# SPDX-License-Identifier: Apache-2.0
"""Retinal scans: every format with its voxel size, the retina found and flattened, and back; bad input is named."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, Invertd
from PIL import Image

from bundle.errors import DatasetError, ScanError, cause_of
from bundle.io.oct import ASSUMED_UM, oct_scan, read_oct
from bundle.oct_cases import find_oct, normal_oct_cases, oct_cases
from bundle.transforms.oct import (
    FlattenRetinad,
    LoadOctd,
    RetinaMaskd,
    ScaleRetinaIntensityd,
    noise_of,
)
from bundle.transforms.retina import fill_of, find_retina
from tests.conftest import data_folder
from tests.e2e_files import save_e2e
from tests.oct_files import UM, bscan, save_fda, save_opt, save_picture, save_vol


def spacing_um(scan):
    return [1000 * float(s) for s in scan.pixdim]


@pytest.mark.parametrize("ending", ["png", "tif", "bmp"])
def test_pictures_come_as_they_are(tmp_path, ending):
    picture, _ = bscan()
    scan = read_oct(save_picture(tmp_path / f"s.{ending}", picture))
    assert scan.shape == (1, 400, 496, 1)
    np.testing.assert_array_equal(scan[0, :, :, 0].numpy(), picture.T)
    np.testing.assert_allclose(spacing_um(scan), ASSUMED_UM)
    assert scan.meta["original_unit"] == "unknown", "a size that nobody stated is not claimed"
    np.testing.assert_array_equal(np.abs(np.diag(scan.meta["original_affine"])), 1)
    known = read_oct(tmp_path / f"s.{ending}", (6, 3))
    np.testing.assert_allclose(spacing_um(known)[:2], (6, 3), rtol=1e-6)
    assert known.meta["original_unit"] == "micron"


def test_sixteen_bits_stacks_folders_and_grey_colours(tmp_path):
    pictures = [bscan(n)[0] for n in range(3)]
    deep = [Image.fromarray(p.astype(np.uint16) * 200) for p in pictures]
    deep[0].save(tmp_path / "stack.tiff", save_all=True, append_images=deep[1:])
    stack = read_oct(tmp_path / "stack.tiff")
    assert stack.shape == (1, 400, 496, 3)
    assert stack.max() > 255
    for number, picture in enumerate(pictures):
        save_picture(tmp_path / "eye" / f"b{number}.png", np.repeat(picture[..., None], 3, axis=2))
    folder = read_oct(tmp_path / "eye")
    np.testing.assert_allclose(folder.numpy() * 200, stack.numpy())


def test_nifti_in_micrometres(tmp_path):
    volume = np.stack([bscan(n)[0].T for n in range(2)], axis=-1)
    affine = np.diag([11.5, -3.87, 60.0, 1.0])
    image = nib.Nifti1Image(volume, affine)
    image.header.set_xyzt_units("micron")
    nib.save(image, tmp_path / "v.nii.gz")
    scan = read_oct(tmp_path / "v.nii.gz")
    np.testing.assert_allclose(spacing_um(scan), (11.5, 3.87, 60.0), rtol=1e-5)
    np.testing.assert_allclose(scan.meta["original_affine"], affine, rtol=1e-6)


def test_vol_files_keep_their_voxel_size(tmp_path):
    pytest.importorskip("eyepy", reason="the extra `oct` is not installed")
    bscans = np.stack([bscan(n, width=256)[0] for n in range(3)]) / 255
    scan = read_oct(save_vol(tmp_path / "s.vol", bscans, (0.0115, 0.00387, 0.06)))
    assert scan.shape == (1, 256, 496, 3)
    np.testing.assert_allclose(spacing_um(scan), (11.5, 3.87, 60), rtol=1e-4)
    assert find_retina(scan[0, ..., 1].numpy(), UM) is not None


@pytest.mark.parametrize("depth", [1, 3])
def test_e2e_files_have_the_voxel_size_of_a_medium_eye(tmp_path, depth):
    """eyepy alone says one pixel a pixel."""
    pytest.importorskip("eyepy", reason="the extra `oct` is not installed")
    bscans = np.stack([bscan(n, width=256)[0] for n in range(depth)])
    scan = read_oct(save_e2e(tmp_path / "s.e2e", bscans / 255, (0.0115, 0.00387, 0.12)))
    np.testing.assert_array_equal(scan[0].numpy(), bscans.transpose(2, 1, 0))
    np.testing.assert_allclose(
        spacing_um(scan)[: 2 if depth == 1 else 3], (11.5, 3.87, 120)[: 2 if depth == 1 else 3], rtol=1e-4
    )
    assert scan.meta["original_unit"] == "micron"


@pytest.mark.parametrize("compressed", [True, False])
def test_fda_files_keep_pixels_and_voxel_size(tmp_path, compressed):
    """Neither came through oct-converter: its reader fails on NumPy 2.3, and it gives the step before the depth."""
    bscans = np.stack([bscan(n, width=256)[0] for n in range(3)])
    scan = read_oct(save_fda(tmp_path / "s.fda", bscans, (0.0115, 0.0026, 0.06), compressed))
    np.testing.assert_array_equal(scan[0].numpy(), bscans.transpose(2, 1, 0))
    np.testing.assert_allclose(spacing_um(scan), (11.5, 2.6, 60), rtol=1e-6)


@pytest.mark.parametrize("cut", [3, 14, 40, 120, 300, 5000])
def test_an_fda_file_cut_short_is_named(tmp_path, cut):
    path = save_fda(tmp_path / "s.fda", bscan(0, width=64)[0][None], (0.01, 0.003, 0.06))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ScanError, match=r"not readable as \.fda"):
        read_oct(path)


def test_ophthalmic_tomography_in_dicom(tmp_path):
    pytest.importorskip("pydicom", reason="the extra `hospital` is not installed")
    bscans = np.stack([bscan(n)[0] for n in range(4)])
    scan = read_oct(save_opt(tmp_path / "s.dcm", bscans, (0.0115, 0.0039, 0.12)))
    np.testing.assert_array_equal(scan[0].numpy(), bscans.transpose(2, 1, 0))
    np.testing.assert_allclose(spacing_um(scan), (11.5, 3.9, 120), rtol=1e-5)


def in_colours(path):
    picture = np.zeros((200, 200, 3), np.uint8)
    picture[..., 0] = np.arange(200)
    save_picture(path, picture)


BAD = {
    "absent.png": (lambda p: None, "no such file"),
    "empty.png": (lambda p: p.write_bytes(b""), "not readable as a picture"),
    "text.jpg": (lambda p: p.write_text("no picture"), "not readable as a picture"),
    "cut.png": (lambda p: p.write_bytes(save_picture(p, bscan()[0]).read_bytes()[:900]), "not readable as a picture"),
    "black.png": (lambda p: save_picture(p, np.zeros((200, 200), np.uint8)), "every pixel is 0"),
    "tiny.png": (lambda p: save_picture(p, np.eye(12, dtype=np.uint8)), "no stack of B-scans"),
    "fundus.png": (in_colours, "in colours"),
    "broken.vol": (lambda p: p.write_bytes(b"HSF-OCT-103" + bytes(100)), "not readable as .vol"),
    "broken.dcm": (lambda p: p.write_bytes(bytes(300)), "not readable as .dcm"),
    "flat.nii.gz": (lambda p: nib.save(nib.Nifti1Image(np.eye(40, dtype=np.float32), None), p), "2-D"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_broken_file_is_named(tmp_path, name):
    if name == "broken.vol":
        pytest.importorskip("eyepy")
    if name == "broken.dcm":
        pytest.importorskip("pydicom")
    make, reason = BAD[name]
    make(tmp_path / name)
    with pytest.raises(ScanError, match=reason) as caught:
        read_oct(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert caught.value.remedy


def test_b_scans_of_several_sizes_are_no_volume(tmp_path):
    save_picture(tmp_path / "a.png", bscan()[0])
    save_picture(tmp_path / "b.png", bscan()[0][:300])
    with pytest.raises(ScanError, match="2 sizes"):
        read_oct(tmp_path)
    with pytest.raises(ScanError, match="NaN"):
        oct_scan("array", np.full((1, 64, 64), np.nan))


SHAPES = {"straight": {}, "tilted": {"tilt": 90}, "curved": {"curve": 70}, "high": {"at": 0.4}, "low": {"at": 0.8}}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", [1, 2])
def test_the_curve_under_the_retina_is_found(shape, seed):
    picture, base = bscan(seed, **SHAPES[shape])
    found = find_retina(picture.T.astype(np.float32), UM)
    apart = (found.base - base) * UM[1]
    assert np.percentile(np.abs(apart - np.median(apart)), 90) < 40, "µm, along the curve"
    assert abs(np.median(apart)) < 45
    assert 150 < np.median(found.rpe - found.ilm) * UM[1] < 450


def rotated(picture, degrees, fill):
    image = Image.fromarray(picture).rotate(degrees, resample=Image.Resampling.BILINEAR, fillcolor=fill)
    return np.asarray(image)


@pytest.mark.parametrize("fill", [0, 255])
def test_fill_is_recognised_and_does_not_matter(fill):
    picture, _ = bscan(3)
    turned = rotated(picture, 6, fill)
    outside = rotated(np.full_like(picture, 255), 6, 0) < 128
    found = fill_of(turned.T.astype(np.float32))
    assert found.T[outside].mean() > 0.95
    assert found.T[~outside].mean() < 0.03
    assert not fill_of(picture.T.astype(np.float32)).any()
    retina = find_retina(turned.T.astype(np.float32), UM)
    slope = np.polyfit(np.arange(len(retina.base)), retina.base, 1)[0]
    assert np.degrees(np.arctan(-slope)) == pytest.approx(6, abs=1.5)


def test_noise_is_measured_and_brought_down_to_what_networks_know():
    """Of a noisy scan to within a third of the limit; a quiet one stays as it is."""
    picture, _ = bscan(4)
    rng = np.random.RandomState(0)
    scans = {
        sigma: oct_scan("s", (picture + sigma * rng.standard_normal(picture.shape))[None], UM) for sigma in (0, 40)
    }
    found = {sigma: RetinaMaskd("image")({"image": scan}) for sigma, scan in scans.items()}
    retina = found[40]["retina"][0].numpy() > 0
    plain, noisy = (noise_of(scans[sigma][0].numpy(), retina) for sigma in (0, 40))
    assert np.sqrt(max(noisy**2 - plain**2, 0)) == pytest.approx(40, rel=0.15)
    limit = 0.04
    for sigma, item in found.items():
        as_it_is = ScaleRetinaIntensityd("image")(item)["image"]
        quiet = ScaleRetinaIntensityd("image", noise=limit)(item)["image"]
        if sigma:
            assert noise_of(quiet[0].numpy(), retina) < 0.5 * noise_of(as_it_is[0].numpy(), retina)
        else:
            np.testing.assert_array_equal(quiet, as_it_is)


def pipeline():
    return Compose(
        [
            LoadOctd("image"),
            RetinaMaskd("image"),
            ScaleRetinaIntensityd("image"),
            FlattenRetinad(["image", "retina"]),
        ]
    )


@pytest.mark.parametrize("shape", [*SHAPES, "cropped"])
def test_flattening_is_inverted_to_within_a_pixel(shape):
    """A picture of where its pixels are comes back to where they were."""
    picture, _ = bscan(4, **SHAPES.get(shape, {"tilt": 60, "curve": 40}))
    if shape == "cropped":
        picture = picture[60:, 37:301]
    pre = pipeline()
    item = pre({"image": oct_scan("s", picture[None], UM)})
    assert item["image"].shape[2] == 128
    assert 0 <= item["image"].min() < item["image"].max() <= 1
    x, y = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in picture.shape[::-1]), indexing="ij")
    inside, found = None, pre.transforms[1]({"image": oct_scan("s", picture[None], UM)})
    for axis, where in enumerate((x, y)):
        flat = pre.transforms[3]({**found, "image": oct_scan("w", where.T[None], UM)})["image"]
        data = {"image": item["image"], "pred": flat.as_tensor().clone()}
        data["pred"] = type(flat)(
            data["pred"], meta=item["image"].meta, applied_operations=item["image"].applied_operations
        )
        back = Invertd("pred", pre, orig_keys="image", nearest_interp=False)(data)["pred"]
        assert back.shape == (1, *where.shape, 1)
        if inside is None:
            mask = Invertd("retina", pre, orig_keys="image", nearest_interp=False)(dict(item))["retina"]
            inside = mask[0, ..., 0].numpy() > 0.99
            inside[[0, 1, -2, -1]] = False  # half a voxel of the grid from the ends there is nothing to interpolate
            assert inside.sum() > 1000
        apart = np.abs(back[0, ..., 0].numpy() - where)[inside]
        assert np.percentile(apart, 99) < 1, f"pixels along axis {axis}"
        np.testing.assert_allclose(back.affine.numpy(), oct_scan("s", picture[None], UM).affine.numpy())


@pytest.mark.parametrize(("width", "fill"), [(256, 0), (246, 9), (250, 9), (256, 9)])
def test_no_black_stands_beside_a_retina(width, fill):
    """The last column of the grid lay outside the B-scan, and fill was blurred into those beside it."""
    picture, _ = bscan(6, width=width)
    if fill:
        picture[:, :fill] = picture[:, -fill:] = 255
    pre = pipeline()
    item = pre({"image": oct_scan("s", picture[None], UM)})
    light, mask = (item[key][0, ..., 0].numpy() for key in ("image", "retina"))
    assert (mask > 0.5).any(1).all(), "every column of the grid shows retina"
    assert len(light) == pytest.approx((width - 2 * fill) * UM[0] / 24, abs=0.5 if not fill else 4)
    columns = np.array([row[inside].mean() for row, inside in zip(light, mask > 0.5, strict=True)])
    assert columns.min() > 0.5 * np.median(columns)
    assert columns.max() < 2 * np.median(columns)
    back = Invertd("retina", pre, orig_keys="image", nearest_interp=False)(dict(item))["retina"]
    assert back.shape == (1, width, len(picture), 1)
    shown = (back[0] > 0.5).any(1).any(1).numpy()
    assert shown[fill + 4 : width - fill - 4].all()
    assert not shown[:fill].any(), "no retina and no map in the fill"
    assert not shown[width - fill :].any()


def test_the_scale_does_not_hang_on_speckle_and_exposure():
    picture, _ = bscan(5)
    light = picture.astype(np.float32)
    rng = np.random.RandomState(0)
    pre = pipeline()
    reference = pre({"image": oct_scan("s", light[None], UM)})
    inside = reference["retina"].numpy() > 0.5
    for other in (light * 3 + 40, light * (1 + 0.3 * rng.standard_normal(light.shape))):
        item = pre({"image": oct_scan("s", other[None], UM)})
        medians = [float(np.median(i["image"].numpy()[inside])) for i in (reference, item)]
        assert medians[0] == pytest.approx(medians[1], rel=0.1)


@pytest.mark.parametrize("kind", ["noise", "ramp", "upside down"])
def test_what_shows_no_retina_is_named(kind):
    rng = np.random.RandomState(0)
    pictures = {
        "noise": rng.randint(0, 255, (496, 400)),
        "ramp": np.linspace(0, 255, 496)[:, None] + np.zeros((1, 400)),
        "upside down": bscan(6)[0][::-1],
    }
    with pytest.raises(Exception, match="RetinaMaskd") as caught:
        pipeline()({"image": oct_scan("s", pictures[kind][None].astype(np.float32))})
    cause = cause_of(caught.value)
    assert isinstance(cause, ScanError)
    assert "no retina stands out" in cause.reason


def test_a_b_scan_without_retina_takes_its_neighbours_curve():
    volume = np.stack([bscan(7)[0], np.random.RandomState(0).randint(0, 40, (496, 400)), bscan(8)[0]])
    item = pipeline()({"image": oct_scan("v", volume)})
    assert item["image"].shape[-1] == 3
    covered = item["retina"].sum((0, 1, 2))
    assert covered[1] == 0
    assert torch.all(covered[[0, 2]] > 0)


def test_finding_scans(tmp_path):
    for name in ("train/NORMAL/NORMAL-12-1.jpeg", "train/NORMAL/NORMAL-12-2.jpeg", "train/CNV/CNV-7-1.jpeg"):
        save_picture(tmp_path / name, bscan()[0][:100, :100])
    save_picture(tmp_path / "normal" / "eye01_average.png", bscan()[0][:100, :100])
    found = find_oct(tmp_path)
    assert [case["subject"] for case in found] == ["normal-eye01", "7", "12", "12"]
    assert found[0]["voxel_um"] == [6.6, 3.23]
    assert {case["kind"] for case in oct_cases(tmp_path)} == {"normal", "cnv"}
    assert len(normal_oct_cases(tmp_path)) == 3
    assert len(find_oct(tmp_path, stacks=True)) == 3
    with pytest.raises(DatasetError, match="NORMAL"):
        normal_oct_cases(tmp_path / "train" / "CNV")
    with pytest.raises(DatasetError, match="no such"):
        find_oct(tmp_path / "absent")


def test_real_scans_show_their_retina():
    pre = pipeline()
    for case in [*find_oct(data_folder("oct/duke"))[::5], *find_oct(data_folder("oct/kermany"))[::2]]:
        item = pre(case)
        thickness = float(item["retina"].sum(2).mean()) * 6
        assert 150 < thickness < 650, case["name"]


@pytest.mark.parametrize("seed", [0, 2, 7])
def test_a_faint_inner_retina_keeps_its_border(seed):
    """The outer bands are several times as bright: their edge was taken for the inner border."""
    picture, base = bscan(seed)
    inner = np.arange(picture.shape[0])[:, None] < base - 110 / UM[1]
    faint = np.where(inner, 20 + 0.3 * (picture.astype(float) - 20), picture)
    plain, found = (find_retina(one.T.astype(np.float32), UM) for one in (picture, faint))
    assert np.mean(np.abs(found.ilm - plain.ilm) * UM[1] < 40) > 0.95
