# SPDX-License-Identifier: Apache-2.0
"""Preprocessing: any orientation in, the model's grid out, and exactly back."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Orientationd
from scipy import ndimage

from bundle.errors import ScanError
from bundle.io.nifti import read_scan, write_map
from bundle.synthesis.sample import synthetic_head
from bundle.transforms.background import BackgroundToZerod
from bundle.transforms.head import head_mask, largest_piece, reference_intensity
from bundle.transforms.mri import LoadScand, ScaleHeadIntensityd, ToModelGridd


def preprocessing(**grid) -> Compose:
    labels = (("L", "R"), ("P", "A"), ("I", "S"))
    return Compose(
        [
            LoadScand("image"),
            Orientationd("image", axcodes="LPS", labels=labels),
            BackgroundToZerod("image"),
            ScaleHeadIntensityd("image"),
            ToModelGridd("image", **grid),
        ]
    )


def reoriented(scan: np.ndarray, affine: np.ndarray, codes: str) -> tuple[np.ndarray, np.ndarray]:
    """The same scan with its axes flipped and permuted on disk."""
    source = nib.orientations.io_orientation(affine)
    change = nib.orientations.ornt_transform(source, nib.orientations.axcodes2ornt(codes))
    image = nib.Nifti1Image(scan, affine).as_reoriented(change)
    return np.asarray(image.dataobj), image.affine


def oblique(affine: np.ndarray, degrees: float = 18) -> np.ndarray:
    angle = np.deg2rad(degrees)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn @ affine


CODES = ("LPS", "RAS", "LPI", "PSR", "SAL", "ARI")


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("tilt", [0, 18])
def test_orientation_does_not_matter_and_geometry_returns(tmp_path, head, codes, tilt):
    scan, _, affine = head
    upright = oblique(affine, tilt)
    there = tmp_path / "lps.nii.gz"
    write_map(there, scan, upright, np.int16)
    data, its_affine = reoriented(scan, upright, codes)
    path = tmp_path / f"{codes}.nii.gz"
    write_map(path, data, its_affine, np.int16)

    transform = preprocessing(size=(64, 64), spacing=3.75)
    reference, item = transform({"image": there}), transform({"image": path})
    torch.testing.assert_close(item["image"].as_tensor(), reference["image"].as_tensor(), atol=1e-4, rtol=0)

    item["pred"] = item["image"].clone()
    back = Invertd("pred", transform, orig_keys="image", nearest_interp=False)(item)["pred"]
    stored = nib.load(path)
    assert tuple(back.shape[1:]) == stored.shape
    np.testing.assert_allclose(back.affine.numpy(), stored.affine, atol=1e-4)
    assert nib.aff2axcodes(back.affine.numpy()) == nib.aff2axcodes(stored.affine)
    inside = data > 20
    assert np.corrcoef(back[0].numpy()[inside], data[inside])[0, 1] > 0.8, "the right voxels in the right place"


@pytest.mark.parametrize("spacing", [(0.5, 0.5, 6.0), (1.0, 1.0, 1.0), (1.2, 1.2, 2.5), (2.0, 2.0, 9.0)])
def test_any_voxel_size_comes_to_one_grid(tmp_path, spacing):
    extent = (200, 230, 130)
    shape = tuple(round(e / s) for e, s in zip(extent, spacing, strict=True))
    scan, _, affine = synthetic_head(shape, spacing, seed=1)
    write_map(tmp_path / "s.nii.gz", scan, affine, np.int16)
    image = preprocessing()({"image": tmp_path / "s.nii.gz"})["image"]
    assert image.shape[1:3] == (128, 128)
    assert float(image.pixdim[0]) == pytest.approx(1.875, abs=1e-3)
    assert float(image.pixdim[2]) >= min(2.5, spacing[2] * 3) - 1e-3, "thin slices are averaged, thick ones stay"
    assert float(image.pixdim[2]) <= max(4.5, spacing[2]) + 1e-3
    rows, columns = (np.flatnonzero((image[0] > 0.1).numpy().any((a, 2))) for a in (1, 0))
    for where in (rows, columns):
        assert abs((where[0] + where[-1]) / 2 - 63.5) < 4, "the head is in the middle"


@pytest.mark.parametrize("count", [22, 23, 24])
def test_a_constant_map_comes_back_constant(tmp_path, count):
    """Also in the first and last of thin slices, however many are averaged into one."""
    scan, _, affine = synthetic_head((64, 72, count), (3.0, 3.0, 1.0), seed=2)
    write_map(tmp_path / "s.nii.gz", scan, affine, np.int16)
    transform = preprocessing()
    item = transform({"image": tmp_path / "s.nii.gz"})
    assert item["image"].shape[3] == 8
    item["pred"] = torch.ones_like(item["image"])
    back = Invertd("pred", transform, orig_keys="image", nearest_interp=False)(item)["pred"]
    assert tuple(back.shape[1:]) == scan.shape
    torch.testing.assert_close(back.as_tensor(), torch.ones(1, *scan.shape))


def test_intensity_hangs_on_the_head_not_on_frame_or_unit(tmp_path, head):
    scan, _, affine = head
    write_map(tmp_path / "a.nii.gz", scan, affine, np.int16)
    write_map(tmp_path / "b.nii.gz", np.pad(7.5 * scan, ((20, 5), (9, 30), (0, 0))), affine, np.float32)
    images = [preprocessing()({"image": tmp_path / f"{name}.nii.gz"})["image"].numpy() for name in "ab"]
    assert np.abs(np.quantile(images[0], [0.5, 0.9, 0.99]) - np.quantile(images[1], [0.5, 0.9, 0.99])).max() < 0.01
    assert 0.2 < np.median(images[0][images[0] > 0.1]) < 0.5


def test_air_noise_and_stripped_skull(head):
    scan, _, _ = head
    spacing = (2.0, 2.0, 9.0)
    brain = np.where(scan > 0, scan, 0).astype(float)
    noisy = np.hypot(brain + np.random.RandomState(0).normal(0, 3, scan.shape), 2)
    masks = [head_mask(volume, spacing) for volume in (brain, noisy)]
    overlap = 2 * (masks[0] & masks[1]).sum() / (masks[0].sum() + masks[1].sum())
    assert overlap > 0.97
    depth = np.indices(scan.shape)[:2].T - np.array(scan.shape[:2])[None, None, None] / 2
    stripped = np.where((np.hypot(depth[..., 0], depth[..., 1]) < 26).T, brain, 0)
    whole = reference_intensity(brain, masks[0], spacing)
    assert reference_intensity(stripped, head_mask(stripped, spacing), spacing) == pytest.approx(whole, rel=0.15)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: s.astype(np.float32) * 8 - 1000, "look like a CT"),
    ],
)
def test_what_is_no_mri_is_refused(tmp_path, head, change, reason):
    write_map(tmp_path / "x.nii.gz", change(head[0]), head[2], np.float32)
    with pytest.raises(Exception) as caught:
        preprocessing()({"image": tmp_path / "x.nii.gz"})
    assert isinstance(caught.value.__cause__, ScanError)
    assert reason in str(caught.value.__cause__)
    assert "x.nii.gz" in str(caught.value.__cause__)


def test_another_contrast_is_refused_by_name(tmp_path, head):
    for name in ("sub-1_T1w", "sub-1_FLAIR", "brain"):
        write_map(tmp_path / f"{name}.nii.gz", head[0], head[2], np.int16)
    load = LoadScand("image", contrast="FLAIR")
    with pytest.raises(ScanError, match=r"sub-1_T1w\.nii\.gz: T1w by its name, the weights are for FLAIR"):
        load({"image": tmp_path / "sub-1_T1w.nii.gz"})
    for name in ("sub-1_FLAIR", "brain"):
        assert load({"image": str(tmp_path / f"{name}.nii.gz")})["image"].shape == (1, *head[0].shape)


def test_several_contrasts(tmp_path, head):
    scan, _, affine = head
    for name, factor in (("t1", 1), ("t2", 3)):
        write_map(tmp_path / f"{name}.nii.gz", scan * factor, affine, np.int16)
    paths = [tmp_path / "t1.nii.gz", tmp_path / "t2.nii.gz"]
    scans = read_scan(paths, channels=2)
    assert scans.shape == (2, *scan.shape)
    scaled = ScaleHeadIntensityd("image")({"image": scans})["image"]
    torch.testing.assert_close(scaled[0].as_tensor(), scaled[1].as_tensor(), atol=1e-4, rtol=0)


def scaled(scan, brain, spread=0.117):
    """A volume (X, Y, Z) of 1 mm voxels, scaled with its brain mask."""
    pair = {"image": MetaTensor(torch.from_numpy(scan[None])), "brain": MetaTensor(torch.from_numpy(brain[None]) * 1.0)}
    return ScaleHeadIntensityd("image", spread=spread)(pair)["image"][0].numpy()


@pytest.fixture(scope="module")
def two_tissues():
    """A ball of two tissues, and its mask."""
    places = np.stack(np.meshgrid(*[np.arange(48)] * 3, indexing="ij"))
    brain = ((places - 23.5) ** 2).sum(0) < 20**2
    scan = np.where(places[0] < 24, 85.0, 110.0) * brain
    return np.random.RandomState(0).normal(scan, 1.0 * brain).clip(0).astype(np.float32), brain


@pytest.mark.parametrize("contrast", [0.7, 1.0, 1.5])
def test_scanners_of_little_and_of_much_contrast_come_together(two_tissues, contrast):
    scan, brain = two_tissues
    reference = np.median(scan[brain])
    other = (scan / reference) ** contrast * 800
    np.testing.assert_allclose(scaled(other.astype(np.float32), brain), scaled(scan, brain), atol=0.01)
    assert np.median(scaled(other, brain)[brain]) == pytest.approx(1 / 3, abs=1e-3)
    spread = np.median(np.abs(3 * scaled(other, brain)[brain] - 1))
    assert spread == pytest.approx(0.117, rel=0.15)
    left = np.median(np.abs(3 * scaled(other, brain, None)[brain] - 1))
    assert left == pytest.approx(np.median(np.abs(other[brain] / 800 - 1)), rel=0.01), "without a spread none is made"


def test_contrast_is_never_bent_beyond_what_scanners_do(two_tissues):
    _, brain = two_tissues
    flat = (100.0 * brain).astype(np.float32)
    flat[24:26, 24, 24] = 150, 50
    out = 3 * scaled(flat, brain)
    assert out[24:26, 24, 24] == pytest.approx([1.5**1.65, 0.5**1.65], rel=1e-3)


@pytest.mark.parametrize("shift", [0, 90], ids=["in the middle", "cut off by the frame"])
def test_the_head_is_that_of_the_plain_filters(head, shift):
    """Within its box, and with holes by their labels: the same voxels in less time."""
    scan, _, _ = head
    volume = np.roll(scan.astype(np.float32), shift, axis=0)
    volume[: max(shift - 60, 0)] = 0
    volume[60:66, 60:66, 4:6] = 0  # a hole
    spacing = (1.5, 1.5, 5.0)
    smooth = ndimage.gaussian_filter(volume, [1.0, 1.0, 0.0])
    in_plane = ndimage.generate_binary_structure(3, 1)
    in_plane[1, 1, ::2] = False
    above = smooth > 0.08 * np.percentile(volume[volume > 0], 99)
    plain = ndimage.binary_fill_holes(largest_piece(above), in_plane)
    assert plain.any()
    np.testing.assert_array_equal(head_mask(volume, spacing), plain)
    assert not head_mask(np.zeros((5, 5, 2), np.float32), spacing).any()
