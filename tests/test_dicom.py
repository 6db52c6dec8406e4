# SPDX-License-Identifier: Apache-2.0
"""DICOM: the geometry that other readers find, and every series that would be read wrong refused by name."""

import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from scipy import ndimage

from bundle.errors import DatasetError, ScanError
from bundle.io.dicom import find_series, read_series
from bundle.io.dicom_report import write_findings
from bundle.io.dicom_results import BANDS, source_of, write_bands, write_parametric_map, write_segmentation
from bundle.scoring.findings import find_findings, label_findings
from tests.dicom_files import recompressed, write_enhanced, write_series
from tests.test_mri import oblique, reoriented

DCIODVFY = shutil.which("dciodvfy")  # Debian package dicom3tools
DCM2NIIX = shutil.which("dcm2niix", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def volume():
    rng = np.random.RandomState(0)
    return rng.rand(24, 30, 8).astype(np.float32) * 900


AFFINE = np.array([[-0.9, 0, 0, 12], [0, -0.8, 0, 33], [0, 0, 5.0, -20], [0, 0, 0, 1]])


def one(folder):
    (series,) = find_series(folder)
    return series


@pytest.mark.parametrize("codes", ["LPS", "RAS", "PSR", "AIL"])
@pytest.mark.parametrize("tilt", [0, 23])
def test_geometry_agrees_with_other_readers(tmp_path, volume, codes, tilt):
    array, affine = reoriented(volume, oblique(AFFINE, tilt), codes)
    write_series(tmp_path / "deep" / "down", array, affine)
    scan = read_series(one(tmp_path))
    mine, its_affine = scan[0].numpy(), scan.affine.numpy()

    # The same voxels at the same places of the world, whichever way the slices are counted.
    to_mine = np.linalg.inv(its_affine) @ affine
    index = np.stack(np.meshgrid(*map(np.arange, array.shape), indexing="ij"), -1).reshape(-1, 3)
    there = index @ to_mine[:3, :3].T + to_mine[:3, 3]
    np.testing.assert_allclose(there, np.round(there), atol=1e-3)
    found = mine[tuple(np.round(there).astype(int).T)]
    np.testing.assert_allclose(found, array.reshape(-1), atol=0.2)

    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "deep" / "down")))
    image = reader.Execute()
    for voxel in ((0, 0, 0), (5, 7, 2), (array.shape[0] - 1, 0, array.shape[2] - 1)):
        world = np.array(image.TransformIndexToPhysicalPoint(voxel)) * [-1, -1, 1]
        place = np.linalg.inv(its_affine) @ [*world, 1]
        np.testing.assert_allclose(place[:3], np.round(place[:3]), atol=1e-3)
        assert mine[tuple(np.round(place[:3]).astype(int))] == pytest.approx(image[voxel], abs=0.2)


@pytest.mark.skipif(DCM2NIIX is None, reason="dcm2niix is not installed")
def test_geometry_agrees_with_dcm2niix(tmp_path, volume):
    write_series(tmp_path / "in", volume, oblique(AFFINE, 15))
    (tmp_path / "out").mkdir()
    subprocess.run([DCM2NIIX, "-z", "n", "-o", tmp_path / "out", tmp_path / "in"], check=True, capture_output=True)
    other = nib.load(next((tmp_path / "out").glob("*.nii")))
    scan = read_series(one(tmp_path / "in"))
    between = np.linalg.inv(scan.affine.numpy()) @ other.affine
    np.testing.assert_allclose(np.abs(between[:3, :3]).sum(0), 1, atol=1e-3)
    for voxel in ((0, 0, 0), (3, 9, 6)):
        place = np.round((between @ [*voxel, 1])[:3]).astype(int)
        assert scan[0].numpy()[tuple(place)] == pytest.approx(other.get_fdata()[voxel], abs=0.3)


def duplicate(image, z):
    if z == 3:
        image.ImagePositionPatient = [*image.ImagePositionPatient[:2], image.ImagePositionPatient[2] - 5]


def shifted(image, z):
    if z > 4:
        image.ImagePositionPatient = [*image.ImagePositionPatient[:2], image.ImagePositionPatient[2] + 1.5]


def turned(image, z):
    if z == 2:
        image.ImageOrientationPatient = [0, 1, 0, 1, 0, 0]


def tilted(image, z):
    x, y, depth = image.ImagePositionPatient
    image.ImagePositionPatient = [x, y + 1.0 * z, depth]


def smaller(image, z):
    if z == 0:
        image.PixelSpacing = [2.0, 2.0]


def without_position(image, z):
    del image.ImagePositionPatient


def computed(image, z):
    image.Modality, image.SOPClassUID = "CT", "1.2.840.10008.5.1.4.1.1.2"
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID


