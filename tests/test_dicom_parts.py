# SPDX-License-Identifier: Apache-2.0
"""Series that hold several volumes, and folders in which nothing is to be mapped: what is planned, and what is said."""

from __future__ import annotations

import csv
import json

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from bundle.batch.plan import plan_series
from bundle.batch.sources import plan_of
from bundle.cli import main
from bundle.errors import DatasetError, FlipmapError
from bundle.io.dicom import find_series, read_series
from bundle.io.dicom_results import source_of, write_segmentation
from bundle.modalities import MODALITIES
from bundle.synthesis.sample import synthetic_head
from tests.dicom_files import write_enhanced, write_series
from tests.test_dicom import AFFINE, computed

ALL = "|".join(f"(?:{one.series})" for one in MODALITIES.values() if one.series)


@pytest.fixture
def volume():
    return np.random.RandomState(0).rand(12, 14, 6).astype(np.float32) * 900


class Reader:
    """A job, as far as a plan asks it."""

    series, region, units, search = ALL, "brain", "units", {"suffix": ["FLAIR", "T1w", "T2w"]}
    modality = MODALITIES["flair"]


def write_parts(folder, volumes, *parts, **tags):
    """Volumes of one series, each with the tags of its part."""
    series = {"SeriesInstanceUID": generate_uid(), "StudyInstanceUID": generate_uid(), "FrameOfReferenceUID": "1.2.3"}
    for number, (volume, part) in enumerate(zip(volumes, parts, strict=True)):
        write_series(folder / str(number), volume, AFFINE, **series, **part, **tags)


