# SPDX-License-Identifier: Apache-2.0
"""Headers as others write them: read right or named with the true cause, and never the end of the folder."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.uid import generate_uid

from bundle.errors import FlipmapError, ScanError
from bundle.io.dicom import find_series, read_series
from bundle.io.dicom_frames import TAGS
from bundle.io.dicom_quiet import quiet
from bundle.io.dicom_results import results_of, source_of, write_parametric_map, write_segmentation
from tests.dicom_files import write_enhanced, write_series
from tests.test_dicom import AFFINE, one
from tests.test_mri import oblique

SMALL = np.random.RandomState(0).rand(9, 10, 6).astype(np.float32) * 900
#: What pixels are read by, beside the attributes of `TAGS`.
PIXELS = (
    *("RescaleSlope", "RescaleIntercept", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("SamplesPerPixel", "PhotometricInterpretation", "FrameOfReferenceUID", "SpacingBetweenSlices", "SliceThickness"),
    *("WindowCenter", "WindowWidth", "PresentationLUTShape", "SpecificCharacterSet", "LossyImageCompression"),
)
ATTRIBUTES = sorted({*TAGS, *PIXELS} - {"PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"})
ODD = st.one_of(
    st.none(),
    st.sampled_from([b"", b" ", b"***", b"0", b"1", b"-1", b"1\\2", b"1\\2\\3", b"0\\0", b"-1\\-1", b"nan\\nan"]),
    st.sampled_from(
        [b"1e400\\1\\1", b"inf", b"1\\0\\0\\1\\0\\0", b"a\\b", b"\\\\", b"1,5\\1,5", b"0.5\\", b"ORIGINAL"]
    ),
    st.sampled_from([b"DERIVED", b"P", b"\xff\xfe", "Ä".encode(), b"9" * 300, b"1.2.3.x", b"\0\0", b"\1\0\2\0"]),
    st.binary(max_size=12),
)


def odd(image, tag, content):
    """Set an attribute to bytes, whatever they are; None takes it out."""
    number = pydicom.tag.Tag(pydicom.datadict.tag_for_keyword(tag))
    kind = pydicom.datadict.dictionary_VR(number).split(" ")[0]
    image.pop(number, None)
    if content is not None:
        content += b" " * (len(content) % 2)
        image[number] = RawDataElement(number, kind, len(content), content, 0, False, True)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    write_series(folder, SMALL, AFFINE, SeriesNumber=1)
    return folder


@pytest.mark.parametrize("enhanced", [False, True])
@settings(max_examples=int(os.environ.get("FLIPMAP_EXAMPLES", "25")), deadline=None)
@given(tag=st.sampled_from(ATTRIBUTES), content=ODD, which=st.sampled_from(["first", "last", "all"]))
def test_one_unusual_header_never_ends_a_folder(good, enhanced, tag, content, which):
    """A good series beside it is as before; the unusual one is read, or refused with a reason and a remedy."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shutil.copytree(good, folder / "good")
        with quiet():
            if enhanced:
                paths = [write_enhanced(folder / "in.dcm", SMALL, AFFINE)]
            else:
                paths = write_series(folder / "in", SMALL, AFFINE, SeriesNumber=2)
            for path in {"first": paths[:1], "last": paths[-1:], "all": paths}[which]:
                image = pydicom.dcmread(path)
                odd(image, tag, content)
                try:
                    image.save_as(path)
                except Exception:  # no such file can be there
                    return
        series = find_series(folder)
        whole = [one for one in series if one.uid == pydicom.dcmread(next(good.iterdir())).SeriesInstanceUID]
        assert [one.problem for one in whole] == [""]
        for one_series in series:
            assert not one_series.problem or one_series.remedy
            try:
                scan = read_series(one_series)
                with results_of(one_series):
                    source = source_of(one_series, [])
                    write_segmentation(folder / "mask.dcm", scan[0].numpy() > 500, source, "a method")
            except FlipmapError as error:
                assert error.reason
                assert error.remedy


