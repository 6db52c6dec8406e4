# SPDX-License-Identifier: Apache-2.0
"""Formats beside NIfTI, written by other tools' libraries: the same voxels at the same places, and maps as NIfTI on
them.
"""

from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.io import netcdf_file

from bundle.cases import find_scans, stem
from bundle.cli import main
from bundle.errors import ScanError
from bundle.io.nifti import read_scan
from bundle.io.volumes import READERS
from tests.test_mri import oblique, reoriented

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def by_simpleitk(path, array, affine):
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    world = LPS @ affine
    spacing = np.linalg.norm(world[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((world[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(world[:3, 3].tolist())
    sitk.WriteImage(image, str(path))


def by_pynrrd(path, array, affine):
    world = LPS @ affine
    header = {"space": "left-posterior-superior", "space directions": world[:3, :3].T, "space origin": world[:3, 3]}
    nrrd.write(str(path), array, header)


def by_nibabel(kind):
    def write(path, array, affine):
        nib.save(kind(array.astype(np.float32), affine), path)

    return write


def by_netcdf(path, array, affine):
    """MINC 1.0 as the MNI's tools write it: a netCDF of dimensions with start, step and direction cosines."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    cosines = affine[:3, :3] / spacing
    starts = np.linalg.solve(cosines, affine[:3, 3])
    with netcdf_file(path, "w") as file:
        for axis, name in enumerate(("xspace", "yspace", "zspace")):
            file.createDimension(name, array.shape[axis])
            dimension = file.createVariable(name, "i4", ())
            dimension.step, dimension.start = float(spacing[axis]), float(starts[axis])
            dimension.direction_cosines = cosines[:, axis].copy()
            dimension.spacing = "regular__"
        image = file.createVariable("image", "i2", ("xspace", "yspace", "zspace"))
        image[:] = array
        image.signtype, image.valid_range = "signed__", np.array([-32768.0, 32767.0])
        for name, value in (("image-min", -32768.0), ("image-max", 32767.0)):
            file.createVariable(name, "f8", ("xspace",))[:] = value


#: Ending → who writes it.
WRITERS = {
    "nrrd by pynrrd": (".nrrd", by_pynrrd),
    "nhdr by pynrrd": (".nhdr", by_pynrrd),
    "nrrd by ITK": (".nrrd", by_simpleitk),
    "mha by ITK": (".mha", by_simpleitk),
    "mhd by ITK": (".mhd", by_simpleitk),
    "nifti by ITK": (".nii.gz", by_simpleitk),
    "nifti in two files by ITK": (".hdr", by_simpleitk),
    "mgz by nibabel": (".mgz", by_nibabel(nib.MGHImage)),
    "minc by netCDF": (".mnc", by_netcdf),
    "mgh by nibabel": (".mgh", by_nibabel(nib.MGHImage)),
}


@pytest.mark.parametrize("codes", ["LPS", "RAS", "PSR", "oblique"])
@pytest.mark.parametrize("kind", WRITERS)
def test_every_voxel_is_where_it_was(tmp_path, head, kind, codes):
    ending, write = WRITERS[kind]
    scan, _, affine = head
    array, affine = (scan, oblique(affine)) if codes == "oblique" else reoriented(scan, affine, codes)
    path = tmp_path / f"scan{ending}"
    write(path, array.astype(np.int16), affine)
    found = read_scan(path)
    np.testing.assert_allclose(found.affine.numpy(), affine, atol=1e-3)
    np.testing.assert_array_equal(found[0].numpy(), array)


def test_minc_that_nibabel_brings_along():
    found = read_scan(Path(nib.__file__).parent / "tests" / "data" / "minc1_1_scale.mnc")
    assert found.shape == (1, 10, 20, 20)
    assert float(found.max()) == pytest.approx(0.2094327615, abs=1e-7)
    np.testing.assert_array_equal(found.affine[:3], [[0, 0, 2, -20], [0, 2, 0, -20], [2, 0, 0, -10]])


def test_analyze_has_no_orientation_of_its_own(tmp_path, head):
    """Voxels and their size come through; the axes are nibabel's convention for Analyze."""
    scan, _, affine = head
    nib.save(nib.AnalyzeImage(scan.astype(np.int16), affine), tmp_path / "a.img")
    found = read_scan(tmp_path / "a.hdr")
    np.testing.assert_array_equal(found[0].numpy(), scan)
    np.testing.assert_allclose(np.abs(np.diag(found.affine.numpy())), np.abs(np.diag(affine)), atol=1e-4)
    assert [case["name"] for case in find_scans(tmp_path)] == ["a"], "two files are one scan"


def test_a_folder_of_all_of_them_is_mapped(tmp_path, head):
    scan, _, affine = head
    (tmp_path / "in").mkdir()
    for number, (ending, write) in enumerate(WRITERS.values()):
        write(tmp_path / "in" / f"s{number}{ending}", scan[..., 3:8].astype(np.int16), affine)
    assert main(["run", str(tmp_path / "in"), str(tmp_path / "out"), "-q", "--set", "precision=float32"]) == 0
    maps = [nib.load(path) for path in sorted((tmp_path / "out").glob("*_desc-anomaly_map.nii.gz"))]
    assert len(maps) == len(WRITERS)
    for one in maps:
        assert one.shape == (*scan.shape[:2], 5)
        np.testing.assert_allclose(one.affine, affine, atol=1e-3)
        np.testing.assert_allclose(np.asarray(one.dataobj), np.asarray(maps[0].dataobj), atol=1e-3)


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".mgz", ".nii.gz"])
@pytest.mark.parametrize("broken", [b"", b"NRRD0004\ntype: short\n", b"nothing of the kind " * 50])
def test_a_broken_file_is_named(tmp_path, ending, broken):
    path = tmp_path / f"x{ending}"
    path.write_bytes(broken)
    with pytest.raises(ScanError, match="not readable as") as caught:
        read_scan(path)
    assert caught.value.remedy


def test_a_header_that_claims_too_much_is_refused(tmp_path):
    path = tmp_path / "x.nrrd"
    claimed = "NRRD0004\ntype: short\ndimension: 3\nsizes: 32000 32000 32000\nencoding: raw\nendian: little\n\n12"
    path.write_text(claimed)
    with pytest.raises(ScanError):
        read_scan(path)


@pytest.mark.parametrize("ending", READERS)
def test_names(ending):
    assert stem(f"folder/a.b{ending}") == "a.b"