#: Two volumes of one series → how their parts are called.
APART = {
    "echo-1 echo-2": ({"EchoTime": 90, "EchoNumbers": 2}, {"EchoTime": 190, "EchoNumbers": 1}),
    "type-1 type-2": (
        {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"]},
        {"ImageType": ["ORIGINAL", "PRIMARY", "M", "NORM"]},
    ),
    "phase-1 phase-2": ({"TemporalPositionIdentifier": 1}, {"TemporalPositionIdentifier": 2}),
    "inversion-1 inversion-2": ({"InversionTime": 800}, {"InversionTime": 2500}),
    "acquisition-1 acquisition-2": ({"AcquisitionNumber": 4}, {"AcquisitionNumber": 7}),
    "time-1 time-2": ({"TriggerTime": 4.5}, {"TriggerTime": 400}),
}


@pytest.mark.parametrize("names", APART)
def test_volumes_of_a_series_come_apart(tmp_path, volume, names):
    """Each is read as its own, under a name of its own; their results are other objects."""
    other = volume[..., ::-1]
    write_parts(tmp_path, (volume, other), *APART[names])
    parts = find_series(tmp_path)
    assert [part.part for part in parts] == names.split()
    assert [part.name for part in parts] == [f"{parts[0].name.split('_')[0]}_{name}" for name in names.split()]
    first, second = map(read_series, parts)
    np.testing.assert_allclose(first.numpy(), second.numpy()[..., ::-1], atol=0.3)
    np.testing.assert_allclose(np.sort(first.numpy(), None), np.sort(volume, None), atol=0.3)
    for part in parts:
        write_segmentation(tmp_path / f"{part.part}.dcm", volume > 500, source_of(part, []), "a method")
    assert len({pydicom.dcmread(tmp_path / f"{part.part}.dcm").SOPInstanceUID for part in parts}) == 2
    planned, _ = plan_series(parts, ALL)
    assert [case.name for case in planned] == [part.name for part in parts]
    assert planned[0].input_hashes != planned[1].input_hashes


def test_echoes_at_several_times_come_apart_twice(tmp_path, volume):
    parts = [{"EchoTime": echo, "TemporalPositionIdentifier": time} for time in (1, 2) for echo in (80, 160)]
    write_parts(tmp_path, [volume] * 4, *parts)
    names = [part.part for part in find_series(tmp_path)]
    assert names == ["echo-1_phase-1", "echo-1_phase-2", "echo-2_phase-1", "echo-2_phase-2"]


def test_a_volume_that_was_broken_off_keeps_nobody_else_from_being_read(tmp_path, volume):
    write_parts(
        tmp_path, (volume, volume[..., :3]), {"TemporalPositionIdentifier": 1}, {"TemporalPositionIdentifier": 2}
    )
    whole, broken = find_series(tmp_path)
    assert not whole.problem
    assert broken.problem == "3 slices, at least 5 needed"


def test_what_does_not_come_apart_is_refused(tmp_path, volume):
    """Nothing tells the two volumes apart but that each slice is there twice."""
    write_parts(tmp_path, (volume, volume), {}, {})
    (series,) = find_series(tmp_path)
    assert series.problem == "up to 2 images at one position"
    assert not series.part


def test_the_long_echo_of_two_is_t2w(tmp_path, volume):
    write_parts(tmp_path, (volume, volume), {"EchoTime": 15}, {"EchoTime": 90}, SeriesDescription="AX PD/T2")
    planned, skipped = plan_series(find_series(tmp_path), ALL)
    (case,), ((short, reason),) = planned, skipped.items()
    assert (case.name[-7:], short[-7:]) == ("_echo-2", "_echo-1")
    assert reason == "proton density: the echo of 15 ms beside one of 90 ms; only the long one is T2w"


def test_phases_beside_magnitudes_are_left_out(tmp_path, volume, caplog):
    """And a series of phases alone is none of a contrast."""
    kinds = [{"ImageType": ["ORIGINAL", "PRIMARY", kind, "ND"]} for kind in ("M", "P")]
    write_parts(tmp_path / "both", (volume, volume[..., ::-1]), *kinds)
    (series,) = find_series(tmp_path / "both")
    np.testing.assert_allclose(np.sort(read_series(series).numpy(), None), np.sort(volume, None), atol=0.3)
    assert "left out of 12 files: 6 images of the phase" in caplog.text
    write_parts(tmp_path / "phase", (volume,), kinds[1])
    assert find_series(tmp_path / "phase")[0].problem == "images of the phase"


def test_a_folder_in_which_nothing_is_to_be_mapped_says_what_was_seen(tmp_path, volume):
    write_series(tmp_path / "1", volume, AFFINE, SeriesDescription="Ax Brain", ProtocolName="Head")
    for number in (2, 3):
        write_series(tmp_path / str(number), volume, AFFINE, SeriesDescription="DTI 30 dir", ProtocolName="Head")
    write_series(tmp_path / "4", volume, AFFINE, computed, SeriesDescription="Skull", ProtocolName="Head")
    with pytest.raises(DatasetError) as caught:
        plan_of(tmp_path, Reader())
    reason = caught.value.reason
    assert reason.startswith("24 DICOM files, 4 series: DTI 30 dir (2 of them); ")
    assert "Ax Brain" in reason
    assert "Skull: CT objects, not MR images" in reason
    assert reason.endswith("none is a series of FLAIR, T1w or T2w")
    assert "--series 'Ax Brain'" in caught.value.remedy or "--series 'DTI 30 dir'" in caught.value.remedy
    assert ".nii" not in str(caught.value) and "(?" not in str(caught.value)
    assert len(plan_of(tmp_path, Reader(), "ax brain")[0]) == 1
    with pytest.raises(DatasetError, match="none is what --series spine asks for"):
        plan_of(tmp_path, Reader(), "spine")
    with pytest.raises(FlipmapError, match="no regular expression"):
        plan_of(tmp_path, Reader(), "flair(")


def test_derived_series_are_named_with_the_flag_that_takes_them(tmp_path, volume):
    write_series(tmp_path, volume, AFFINE, ImageType=["DERIVED", "SECONDARY", "MPR"])
    with pytest.raises(DatasetError, match=r"--derived takes it.*Ask for derived series by --derived"):
        plan_of(tmp_path, Reader())
    assert len(plan_of(tmp_path, Reader(), derived=True)[0]) == 1


def test_reasons_are_words(tmp_path, volume):
    write_series(tmp_path / "1", volume, AFFINE, SeriesDescription="DWI tra", ProtocolName="head")
    series = find_series(tmp_path)
    (reason,) = plan_series(series, ALL)[1].values()
    contrasts = "FLAIR, T1w without contrast agent or T2w"
    assert reason == f"described as 'DWI tra head', which is not {contrasts}; --series takes others"
    (reason,) = plan_series(series, "t1|t2")[1].values()
    assert reason == "described as 'DWI tra head', which is not what --series asks for"
    for name, words in (("flair", "FLAIR"), ("t1w", "T1w without contrast agent")):
        (reason,) = plan_series(series, MODALITIES[name].series)[1].values()
        assert f"which is not {words};" in reason


def test_a_file_of_dicom_is_read_as_that(tmp_path, volume):
    path = write_enhanced(tmp_path / "in.dcm", volume, AFFINE)
    (case,), _ = plan_of(path, Reader())
    assert case.series


def test_without_the_extra_dicom_files_are_named(tmp_path, volume, monkeypatch):
    from bundle.batch import sources

    write_series(tmp_path, volume, AFFINE)

    def missing(*_):
        raise ModuleNotFoundError("No module named 'pydicom'", name="pydicom")

    monkeypatch.setattr(sources, "find_series", missing)
    with pytest.raises(DatasetError, match=r"DICOM files.*\(pydicom\).*flipmap\[hospital\]"):
        plan_of(tmp_path, Reader())
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"no \.nii"):
        plan_of(tmp_path / "empty", Reader())