#: A change of the images of a series → the reason that it is refused for.
UNUSUAL = {
    "PixelSpacing is missing in 6 of 6 files": lambda i, z: i.__delattr__("PixelSpacing"),
    "PixelSpacing is missing in 1 of 6 files": lambda i, z: odd(i, "PixelSpacing", b"" if z == 2 else b"0.9\\0.8"),
    "ImagePositionPatient has 2 values, not 3 in 6 of 6": lambda i, z: odd(i, "ImagePositionPatient", b"1\\2"),
    "PixelSpacing is no number": lambda i, z: odd(i, "PixelSpacing", b"***\\***"),
    "PixelSpacing is not above 0": lambda i, z: odd(i, "PixelSpacing", b"0\\0"),
    "ImagePositionPatient is not finite": lambda i, z: odd(i, "ImagePositionPatient", b"nan\\0\\0"),
    "ImageOrientationPatient is no pair of directions": lambda i, z: odd(
        i, "ImageOrientationPatient", b"0\\0\\0\\0\\0\\0"
    ),
    "Rows is missing": lambda i, z: odd(i, "Rows", None),
    "its files have no SeriesInstanceUID": lambda i, z: odd(i, "SeriesInstanceUID", None),
    "different images share one SOPInstanceUID": lambda i, z: odd(i, "SOPInstanceUID", b"1.2.3"),
}


@pytest.mark.parametrize("reason", UNUSUAL)
def test_what_is_unusual_is_named(tmp_path, reason):
    with quiet():
        write_series(tmp_path / "bad", SMALL, AFFINE, UNUSUAL[reason])
    write_series(tmp_path / "good", SMALL, AFFINE, SeriesNumber=9)
    bad, whole = find_series(tmp_path)
    assert read_series(whole).shape == (1, *SMALL.shape)
    with pytest.raises(ScanError, match=reason):
        read_series(bad)


def derived(image):
    image.ImageType = ["DERIVED", "SECONDARY", "M"]


@pytest.mark.parametrize("first", [True, False])
def test_all_files_of_a_series_speak_for_it(tmp_path, first, caplog):
    """Whichever comes first: originals are the series, and a derived picture beside them is left out by name."""
    write_series(tmp_path, SMALL, AFFINE, lambda i, z: derived(i) if z == (0 if first else 5) else None)
    series = one(tmp_path)
    assert (series.meant, series.problem, len(series.files)) == (True, "", 5)
    assert "left out of 6 files: 1 derived (DERIVED, SECONDARY, M)" in caplog.text
    assert read_series(series).shape == (1, 9, 10, 5)


@pytest.mark.parametrize("first", [True, False])
def test_a_series_of_which_most_is_derived_is_derived(tmp_path, first):
    write_series(tmp_path, SMALL, AFFINE, lambda i, z: None if z == (0 if first else 5) else derived(i))
    series = one(tmp_path)
    assert not series.meant
    assert series.problem == "a derived series (DERIVED, SECONDARY, M), by 5 of its 6 files; --derived takes it"


def test_derived_series_can_be_asked_for(tmp_path):
    write_series(tmp_path / "mpr", SMALL, AFFINE, lambda i, z: derived(i), SeriesNumber=1)
    write_series(
        tmp_path / "adc", SMALL, AFFINE, lambda i, z: setattr(i, "ImageType", ["DERIVED", "PRIMARY", "ADC"]),
        SeriesNumber=2,
    )  # fmt: skip
    mpr, adc = find_series(tmp_path)
    assert not mpr.meant and "--derived" in mpr.problem
    assert not adc.meant and "--derived" not in adc.problem
    mpr, adc = find_series(tmp_path, derived=True)
    assert mpr.meant and read_series(mpr).shape == (1, *SMALL.shape)
    assert not adc.meant, "computed, no scan of a contrast"


def test_a_description_may_stand_in_any_file(tmp_path):
    write_series(tmp_path, SMALL, AFFINE, lambda i, z: odd(i, "SeriesDescription", b"" if z < 5 else b"FLAIR"))
    assert one(tmp_path).title == "FLAIR"


def test_rounding_of_orientation_and_spacing(tmp_path):
    """The eighth decimal, as GE writes it, is no other orientation."""
    rng = np.random.RandomState(0)

    def jitter(image, z):
        image.ImageOrientationPatient = [f"{v + rng.normal(0, 1e-8):.12f}" for v in image.ImageOrientationPatient]
        image.PixelSpacing = [f"{v + rng.normal(0, 1e-6):.9f}" for v in image.PixelSpacing]

    write_series(tmp_path / "plain", SMALL, oblique(AFFINE, 20))
    write_series(tmp_path / "jitter", SMALL, oblique(AFFINE, 20), jitter)
    plain, jittered = read_series(one(tmp_path / "plain")), read_series(one(tmp_path / "jitter"))
    np.testing.assert_array_equal(jittered.numpy(), plain.numpy())
    np.testing.assert_allclose(jittered.affine, plain.affine, atol=1e-4)


