# SPDX-License-Identifier: Apache-2.0
"""Results of series whose headers break the standard, as anonymising leaves them: valid, and no name elsewhere."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataelem import RawDataElement
from scipy import ndimage

from bundle.archive.results import write_picture
from bundle.errors import ScanError
from bundle.io.dicom import find_series, read_series
from bundle.io.dicom_quiet import quiet, redacted
from bundle.io.dicom_report import write_findings
from bundle.io.dicom_results import results_of, source_of, write_bands, write_parametric_map, write_segmentation
from bundle.scoring.findings import find_findings, label_findings
from tests.dicom_files import write_enhanced, write_series
from tests.test_dicom import AFFINE, TOO_NEW, assert_valid

ROOT = Path(__file__).parents[1]
LONG = "x" * 90
#: Attribute of patient or study → what anonymising and habit put there. None: taken out.
VALUES: dict[str, tuple] = {
    "PatientBirthDate": ("***", "ANON", "0000", "00000000", "", None),
    "StudyDate": ("ANON", "***", "00000000", "0000", None, ""),
    "StudyTime": ("***", "ANON", "0000", "99:99", None, ""),
    "PatientAge": ("45 years", "***", "45", "", None),
    "PatientSex": ("ANON", "***", "female", "m", "", None),
    "PatientName": ("Doe Jane", "***", "", "Doe^Jane^^^^^x", "Ä" * 70, None),
    "PatientID": (None, "", LONG, "a\\b"),
    "PatientWeight": ("***", "heavy", ""),
    "AccessionNumber": (LONG, None, ""),
    "StudyID": (None, LONG, ""),
    "StudyDescription": ("", LONG),
    "ReferringPhysicianName": (LONG, None, "***"),
    "StudyInstanceUID": ("ANON", "", None),
    "FrameOfReferenceUID": (None, "ANON", ""),
    "SpecificCharacterSet": ("ANON", "ISO_IR 100", "", "ISO_IR 192"),
    "DeviceSerialNumber": (LONG,),
    "Modality": ("MR", None),
}
#: The table by rows: each value stands in one of them.
ROWS = [
    {tag: values[row] for tag, values in VALUES.items() if row < len(values)}
    for row in range(max(map(len, VALUES.values())))
]


@pytest.fixture
def volume():
    return np.random.RandomState(0).rand(24, 30, 6).astype(np.float32) * 900


def changed(**tags):
    """A change of every image, written as others write it, unchecked; None takes an attribute out."""

    def change(image, z):
        for tag, value in tags.items():
            number, letters = pydicom.tag.Tag(pydicom.datadict.tag_for_keyword(tag)), (value or "").encode("latin-1")
            letters += b" " * (len(letters) % 2)
            kind = pydicom.datadict.dictionary_VR(number)
            image.pop(number, None)
            if value is not None:
                image[number] = RawDataElement(number, kind, len(letters), letters, 0, False, True)

    return change


def change_file(path, **tags):
    image = pydicom.dcmread(path)
    changed(**tags)(image, 0)
    image.save_as(path)


def write_all(series, folder, shift=0.0):
    """All results of a series, by kind."""
    scan = read_series(series)
    anomaly = ndimage.gaussian_filter(scan[0].numpy(), 2)
    anomaly = (anomaly - anomaly.min()) / np.ptp(anomaly) * 5 + shift
    mask = anomaly > 2
    found = [asdict(one) for one in find_findings(anomaly, mask, scan.affine.numpy(), 2.0)]
    source = source_of(series, ["settings"])
    paths = {kind: folder / f"{kind}.dcm" for kind in ("map", "mask", "bands", "segments", "report", "picture")}
    write_parametric_map(paths["map"], anomaly, source, "units", "a map")
    write_segmentation(paths["mask"], mask, source, "a method")
    write_bands(paths["bands"], anomaly, source, "a method")
    write_findings(paths["segments"], paths["report"], label_findings(mask, found), found, source, "a method")
    Image.fromarray(np.full((20, 30, 3), 7, np.uint8)).save(folder / "picture.png")
    write_picture(paths["picture"], folder / "picture.png", series, "settings")
    return paths, anomaly


def check(paths):
    """Every result is there, reads without a warning, and is valid."""
    for kind, path in paths.items():
        dataset = pydicom.dcmread(path)
        for element in dataset.iterall():
            _ = element.value  # a warning of pydicom's is an error here
        assert_valid(path, TOO_NEW if kind == "bands" else ())
    return {kind: pydicom.dcmread(path) for kind, path in paths.items()}


@pytest.mark.parametrize("row", range(len(ROWS)))
@pytest.mark.parametrize("enhanced", [False, True])
def test_results_of_headers_that_break_the_standard(tmp_path, volume, row, enhanced, caplog, capfd):
    with quiet():
        if enhanced:
            change_file(write_enhanced(tmp_path / "in.dcm", volume, AFFINE), **ROWS[row])
        else:
            write_series(tmp_path / "in.dcm", volume, AFFINE, changed(**ROWS[row]))
    (series,) = find_series(tmp_path / "in.dcm")
    paths, _ = write_all(series, tmp_path)
    for dataset in check(paths).values():
        for tag in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "AccessionNumber"):
            assert tag in dataset, "left empty, but there"
        assert dataset.PatientSex in ("", "F")
        assert dataset.StudyInstanceUID.is_valid
    assert len(caplog.records) <= 1, "said once"
    shown = capfd.readouterr()
    assert "Jane" not in shown.out + shown.err + caplog.text


def test_what_is_left_empty_is_named(tmp_path, volume, caplog):
    with quiet():
        write_series(tmp_path / "in", volume, AFFINE, changed(PatientBirthDate="***"))
    (series,) = find_series(tmp_path / "in")
    paths, _ = write_all(series, tmp_path)
    assert f"{series.name}: not valid DICOM, left empty in its results: PatientBirthDate" in caplog.text
    for dataset in check(paths).values():
        assert dataset.PatientBirthDate == ""
        assert dataset.PatientName == "Doe^Jane"


def test_pictures_have_the_uid_of_what_they_show(tmp_path, volume):
    """Of other pixels, inputs or settings: other objects. Of the same: the same."""
    write_series(tmp_path / "in", volume, AFFINE)
    (series,) = find_series(tmp_path / "in")
    uids = {}
    for name, grey, fingerprint, inputs in (
        ("first", 1, "f", ["a"]), ("again", 1, "f", ["a"]), ("pixels", 2, "f", ["a"]), ("job", 1, "g", ["a"]),
        ("inputs", 1, "f", ["b"]),
    ):  # fmt: skip
        Image.fromarray(np.full((20, 30, 3), grey, np.uint8)).save(tmp_path / "p.png")
        write_picture(tmp_path / f"{name}.dcm", tmp_path / "p.png", series, fingerprint, inputs)
        image = pydicom.dcmread(tmp_path / f"{name}.dcm")
        uids[name] = (str(image.SOPInstanceUID), str(image.SeriesInstanceUID))
    assert uids["first"] == uids["again"]
    assert len({uid for uid, _ in uids.values()}) == len({uid for _, uid in uids.values()}) == 4


def test_a_tilted_stack_lies_where_its_slices_lie(tmp_path, volume):
    """0.4 degrees are a millimetre over a head: the affine is that of the slices, in the map and in its results."""
    shift = np.tan(np.radians(0.4)) * 5

    def tilted(image, z):
        x, y, depth = image.ImagePositionPatient
        image.ImagePositionPatient = [x, f"{y + shift * z:.6f}", depth]

    write_series(tmp_path / "in", volume, AFFINE, tilted)
    (series,) = find_series(tmp_path / "in")
    affine = read_series(series).affine.numpy()
    images = sorted(map(pydicom.dcmread, series.files), key=lambda image: -image.ImagePositionPatient[2])
    for number, image in enumerate(images):
        place = affine @ [0, 0, number, 1]
        np.testing.assert_allclose(place[:3] * [-1, -1, 1], np.array(image.ImagePositionPatient, float), atol=1e-3)
    paths, anomaly = write_all(series, tmp_path)
    stored = check(paths)["map"]
    frames = [g.PlanePositionSequence[0].ImagePositionPatient for g in stored.PerFrameFunctionalGroupsSequence]
    expected = [np.array(image.ImagePositionPatient, float) for image in images]
    np.testing.assert_allclose(np.array(frames, float), expected, atol=1e-3)
    np.testing.assert_array_equal(np.transpose(stored.pixel_array, [2, 1, 0]), anomaly.astype(np.float32))


def test_errors_say_nobody_s_name(tmp_path, volume):
    write_series(tmp_path / "in", volume, AFFINE)
    (series,) = find_series(tmp_path / "in")
    with pytest.raises(ScanError) as caught, results_of(series):
        raise TypeError("the name Doe^Jane of patient 4711 in /data/DOE_JANE/IM1, DOE Jane, is odd")
    assert "the map is written as NIfTI" in caught.value.reason
    for word in ("Doe", "Jane", "4711", "DOE_JANE"):
        assert word not in caught.value.reason
    assert "is odd" in caught.value.reason
    assert redacted(ValueError("")) == "ValueError"


def test_quiet_holds_while_anybody_is_inside():
    log = logging.getLogger("highdicom")
    before = log.level
    first, second = quiet(), quiet()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    log.error("Doe^Jane")
    assert not log.isEnabledFor(logging.ERROR)
    second.__exit__(None, None, None)
    assert log.level == before
    with pytest.raises(UserWarning), quiet():
        pass
        raise UserWarning


def test_the_map_stays_where_a_result_cannot_be_written(tmp_path, monkeypatch):
    """The case says so; the NIfTI files are there and whole."""
    import nibabel as nib

    from bundle.batch.case import run_case
    from bundle.batch.plan import plan_series
    from bundle.io import dicom_results
    from bundle.pipeline.job import Job
    from bundle.synthesis.sample import synthetic_head

    scan, _, affine = synthetic_head((72, 84, 8), (2.7, 2.7, 12.0), seed=0)
    write_series(tmp_path / "in", scan, affine)
    (case,), _ = plan_series(find_series(tmp_path / "in"))

    def failing(*_, **__):
        raise TypeError("Doe^Jane has no age")

    monkeypatch.setattr(dicom_results, "segmentation", failing)
    with pytest.raises(ScanError, match="the map is written as NIfTI, but not all of its DICOM results") as caught:
        run_case(Job(), case, tmp_path / "out")
    assert "Jane" not in str(caught.value)
    assert nib.load(case.path(tmp_path / "out", "desc-anomaly_map.nii.gz")).shape == scan.shape


@pytest.mark.parametrize("broken", [False, True])
def test_nobody_s_name_on_the_screen_and_in_the_log(tmp_path, broken):
    """Of a run in a process of its own, with names that the libraries warn of, and one series that cannot be read."""
    from bundle.synthesis.sample import synthetic_head

    scan, _, affine = synthetic_head((72, 84, 8), (2.7, 2.7, 12.0), seed=0)
    names = {
        "PatientName": "Xaverina^Quux^^^^^x",
        "ReferringPhysicianName": "Xaverina" * 9,
        "PatientID": "Xaverina" * 9,
    }

    def change(image, z):
        changed(**names, PatientAge="Xaverina", PatientBirthDate="Xaverina")(image, z)
        if broken:
            image.PixelData = image.PixelData[:-900]

    with quiet():
        write_series(tmp_path / "Xaverina" / "in", scan, affine, change)
    command = [sys.executable, "-c", "import sys; from bundle.cli import main; sys.exit(main(sys.argv[1:]))", "run"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"}
    ran = subprocess.run(
        [*command, tmp_path / "Xaverina", tmp_path / "out", "-v"],
        capture_output=True, text=True, check=False, env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert ran.returncode == int(broken), ran.stdout + ran.stderr
    (log,) = (tmp_path / "out" / "logs").iterdir()
    for text in (ran.stdout, ran.stderr, log.read_text(), (tmp_path / "out" / "batch.csv").read_text()):
        assert "xaverina" not in text.lower().replace(str(tmp_path / "Xaverina").lower(), ""), text
    assert "window_center" not in ran.stderr