REFUSED = {
    "2 slices are missing": lambda i, z: z not in (3, 4),
    "images at one position": duplicate,
    "uneven slice distances": shifted,
    "different orientations": turned,
    "a tilt of 11.3 degrees": tilted,
    "different sizes": smaller,
    "ImagePositionPatient is missing in 8 of 8 files": without_position,
    "3 slices, at least 5": lambda i, z: z < 3,
    "a localizer": lambda i, z: setattr(i, "ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]),
    "a mosaic": lambda i, z: setattr(i, "ImageType", ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]),
    "a derived series": lambda i, z: setattr(i, "ImageType", ["DERIVED", "PRIMARY", "ADC"]),
    "CT objects": computed,
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_would_be_read_wrong_is_refused(tmp_path, volume, reason):
    write_series(tmp_path, volume, AFFINE, REFUSED[reason])
    with pytest.raises(ScanError, match=reason) as caught:
        read_series(one(tmp_path))
    assert caught.value.remedy
    assert "IM0" in caught.value.where


@pytest.mark.parametrize("tilt", [0, 23])
def test_enhanced_multi_frame(tmp_path, volume, tilt):
    """Frames in any order: the same volume as its single-frame twin, and as SimpleITK's where that sorts them."""
    affine = oblique(AFFINE, tilt)
    write_series(tmp_path / "single", volume, affine)
    write_enhanced(tmp_path / "multi.dcm", volume, affine)
    expected, scan = read_series(one(tmp_path / "single")), read_series(one(tmp_path / "multi.dcm"))
    between = np.linalg.inv(expected.affine.numpy()) @ scan.affine.numpy()
    np.testing.assert_allclose(np.abs(between[:3, :3]).sum(0), 1, atol=1e-4)
    for voxel in ((0, 0, 0), (5, 9, 2), (3, 1, volume.shape[2] - 1)):
        place = tuple(np.round((between @ [*voxel, 1])[:3]).astype(int))
        assert expected[0].numpy()[place] == pytest.approx(scan[0].numpy()[voxel], abs=0.01)


def test_copies_of_an_image_count_once(tmp_path, volume):
    paths = write_series(tmp_path / "a", volume, AFFINE)
    (tmp_path / "b").mkdir()
    shutil.copy(paths[2], tmp_path / "b" / "copy.dcm")
    assert read_series(one(tmp_path)).shape == (1, *volume.shape)


#: Transfer syntaxes that archives keep images in.
SYNTAXES = {
    "JPEG Lossless, SV1": "1.2.840.10008.1.2.4.70",
    "JPEG Lossless": "1.2.840.10008.1.2.4.57",
    "JPEG 2000 Lossless": "1.2.840.10008.1.2.4.90",
    "JPEG-LS Lossless": "1.2.840.10008.1.2.4.80",
    "RLE": "1.2.840.10008.1.2.5",
    "deflated": "1.2.840.10008.1.2.1.99",
}


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("enhanced", [False, True])
def test_compressed(tmp_path, volume, syntax, enhanced):
    """Lossless is lossless: the very numbers of the series as it was, slice by slice."""
    if enhanced:
        paths = [write_enhanced(tmp_path / "multi.dcm", volume, AFFINE)]
    else:
        paths = write_series(tmp_path, volume, AFFINE)
    plain = read_series(one(tmp_path))
    for path in paths:
        recompressed(path, SYNTAXES[syntax])
    scan = read_series(one(tmp_path))
    np.testing.assert_array_equal(scan.numpy(), plain.numpy())
    np.testing.assert_array_equal(scan.affine, plain.affine)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_node_takes_what_can_be_read(syntax):
    pytest.importorskip("pynetdicom")
    from bundle.archive.listener import _syntaxes

    assert SYNTAXES[syntax] in _syntaxes()


def test_truncated_pixels_are_named(tmp_path, volume):
    paths = write_series(tmp_path, volume, AFFINE)
    paths[4].write_bytes(paths[4].read_bytes()[:-400])
    with pytest.raises(ScanError, match=r"cut short \(1040 of 1440 bytes of pixels\)"):
        read_series(one(tmp_path))


def test_series_are_told_apart_and_chosen_by_rule(tmp_path, volume):
    write_series(tmp_path / "x", volume, AFFINE, SeriesDescription="T1 tra", SeriesNumber=2)
    write_series(tmp_path / "x" / "y", volume, AFFINE, SeriesDescription="t2_tirm_flair", SeriesNumber=7)
    (tmp_path / "notes.txt").write_text("no image")
    found = find_series(tmp_path)
    assert [series.number for series in found] == [2, 7]
    assert [series.matches("flair|tirm") for series in found] == [False, True]
    assert all(series.matches(None) for series in found)


def test_no_dicom_at_all(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(DatasetError, match="no DICOM file"):
        find_series(tmp_path)


#: What dciodvfy says of every label map as long as it is older than they are (Supplement 243 of 2024).
TOO_NEW = ("Information Object Not found", "SegmentNumber not monotonically increasing from one")


def assert_valid(path, unknown=()):
    """No error by dciodvfy, where that is installed."""
    if DCIODVFY:
        said = subprocess.run([DCIODVFY, "-new", path], capture_output=True, text=True, check=False).stderr
        errors = [line for line in said.splitlines() if line.startswith("Error")]
        assert not [line for line in errors if not any(text in line for text in unknown)], said


@pytest.mark.parametrize("empty", [False, True])
def test_bands_and_findings_read_back_and_are_valid(tmp_path, volume, empty):
    """Label maps on the source's geometry, and a report of which every group points at a segment that is there."""
    write_series(tmp_path / "in", volume, oblique(AFFINE, 11))
    series = one(tmp_path / "in")
    scan = read_series(series)
    anomaly = ndimage.gaussian_filter(scan[0].numpy(), 2)
    anomaly = (anomaly - anomaly.min()) / np.ptp(anomaly) * (1.5 if empty else 5)
    mask = anomaly > 2
    affine = scan.affine.numpy()
    findings = [asdict(found) for found in find_findings(anomaly, mask, affine, 2.0)]
    assert bool(findings) != empty
    source = source_of(series, ["settings"])
    bands, segments, report = (tmp_path / f"{name}.dcm" for name in ("bands", "segments", "report"))
    write_bands(bands, anomaly, source, "a method")
    ranks = label_findings(mask, findings)
    write_findings(segments, report, ranks, findings, source, "a method")
    for path, expected in ((bands, np.digitize(anomaly, list(BANDS))), (segments, ranks)):
        stored = highdicom.seg.segread(path)
        assert stored.SegmentationType == ("LABELMAP" if path == bands else "BINARY")
        back = stored.get_volume(combine_segments=True)
        np.testing.assert_array_equal(np.transpose(back.array, [2, 1, 0]), expected)
        mine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ back.affine[:, [2, 1, 0, 3]]
        np.testing.assert_allclose(mine, affine, atol=1e-3)
        assert_valid(path, TOO_NEW if path == bands else ())
    assert {rank: int((ranks == rank).sum()) for rank in range(1, len(findings) + 1)} == {
        one["rank"]: round(one["volume_ml"] * 1000 / abs(np.linalg.det(affine[:3, :3]))) for one in findings
    }
    assert_valid(report)
    said = highdicom.sr.srread(report)
    assert said.PatientID == "4711"
    groups = said.content.get_volumetric_roi_measurement_groups()
    assert len(groups) == len(findings)
    present = {item.SegmentNumber for item in highdicom.seg.segread(segments).SegmentSequence}
    for group, found in zip(groups, findings, strict=True):
        (pointed,) = [item for item in group[0].ContentSequence if "ReferencedSOPSequence" in item]
        (reference,) = pointed.ReferencedSOPSequence
        assert reference.ReferencedSOPInstanceUID == highdicom.seg.segread(segments).SOPInstanceUID
        assert reference.ReferencedSegmentNumber == found["rank"]
        measured = {m.name.meaning: m.value for m in group.get_measurements()}
        assert measured["Volume"] == pytest.approx(found["volume_ml"], rel=1e-4)
        assert measured["Maximum"] == pytest.approx(found["peak"], rel=1e-4)
        assert group.tracking_identifier == f"finding {found['rank']}"
        assert found["rank"] in present


@pytest.mark.parametrize("tilt", [0, 23])
@pytest.mark.parametrize("empty", [False, True])
def test_results_read_back_and_are_valid(tmp_path, volume, tilt, empty):
    """Map and mask on the source's geometry, bit for bit, and no error by dciodvfy where that is installed."""
    write_series(tmp_path / "in", volume, oblique(AFFINE, tilt))
    series = one(tmp_path / "in")
    scan = read_series(series)
    anomaly = scan[0].numpy() / 200
    mask = (anomaly > 3) & (not empty)
    paths = tmp_path / "map.dcm", tmp_path / "seg.dcm"
    source = source_of(series, ["settings"])
    write_parametric_map(paths[0], anomaly, source, "units", "a map")
    write_segmentation(paths[1], mask, source, "a method")
    for path, expected in zip(paths, (anomaly, mask), strict=True):
        stored = highdicom.imread(path)
        back = stored.get_volume(combine_segments=True) if "Segment" in type(stored).__name__ else stored.get_volume()
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ back.affine[:, [2, 1, 0, 3]]
        np.testing.assert_allclose(affine, scan.affine.numpy(), atol=1e-3)
        values = np.transpose(back.array, [2, 1, 0])
        assert values.shape == expected.shape
        np.testing.assert_array_equal(values.astype(np.float32), expected.astype(np.float32))
        assert stored.PatientID == "4711"
        assert stored.StudyInstanceUID == pydicom.dcmread(series.files[0]).StudyInstanceUID
        assert "research only" in stored.SeriesDescription
        assert_valid(path)
    uids = {}
    for name, made_from in (("same", ["settings"]), ("other", ["other settings"]), ("more", ["settings", "input"])):
        write_segmentation(tmp_path / f"{name}.dcm", mask, source_of(series, made_from), "a method")
        uids[name] = highdicom.imread(tmp_path / f"{name}.dcm").SOPInstanceUID
    assert uids["same"] == highdicom.imread(paths[1]).SOPInstanceUID
    assert len(set(uids.values())) == 3, "what follows from something else is another object"