@pytest.mark.parametrize("value", [None, b"", b"ANON"])
@pytest.mark.parametrize("enhanced", [False, True])
def test_without_a_frame_of_reference(tmp_path, value, enhanced):
    with quiet():
        if enhanced:
            paths = [write_enhanced(tmp_path / "in.dcm", SMALL, AFFINE)]
        else:
            paths = write_series(tmp_path / "in.dcm", SMALL, AFFINE)
        plain = read_series(one(tmp_path / "in.dcm"))
        for path in paths:
            image = pydicom.dcmread(path)
            odd(image, "FrameOfReferenceUID", value)
            image.save_as(path)
    scan = read_series(one(tmp_path / "in.dcm"))
    np.testing.assert_array_equal(scan.numpy(), plain.numpy())
    np.testing.assert_array_equal(scan.affine, plain.affine)


@pytest.mark.parametrize("meta", [True, False])
def test_without_preamble(tmp_path, meta):
    """With the header of the file behind it, or without that as well."""
    paths = write_series(tmp_path / "in", SMALL, AFFINE)
    plain = read_series(one(tmp_path / "in"))
    for path in paths:
        image = pydicom.dcmread(path)
        content = path.read_bytes()[132:]
        if not meta:
            content = content[12 + image.file_meta.FileMetaInformationGroupLength :]
        path.write_bytes(content)
    scan = read_series(one(tmp_path / "in"))
    np.testing.assert_array_equal(scan.numpy(), plain.numpy())
    (tmp_path / "in" / "note").write_bytes(b"\x08\x00no DICOM at all")
    assert one(tmp_path / "in").problem == ""


def test_enhanced_with_a_private_dimension(tmp_path):
    """As Philips writes it; read, and its results written."""
    path = write_enhanced(tmp_path / "in.dcm", SMALL, AFFINE)
    plain = read_series(one(path))
    image = pydicom.dcmread(path)
    private = pydicom.Dataset()
    private.DimensionOrganizationUID = image.DimensionOrganizationSequence[0].DimensionOrganizationUID
    private.DimensionIndexPointer, private.FunctionalGroupPointer = 0x2005106E, 0x2005140F
    private.DimensionIndexPrivateCreator = private.FunctionalGroupPrivateCreator = "Philips MR Imaging DD 001"
    image.DimensionIndexSequence = [*image.DimensionIndexSequence, private]
    for group in image.PerFrameFunctionalGroupsSequence:
        content = group.FrameContentSequence[0]
        content.DimensionIndexValues = [content.DimensionIndexValues, 1]
    image.save_as(path)
    series = one(path)
    scan = read_series(series)
    np.testing.assert_array_equal(scan.numpy(), plain.numpy())
    write_segmentation(tmp_path / "mask.dcm", scan[0].numpy() > 500, source_of(series, []), "a method")


def test_several_volumes_in_one_object_come_apart(tmp_path):
    """Each is read as its own, and its results point at its own frames."""
    path = write_enhanced(tmp_path / "in.dcm", SMALL, AFFINE)
    image = pydicom.dcmread(path)
    stored, groups = image.pixel_array, []
    for time in (1, 2):
        for group in image.PerFrameFunctionalGroupsSequence:
            twin = copy.deepcopy(group)
            twin.FrameContentSequence[0].TemporalPositionIndex = time
            groups.append(twin)
    image.PerFrameFunctionalGroupsSequence, image.NumberOfFrames = groups, len(groups)
    plain = read_series(one(path)).numpy()
    image.PixelData = image.PixelData + (stored.max() - stored).tobytes()
    image.save_as(path)
    first, second = find_series(path)
    assert (first.part, second.part) == ("phase-1", "phase-2")
    np.testing.assert_array_equal(read_series(first).numpy(), plain)
    np.testing.assert_allclose(read_series(second).numpy(), plain.max() - plain, atol=0.01)
    uids = set()
    for series, own in ((first, range(1, 7)), (second, range(7, 13))):
        scan = read_series(series)
        source = source_of(series, [])
        write_segmentation(tmp_path / "mask.dcm", scan[0].numpy() > 0, source, "a method")
        write_parametric_map(tmp_path / "map.dcm", scan[0].numpy(), source, "units", "a map")
        for name in ("mask", "map"):
            result = pydicom.dcmread(tmp_path / f"{name}.dcm")
            uids.add(result.SOPInstanceUID)
            assert {int(number) for number in frames_that_it_points_at(result)} == set(own), name
    assert len(uids) == 4


