# SPDX-License-Identifier: Apache-2.0
"""Files: every broken one is named with reason and remedy; every written one is whole."""

import os

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from bundle.errors import EXIT_CODES, FlipmapError, OutputError, ScanError
from bundle.io.nifti import affine_in_mm, geometry_of, read_scan, write_map
from bundle.io.what_it_is import check_is_no_label_map
from bundle.notes import notes_of
from tests.conftest import data_folder


def save(path, data, affine=None):
    nib.save(nib.Nifti1Image(data, np.eye(4) if affine is None else affine), path)


def save_intent(path, name, parameters):
    image = nib.Nifti1Image(IMAGE, np.eye(4))
    image.header.set_intent(name, parameters)
    nib.save(image, path)


def nan_affine(path, data):
    path = path.with_suffix("")  # .nii: bytes that can be edited
    save(path, data)
    raw = bytearray(path.read_bytes())
    raw[254:256] = (1).to_bytes(2, "little")  # sform_code
    raw[280:296] = np.full(4, np.nan, "<f4").tobytes()  # srow_x
    path.write_bytes(bytes(raw))
    return path


IMAGE = np.random.RandomState(0).rand(20, 22, 9).astype(np.float32)


def truncated(path):
    save(path, IMAGE)
    path.write_bytes(path.read_bytes()[:-2000])


def short_header(path):
    path.write_bytes(b"\x5c\x01\x00\x00")