def test_rows_can_be_found_in_the_archive(tmp_path):
    """One unusual series beside a whole one, a dual echo and one that nobody asked for, through the command."""
    scan, _, affine = synthetic_head((72, 84, 8), (2.7, 2.7, 12.0), seed=0)
    write_series(tmp_path / "in" / "1", scan, affine, AccessionNumber="A77", SeriesNumber=1)
    write_series(
        tmp_path / "in" / "2", scan, affine, lambda i, z: i.__delattr__("PixelSpacing"), SeriesNumber=2,
        SeriesDescription="=FLAIR()",
    )  # fmt: skip
    write_series(tmp_path / "in" / "3", scan, affine, SeriesNumber=3, SeriesDescription="DWI")
    good, bad, other = find_series(tmp_path / "in")
    assert main(["run", str(tmp_path / "in"), str(tmp_path / "out"), "--dry-run"]) == 0
    assert main(["run", str(tmp_path / "in"), str(tmp_path / "out"), "-q"]) == 1
    with (tmp_path / "out" / "batch.csv").open(newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    found = {
        name: (row["status"], row["series_uid"], row["description"], row["accession"]) for name, row in rows.items()
    }
    assert found == {
        good.name: ("done", good.uid, "t2 FLAIR tra", "A77"),
        bad.name: ("failed", bad.uid, "'=FLAIR()", "1"),
        other.name: ("skipped", other.uid, "DWI", "1"),
    }
    assert "PixelSpacing is missing in 8 of 8 files" in rows[bad.name]["reason"]
    assert main(["run", str(tmp_path / "in"), str(tmp_path / "out"), "-q"]) == 1
    with (tmp_path / "out" / "batch.csv").open(newline="") as file:
        again = {row["name"]: row["series_uid"] for row in csv.DictReader(file)}
    assert again[good.name] == good.uid, "done before"
    assert good.uid not in (tmp_path / "out" / "report.html").read_text()
    part = json.loads(next((tmp_path / "out" / "shards").glob("*.json")).read_text())
    assert {row["series_uid"] for row in part["records"]} == {good.uid, bad.uid, other.uid}
