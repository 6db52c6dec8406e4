# SPDX-License-Identifier: Apache-2.0
"""Whose healthy tissue makes the odds of findings."""

import json
import shutil

import pytest

from bundle.datasets import read_split
from bundle.errors import DatasetError
from bundle.evaluation.untrained import CROPPED, OCT_FOLDER, SETS, cases_for_odds
from bundle.modalities import FLAIR, MODALITIES, OCT
from tests.conftest import ROOT, data_folder


@pytest.mark.parametrize("modality", ["flair", "t1w", "t2w"])
def test_nobody_who_trained_or_is_tested_makes_the_odds_of_the_sets(modality):
    known = MODALITIES[modality]
    cases = cases_for_odds(data_folder("brain_lgg").parent, known)
    assert len({source for source, _, _ in cases}) > 1
    splits = {one.folder: one.split for one in SETS if one.suffix == known.suffix}
    for source in {source for source, _, _ in cases}:
        asked = {case["subject"] for name, _, case in cases if name == source}
        assert asked
        if splits[source]:
            parts = read_split(ROOT / "configs" / "splits" / f"{splits[source]}.json")
            assert not asked & set(parts.get("training", []))
            assert source == "brain_wml10" or not asked & set(parts.get("test", []))
    assert all(alone == (source == "brain_lgg") for source, alone, _ in cases)
    assert not {source for source, _, _ in cases} & {one.folder for one in SETS if not one.makes_odds}


def test_normal_retinas_of_three_sources():
    folder = data_folder(OCT_FOLDER)
    cases = cases_for_odds(folder.parent, OCT)
    assert {source for source, _, _ in cases} == {"duke", "oct2017", CROPPED}
    asked = {case["subject"] for source, _, case in cases if source != CROPPED}
    assert asked <= set(read_split(OCT.split_path)["validation"])


def test_a_data_set_of_ones_own(bids_folder, tmp_path):
    """Its validation part: by a split file, or by a hash of the names; with masks only slices without lesion."""
    split = tmp_path / "split.json"
    parts = {"training": ["sub-00"], "validation": ["sub-01", "sub-02"], "test": ["sub-03"]}
    split.write_text(json.dumps({"subjects": parts}))
    cases = cases_for_odds(bids_folder, FLAIR, split)
    assert [(source, alone, case["subject"]) for source, alone, case in cases] == [
        (bids_folder.name, True, "sub-01"),
        (bids_folder.name, True, "sub-02"),
    ]
    assert all("label" in case for _, _, case in cases)
    for path in list(bids_folder.rglob("*_FLAIR.nii.gz")):
        shutil.copy(path, path.with_name(path.name.replace("FLAIR", "T2w")))
    assert all("label" in case and alone for _, alone, case in cases_for_odds(bids_folder, MODALITIES["t2w"], split))
    with pytest.raises(DatasetError, match="splits of their own"):
        cases_for_odds(data_folder("brain_lgg").parent, FLAIR, split)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError):
        cases_for_odds(tmp_path / "empty", FLAIR)