def test_several_objects_of_a_series_are_volumes_of_their_own(tmp_path):
    """As Siemens writes them since XA; a copy of one is the same again."""
    first = write_enhanced(tmp_path / "b.dcm", SMALL, AFFINE, InstanceNumber=1)
    same = pydicom.dcmread(first).SeriesInstanceUID
    write_enhanced(tmp_path / "a.dcm", SMALL * 0.5, AFFINE, InstanceNumber=2, SeriesInstanceUID=same)
    shutil.copy(first, tmp_path / "c.dcm")
    parts = find_series(tmp_path)
    assert [(part.part, part.problem, part.frames) for part in parts] == [("object-1", "", ()), ("object-2", "", ())]
    assert parts[1].files == (tmp_path / "a.dcm",)
    assert read_series(parts[0]).shape == (1, *SMALL.shape)
    (tmp_path / "a.dcm").unlink()
    assert one(tmp_path).part == ""


def frames_that_it_points_at(result):
    for group in result.PerFrameFunctionalGroupsSequence:
        for derivation in group.DerivationImageSequence:
            yield from (image.ReferencedFrameNumber for image in derivation.SourceImageSequence)


def without_decoder(monkeypatch, paths):
    from tests.dicom_files import recompressed

    for path in paths:
        recompressed(path, "1.2.840.10008.1.2.4.70")
    from pydicom.pixels.decoders import base

    monkeypatch.setattr(base.Decoder, "is_available", property(lambda self: False))


def damaged(monkeypatch, paths):
    from tests.dicom_files import recompressed

    for path in paths:
        recompressed(path, "1.2.840.10008.1.2.4.70")
        image = pydicom.dcmread(path)
        (frame,) = pydicom.encaps.generate_frames(image.PixelData, number_of_frames=1)
        image.PixelData = pydicom.encaps.encapsulate([frame[: len(frame) // 4] + bytes(range(40))])
        image["PixelData"].VR = "OB"
        image.save_as(path)


def ends_early(monkeypatch, paths):
    from tests.dicom_files import recompressed

    for path in paths:
        recompressed(path, "1.2.840.10008.1.2.4.70")
        path.write_bytes(path.read_bytes()[:-60])


def no_image(monkeypatch, paths):
    for path in paths:
        image = pydicom.dcmread(path)
        image.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"  # MPEG2
        image.PixelData = pydicom.encaps.encapsulate([b"\0" * 10])
        image["PixelData"].VR = "OB"
        image.save_as(path)


def coloured(monkeypatch, paths):
    for path in paths:
        image = pydicom.dcmread(path)
        image.SamplesPerPixel = 3
        image.save_as(path)


def cut_short(monkeypatch, paths):
    paths[2].write_bytes(paths[2].read_bytes()[:-50])


def without_pixels(monkeypatch, paths):
    image = pydicom.dcmread(paths[2])
    del image.PixelData
    image.save_as(paths[2])


def gone(monkeypatch, paths):
    paths[2].unlink()


def another(monkeypatch, paths):
    image = pydicom.dcmread(paths[2])
    image.SeriesInstanceUID = generate_uid()
    image.save_as(paths[2])


#: What happens to a series → its reason and its remedy.
CAUSES = {
    without_decoder: ("cannot be decoded here", "Install the extra hospital"),
    damaged: ("compressed pixels are damaged", "Send the series again"),
    ends_early: ("ends too early", "Send the series again"),
    no_image: ("MPEG2", "uncompressed"),
    coloured: ("in colours", "one number a pixel"),
    cut_short: ("cut short", "Send the series again"),
    without_pixels: ("has no pixels", "Send the series again"),
    gone: ("No such file", "Allow reading it"),
    another: ("another one now", "Leave it"),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_each_cause_has_its_remedy(tmp_path, cause, monkeypatch):
    reason, remedy = CAUSES[cause]
    paths = write_series(tmp_path, SMALL, AFFINE)
    if cause in (gone, another):
        series = one(tmp_path)
        cause(monkeypatch, paths)
    else:
        cause(monkeypatch, paths)
        series = one(tmp_path)
    with pytest.raises(ScanError) as caught:
        read_series(series)
    assert reason in caught.value.reason
    assert remedy in caught.value.remedy
