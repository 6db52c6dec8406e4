# SPDX-License-Identifier: Apache-2.0
"""Finding scans: files, folders, BIDS, BraTS, and the committed split."""

import json

import pytest

from bundle.cases import (
    brats_cases,
    find_scans,
    is_bids_root,
    lesion_cases,
)
from bundle.datasets import read_split, select_subjects, training_cases
from bundle.errors import DatasetError
from tests.conftest import ROOT

SPLIT = ROOT / "configs" / "splits" / "lgg_flair.json"


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def names(cases):
    return [case["name"] for case in cases]


def test_a_folder_of_any_depth(tmp_path):
    touch(
        tmp_path,
        "a.nii.gz",
        "deep/er/b.nii",
        "deep/c.NII.GZ",
        "notes.txt",
        ".hidden/d.nii.gz",
        "x/.e.nii.gz",
        "a_anomaly.nii.gz",
        "a_anomaly_mask.nii.gz",
    )
    assert names(find_scans(tmp_path)) == ["a", "c", "b"]


def test_one_file(tmp_path):
    touch(tmp_path, "scan.nii.gz")
    assert names(find_scans(tmp_path / "scan.nii.gz")) == ["scan"]


def test_equal_names_get_their_folders(tmp_path):
    touch(tmp_path, "p1/flair.nii.gz", "p2/flair.nii.gz", "p2/other.nii.gz")
    assert sorted(names(find_scans(tmp_path))) == ["other", "p1_flair", "p2_flair"]


def test_names_are_unique_even_when_folders_conspire(tmp_path):
    touch(tmp_path, "a_b/c.nii.gz", "a/b_c.nii.gz", "a/b/c.nii.gz", "a_b_c.nii", "c.nii")
    found = names(find_scans(tmp_path))
    assert len(found) == len(set(found)) == 5


def test_bids_takes_the_contrast_and_leaves_derivatives(tmp_path):
    touch(
        tmp_path,
        "sub-1/anat/sub-1_FLAIR.nii.gz",
        "sub-1/anat/sub-1_T1w.nii.gz",
        "sub-2/ses-a/anat/sub-2_ses-a_FLAIR.nii",
        "derivatives/lesion/sub-1/anat/sub-1_FLAIR.nii.gz",
        "sub-1/anat/sub-1_FLAIR.json",
    )
    assert is_bids_root(tmp_path)
    cases = find_scans(tmp_path)
    assert names(cases) == ["sub-1_FLAIR", "sub-2_ses-a_FLAIR"]
    assert [case["subject"] for case in cases] == ["sub-1", "sub-2"]
    assert names(find_scans(tmp_path, "T1w")) == ["sub-1_T1w"]
    with pytest.raises(DatasetError, match=r"no \*_T2w"):
        find_scans(tmp_path, "T2w")


def test_nothing_there(tmp_path):
    with pytest.raises(DatasetError, match=r"no \.nii"):
        find_scans(tmp_path)
    with pytest.raises(DatasetError, match="no such file or folder"):
        find_scans(tmp_path / "absent")


def test_a_scan_without_its_mask_does_not_pass_for_healthy(bids_folder):
    assert all(case["label"].endswith("_label-lesion_mask.nii.gz") for case in lesion_cases(bids_folder))
    next(bids_folder.glob("derivatives/**/*sub-03*")).rename(bids_folder / "gone")
    next(bids_folder.glob("derivatives/lesion/sub-02/anat/*")).unlink()
    with pytest.raises(DatasetError, match=r"lesion mask of .* is missing"):
        lesion_cases(bids_folder)


@pytest.mark.parametrize(
    "ending",
    [
        ("_t1.nii.gz", "_t1ce.nii.gz", "_t2.nii.gz", "_flair.nii.gz", "_seg.nii.gz"),
        ("-t1n.nii.gz", "-t1c.nii.gz", "-t2w.nii.gz", "-t2f.nii.gz", "-seg.nii.gz"),
    ],
)
def test_brats_as_downloaded(tmp_path, ending):
    for subject in ("BraTS20_Training_001", "BraTS20_Training_002"):
        touch(tmp_path, *(f"Data/{subject}/{subject}{e}" for e in ending))
    cases = brats_cases(tmp_path)
    assert names(cases) == ["BraTS20_Training_001", "BraTS20_Training_002"]
    assert [path.split("Training_001")[-1] for path in cases[0]["image"]] == list(ending[:4])
    parts = ["training", "validation", "test"]
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"subjects": {part: names(cases) if part == "training" else [] for part in parts}}))
    assert training_cases(tmp_path, "training", "brats", split, suffix="FLAIR") == cases, "it has all contrasts"
    (tmp_path / "Data" / "BraTS20_Training_002" / f"BraTS20_Training_002{ending[1]}").unlink()
    with pytest.raises(DatasetError, match="no contrast"):
        brats_cases(tmp_path)


def test_a_split_by_hash_is_a_partition(bids_folder):
    parts = {}
    for part in ("training", "validation", "test"):
        try:
            parts[part] = [case["subject"] for case in training_cases(bids_folder, part)]
        except DatasetError:
            parts[part] = []
    assert sorted(name for part in parts.values() for name in part) == [f"sub-{n:02d}" for n in range(6)]


def test_wrong_parts_and_layouts_are_named(bids_folder, tmp_path):
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"subjects": {"training": ["sub-00"], "test": ["sub-00"]}}))
    with pytest.raises(DatasetError, match="more than one part"):
        read_split(split)
    split.write_text(json.dumps({"subjects": {"training": ["sub-00"]}}))
    with pytest.raises(DatasetError, match="no part named 'exam'"):
        select_subjects(find_scans(bids_folder), split, "exam")
    with pytest.raises(DatasetError, match="not a known layout"):
        training_cases(bids_folder, "training", "zip")


def test_the_committed_split_is_by_patient_and_large_enough():
    parts = read_split(SPLIT)
    assert set(parts) == {"training", "validation", "test"}
    assert len(parts["test"]) >= 18
    assert sum(map(len, parts.values())) == 88
