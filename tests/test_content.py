# SPDX-License-Identifier: Apache-2.0
"""Files without content, and files of any kind that no reader takes: one clear error, and the rest goes on."""

import csv
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bundle.cases import find_scans
from bundle.cli import main
from bundle.errors import ScanError
from bundle.io.content import check_content
from bundle.io.nifti import read_scan
from bundle.io.oct import read_oct
from bundle.oct_cases import find_oct
from tests.test_volumes import WRITERS

POINTERS = {
    "annex": b"/annex/objects/MD5E-s123--0123456789abcdef.nii.gz\n",
    "annex, as a link on Windows": b"../../.git/annex/objects/aa/bb/MD5E-s1--00/MD5E-s1--00.nii.gz",
    "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n",
}


def broken_link(path, target="../.git/annex/objects/Aa/bB/MD5E-s1--00.nii.gz"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)
    return path


@pytest.mark.parametrize("kind", POINTERS)
def test_a_pointer_is_named_with_its_remedy(tmp_path, kind):
    path = tmp_path / "x.nii.gz"
    path.write_bytes(POINTERS[kind])
    with pytest.raises(ScanError, match="not on this machine") as caught:
        read_scan(path)
    assert ("lfs pull" if kind == "lfs" else "datalad get x.nii.gz") in caught.value.remedy


@pytest.mark.parametrize("bids", [True, False])
def test_a_link_without_content_is_a_case_and_its_remedy_fits(tmp_path, bids):
    path = broken_link(tmp_path / ("sub-01/anat/sub-01_FLAIR.nii.gz" if bids else "a/sub-01_FLAIR.nii.gz"))
    elsewhere = broken_link(path.with_name("sub-02_FLAIR.nii.gz"), "/mnt/gone/scan.nii.gz")
    assert [case["name"] for case in find_scans(tmp_path)] == ["sub-01_FLAIR", "sub-02_FLAIR"]
    assert find_scans(path)[0]["image"] == str(path), "also when it is given itself"
    assert len(find_oct(tmp_path)) == 2
    for read in (read_scan, read_oct):
        with pytest.raises(ScanError, match="a link to") as caught:
            read(path)
        assert "datalad get" in caught.value.remedy
    with pytest.raises(ScanError, match="/mnt/gone") as caught:
        check_content(elsewhere)
    assert "datalad" not in caught.value.remedy


def test_a_batch_fails_it_and_goes_on(tmp_path, head):
    scan, _, affine = head
    broken_link(tmp_path / "in" / "a_FLAIR.nii.gz")
    (tmp_path / "in" / "b_FLAIR.nii.gz").write_bytes(POINTERS["annex"])
    broken_link(tmp_path / "in" / "a_FLAIR_brain_mask.nii.gz")
    nib.save(nib.Nifti1Image(scan.astype(np.int16), affine), tmp_path / "in" / "c_FLAIR.nii.gz")
    for _ in range(2):  # again, with what is done
        assert main(["run", str(tmp_path / "in"), str(tmp_path / "out"), "-q"]) == 1
        with (tmp_path / "out" / "batch.csv").open() as file:
            rows = {row["name"]: row for row in csv.DictReader(file)}
        assert {name: row["status"].split()[0] for name, row in rows.items()} == {
            "a_FLAIR": "failed",
            "b_FLAIR": "failed",
            "c_FLAIR": "done",
        }
        assert all("datalad get" in rows[name]["remedy"] for name in ("a_FLAIR", "b_FLAIR"))


def test_a_surface_is_no_volume(tmp_path):
    brain = nib.cifti2.BrainModelAxis.from_surface(np.arange(50), 50, "CortexLeft")
    axes = (nib.cifti2.ScalarAxis(["a"]), brain)
    nib.save(nib.Cifti2Image(np.ones((1, 50), np.float32), axes), tmp_path / "x.dscalar.nii")
    with pytest.raises(ScanError, match=r"values on a surface \(Cifti2\)"):
        read_scan(tmp_path / "x.dscalar.nii")


@pytest.mark.parametrize("shape", [(10, 20, 20), (20, 20, 20)])
def test_a_small_block_is_no_head(tmp_path, shape):
    block = np.random.RandomState(0).normal(500, 99, shape).astype(np.float32)
    nib.save(nib.Nifti1Image(block, np.eye(4)), tmp_path / "block_FLAIR.nii.gz")
    assert main(["run", str(tmp_path), str(tmp_path / "out"), "-q"]) == 1
    row = (tmp_path / "out" / "batch.csv").read_text()
    assert "unexpected" not in row and "failed" in row


MINC2 = Path(nib.__file__).parent / "tests" / "data" / "minc2_1_scale.mnc"


def test_minc_2_is_read():
    pytest.importorskip("h5py")
    found = read_scan(MINC2)
    assert found.shape == (1, 10, 20, 20)
    assert float(found.max()) == pytest.approx(0.2094327615, abs=1e-6)


def test_minc_2_says_what_it_needs(monkeypatch):
    monkeypatch.setattr("bundle.io.volumes.find_spec", lambda name: None)
    with pytest.raises(ScanError, match="h5py") as caught:
        read_scan(MINC2)
    assert "flipmap[minc]" in caught.value.remedy


@pytest.mark.parametrize("kind", [*WRITERS, "minc 2"])
def test_whatever_bytes_a_file_has_its_reader_gives_a_scan_or_one_clear_error(tmp_path, head, kind):
    """Bytes that are changed, cut off, or swapped, anywhere, in the header above all."""
    scan, _, affine = head
    ending, write = WRITERS.get(kind, (".mnc", lambda path, *_: shutil.copy(MINC2, path)))
    path, rng = tmp_path / f"s{ending}", np.random.RandomState(len(kind))
    write(path, scan[::3, ::3].astype(np.int16), affine)
    whole = path.read_bytes()
    for number in range(40):
        raw = bytearray(whole)
        for _ in range(rng.randint(1, 6)):
            raw[rng.randint(0, min(len(raw), 400 if number % 2 else len(raw)))] = rng.randint(256)
        path.write_bytes(bytes(raw[: rng.randint(1, len(raw))] if number % 5 == 0 else raw))
        try:
            read_scan(path)
        except ScanError as error:
            assert error.reason and error.remedy and str(path) in error.where


def test_a_header_that_claims_more_than_the_file_can_hold(tmp_path):
    path = tmp_path / "x.nii"
    nib.save(nib.Nifti1Image(np.ones((9, 9, 9), np.uint8), np.eye(4)), path)
    raw = bytearray(path.read_bytes())
    raw[42:48] = np.array([1000, 1000, 500], "<i2").tobytes()
    path.write_bytes(bytes(raw))
    with pytest.raises(ScanError, match="more than the file can hold"):
        read_scan(path)
    assert os.path.getsize(path) < 2000