def rgb():
    """Three numbers a voxel."""
    image = np.zeros(IMAGE.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    for name in image.dtype.names:
        image[name] = 255 * IMAGE
    return image


def label_map():
    """Forty structures in patches, numbered as FreeSurfer does."""
    blocks = np.random.RandomState(1).permutation(np.r_[0, 2:30, 41:60, 77, 251:256])[:48].reshape(4, 4, 3)
    return np.kron(blocks, np.ones((6, 6, 4))).astype(np.int16)


BROKEN = {
    "absent": (lambda p: None, "no such file"),
    "empty": (lambda p: p.write_bytes(b""), "not readable"),
    "text": (lambda p: p.write_text("this is no image"), "not readable"),
    "truncated": (truncated, "not readable"),
    "short header": (short_header, "not readable"),
    "all zero": (lambda p: save(p, np.zeros((20, 20, 9), np.float32)), "every voxel is 0"),
    "constant": (lambda p: save(p, np.full((20, 20, 9), 7, np.int16)), "every voxel is 7"),
    "NaN": (lambda p: save(p, np.where(IMAGE > 0.5, np.nan, IMAGE)), "NaN"),
    "infinite": (lambda p: save(p, np.where(IMAGE > 0.99, np.inf, IMAGE)), "infinite"),
    "2-D": (lambda p: save(p, IMAGE[..., 0]), "2-D"),
    "4-D": (lambda p: save(p, np.stack([IMAGE] * 3, -1)), "4-D"),
    "5-D": (lambda p: save(p, IMAGE[..., None, None] * np.ones((1, 1, 1, 2, 2), np.float32)), "5-D"),
    "5-D of several": (lambda p: save(p, IMAGE[..., None, None] * np.ones((1, 1, 1, 1, 3), np.float32)), "5-D"),
    "t values by the header": (lambda p: save_intent(p, "t test", (9,)), "a statistical map by its header"),
    "z scores by the header": (lambda p: save_intent(p, "z score", ()), "a statistical map by its header"),
    "labels by the header": (lambda p: save_intent(p, "label", ()), "a label map by its header"),
    "colours": (lambda p: save(p, rgb()), "colours"),
    "complex numbers": (lambda p: save(p, (IMAGE + 1j * IMAGE).astype(np.complex64)), "complex"),
    "a lesion mask": (lambda p: save(p, (IMAGE > 0.9).astype(np.uint8)), "mask or label map: 2 "),
    "a mask as numbers with a point": (lambda p: save(p, (IMAGE > 0.9).astype(np.float32)), "mask or label map"),
    "a label map": (lambda p: save(p, label_map()), "mask or label map: 4"),
    "tiny": (lambda p: save(p, IMAGE[:4, :4, :4]), "too small"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_named(tmp_path, kind):
    make, reason = BROKEN[kind]
    path = tmp_path / "broken.nii.gz"
    make(path)
    with pytest.raises(ScanError, match=reason) as caught:
        read_scan(path)
    assert str(path) in str(caught.value)
    assert caught.value.remedy


def test_a_broken_affine_is_named(tmp_path):
    with pytest.raises(ScanError, match="affine"):
        read_scan(nan_affine(tmp_path / "x.nii.gz", IMAGE))


def test_contrasts_must_share_a_grid(tmp_path):
    save(tmp_path / "a.nii.gz", IMAGE)
    save(tmp_path / "b.nii.gz", IMAGE, np.diag([2.0, 1, 1, 1]))
    with pytest.raises(ScanError, match="not on the grid"):
        read_scan([tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"], channels=2)
    with pytest.raises(ScanError, match="1 contrasts, the network takes 2"):
        read_scan(tmp_path / "a.nii.gz", channels=2)


def test_a_fourth_axis_of_one_or_of_the_contrasts_is_fine(tmp_path):
    save(tmp_path / "one.nii.gz", IMAGE[..., None])
    save(tmp_path / "two.nii.gz", np.stack([IMAGE, 2 * IMAGE], -1))
    assert read_scan(tmp_path / "one.nii.gz").shape == (1, *IMAGE.shape)
    both = read_scan(tmp_path / "two.nii.gz", channels=2)
    np.testing.assert_allclose(both[1].numpy(), 2 * IMAGE)


@pytest.mark.parametrize("shape", [(1, 1), (1,), (1, 1, 1)])
def test_further_axes_of_one_volume_are_nothing(tmp_path, shape):
    save(tmp_path / "one.nii.gz", IMAGE.reshape(*IMAGE.shape, *shape))
    np.testing.assert_array_equal(read_scan(tmp_path / "one.nii.gz")[0].numpy(), IMAGE)


def test_a_mask_may_say_that_it_holds_labels(tmp_path):
    image = nib.Nifti1Image((IMAGE > 0.5).astype(np.uint8), np.eye(4))
    image.header.set_intent("label")
    nib.save(image, tmp_path / "mask.nii.gz")
    assert read_scan(tmp_path / "mask.nii.gz", labels=True).sum() == (IMAGE > 0.5).sum()


@pytest.mark.parametrize("times", [2, 3, 4])
def test_a_scan_enlarged_by_nearest_neighbour_is_a_scan(tmp_path, head, times):
    scan = head[0]
    grey = np.round(scan / scan.max() * 255).astype(np.uint8)
    for axes in ((times, times, 1), (times, times, times)):
        save(tmp_path / "x.nii.gz", np.kron(grey[8:-8, 8:-8], np.ones(axes, np.uint8)))
        assert read_scan(tmp_path / "x.nii.gz").shape[1] == times * (scan.shape[0] - 16)


def test_real_label_maps_are_refused_and_enlarged_scans_are_not():
    for path in sorted(data_folder("brain_labels").glob("*.nii.gz"))[:3]:
        with pytest.raises(ScanError, match="mask or label map"):
            read_scan(path)
        with pytest.raises(ScanError, match="mask or label map"):
            check_is_no_label_map(path, read_scan(path, labels=True).numpy()[:, ::3, ::3, ::3].repeat(2, 1))
    for path in sorted(data_folder("brain_lgg").glob("sub-*/anat/*.nii.gz"))[::40]:
        small = read_scan(path).numpy()[:, ::2, ::2]
        check_is_no_label_map(path, small.repeat(2, 1).repeat(2, 2))
        check_is_no_label_map(path, small[:, ::2, ::2].repeat(4, 1).repeat(4, 2))


def test_orientation_codes_of_zero_stay_zero_and_are_noted(tmp_path):
    image = nib.Nifti1Image(IMAGE, None)
    image.header.set_zooms((0.9, 1.1, 5))
    nib.save(image, tmp_path / "x.nii.gz")
    scan = read_scan(tmp_path / "x.nii.gz")
    assert "a guess" in notes_of(scan.meta)
    write_map(tmp_path / "map.nii.gz", IMAGE, **geometry_of(scan.meta))
    found = nib.load(tmp_path / "map.nii.gz")
    assert found.header["qform_code"] == found.header["sform_code"] == 0
    np.testing.assert_allclose(found.affine, nib.load(tmp_path / "x.nii.gz").affine)
    np.testing.assert_allclose(found.header.get_zooms(), (0.9, 1.1, 5))


@pytest.mark.parametrize(
    ("space", "code"), [("", 0), ("space: left-posterior-superior\n", 1), ("space dimension: 3\n", 1)]
)
def test_an_nrrd_without_space_lies_somehow(tmp_path, space, code):
    where = "space directions: (1,0,0) (0,1,0) (0,0,4)\nspace origin: (0,0,0)\n" if space else "spacings: 1 1 4\n"
    header = f"NRRD0004\ntype: float\ndimension: 3\n{space}sizes: 20 22 9\n{where}encoding: raw\nendian: little\n\n"
    (tmp_path / "x.nrrd").write_bytes(header.encode() + IMAGE.transpose(2, 1, 0).tobytes())
    scan = read_scan(tmp_path / "x.nrrd")
    assert geometry_of(scan.meta)["code"] == code and bool(notes_of(scan.meta)) == (code == 0)
    write_map(tmp_path / "map.nii.gz", IMAGE, **geometry_of(scan.meta))
    assert nib.load(tmp_path / "map.nii.gz").header["sform_code"] == code


@pytest.mark.parametrize("code", [1, 2, 4])
def test_a_map_has_the_code_of_its_scan(tmp_path, code):
    image = nib.Nifti1Image(IMAGE, np.diag([-1.0, 2, 3, 1]))
    image.set_sform(image.affine, code)
    nib.save(image, tmp_path / "x.nii.gz")
    scan = read_scan(tmp_path / "x.nii.gz")
    assert not notes_of(scan.meta)
    write_map(tmp_path / "map.nii.gz", IMAGE, **geometry_of(scan.meta))
    assert nib.load(tmp_path / "map.nii.gz").header["sform_code"] == code


@pytest.mark.parametrize(("unit", "scale"), [("micron", 1000.0), ("meter", 0.001), ("mm", 1.0), ("unknown", 1.0)])
def test_units_of_the_header_are_obeyed_and_kept(tmp_path, unit, scale):
    affine = np.diag([-0.9 * scale, 0.9 * scale, 5 * scale, 1])
    write_map(tmp_path / "x.nii.gz", IMAGE, affine, unit=unit)
    scan = read_scan(tmp_path / "x.nii.gz")
    for found in (scan.affine.numpy(), affine_in_mm(scan.meta)):
        np.testing.assert_allclose(found, np.diag([-0.9, 0.9, 5, 1]), rtol=1e-6)
    write_map(tmp_path / "map.nii.gz", IMAGE, **geometry_of(scan.meta))
    image = nib.load(tmp_path / "map.nii.gz")
    np.testing.assert_allclose(image.affine, affine, rtol=1e-6)
    assert image.header.get_xyzt_units()[0] == unit


def test_scaled_integers_are_read_in_their_units(tmp_path):
    image = nib.Nifti1Image((IMAGE * 100).astype(np.int16), np.eye(4))
    image.header.set_slope_inter(0.5, 3)
    nib.save(image, tmp_path / "s.nii.gz")
    expected = nib.load(tmp_path / "s.nii.gz").get_fdata()
    np.testing.assert_allclose(read_scan(tmp_path / "s.nii.gz")[0].numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.int16])
def test_written_is_read_back(tmp_path, dtype):
    affine = np.array([[-0.9, 0.1, 0, 5], [0.1, 0.9, -0.3, -7], [0, 0.2, 4.5, 1], [0, 0, 0, 1]])
    affine[:3, :3] = np.linalg.qr(affine[:3, :3])[0] @ np.diag([0.9, 0.9, 4.5])
    values = (IMAGE * 200).astype(dtype)
    path = tmp_path / "new" / "folder" / "map.nii.gz"
    write_map(path, values, affine, dtype)
    image = nib.load(path)
    assert image.get_data_dtype() == dtype
    np.testing.assert_array_equal(np.asarray(image.dataobj), values)
    for stored in (image.affine, image.get_sform(), image.get_qform()):
        np.testing.assert_allclose(stored, affine, atol=1e-5)
    assert image.header.get_xyzt_units()[0] == "mm"


def test_other_libraries_see_the_same_geometry(tmp_path):
    """SimpleITK, which works in LPS, reads the world position of every corner alike."""
    affine = np.array([[-0.9, 0, 0.4, 5], [0, 0.95, 0.3, -7], [0.3, -0.1, 4.5, 1], [0, 0, 0, 1]])
    affine[:3, :3] = np.linalg.qr(affine[:3, :3])[0] @ np.diag([0.9, 0.95, 4.5])
    write_map(tmp_path / "m.nii.gz", IMAGE, affine)
    image = sitk.ReadImage(str(tmp_path / "m.nii.gz"))
    for corner in ((0, 0, 0), (19, 0, 0), (0, 21, 0), (19, 21, 8)):
        world = affine[:3, :3] @ corner + affine[:3, 3]
        seen = np.array(image.TransformIndexToPhysicalPoint(corner)) * [-1, -1, 1]
        np.testing.assert_allclose(seen, world, atol=1e-3)
        assert image[corner] == pytest.approx(float(IMAGE[corner]))


def test_shears_are_not_straightened(tmp_path):
    tilted = np.array([[0.9, 0, 0, 5], [0, 0.9, 1.2, -7], [0, 0, 4.5, 1], [0, 0, 0, 1.0]])
    write_map(tmp_path / "tilted.nii.gz", IMAGE, tilted)
    image = nib.load(tmp_path / "tilted.nii.gz")
    np.testing.assert_allclose(image.affine, tilted, atol=1e-5)
    assert image.header["qform_code"] == 0


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "map.nii.gz"
    path.write_text("an older result")

    def full(image, name):
        with open(name, "wb") as file:
            file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bundle.io.nifti.nib.save", full)
    with pytest.raises(OutputError, match="No space left"):
        write_map(path, IMAGE, np.eye(4))
    assert os.listdir(tmp_path) == ["map.nii.gz"]
    assert path.read_text() == "an older result"


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_map(tmp_path / "file" / "map.nii.gz", IMAGE, np.eye(4))


def test_the_tree_of_errors():
    for kind in FlipmapError.__subclasses__():
        error = kind("where", "what is wrong", "What to do")
        assert str(error) == "where: what is wrong. What to do"
    assert len(set(EXIT_CODES.values())) == len(EXIT_CODES)
