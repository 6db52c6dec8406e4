# SPDX-License-Identifier: Apache-2.0
"""Findings and case scores of images of known diagnosis."""

import csv
import json

import numpy as np
import pytest

from bundle.errors import WeightsError
from bundle.evaluation.findings_of_images import findings_of_images
from bundle.evaluation.noisy_images import noisy_images, with_noise
from bundle.io.oct import oct_scan
from tests.test_oct_training import eyes  # noqa: F401


def test_a_bright_block_has_findings_and_normal_retinas_have_few(eyes, tmp_path):  # noqa: F811
    split = {"subjects": {"training": [], "validation": [], "test": [*"012345", "9"]}}
    path = tmp_path / "split.json"
    path.write_text(json.dumps(split))
    table = findings_of_images({"default": {}}, eyes, tmp_path, path, precision="float32")
    rows = {row["kind"]: row for row in table}
    assert set(rows) == {"normal, OCT2017", "cnv"}
    assert rows["cnv"]["patients"] == rows["normal, OCT2017"]["patients"] == 3, "one shows no retina, and is left out"
    assert rows["cnv"]["kept_1"] >= 1
    assert rows["cnv"]["auroc"] == 1.0
    assert rows["cnv"]["case_score"] > rows["normal, OCT2017"]["case_score"]
    with (tmp_path / "findings_oct.csv").open() as file:
        assert [row["kind"] for row in csv.DictReader(file)] == ["normal, OCT2017", "cnv"]
    lines = (tmp_path / "findings_oct.md").read_text().splitlines()
    assert len([line for line in lines if line.startswith("| ")]) == 3
    assert np.isfinite(rows["cnv"]["case_score"])


def test_a_row_without_odds_is_an_error(eyes, tmp_path):  # noqa: F811
    with pytest.raises(WeightsError, match="no odds"):
        findings_of_images({"darker": {"method": "darker"}}, eyes, tmp_path, None, precision="float32")


def test_noise_is_as_strong_as_asked_and_fill_stays():
    picture = np.full((80, 120), 100.0, np.float32)
    picture[:, :20] = 255  # white fill along a side
    picture[40:60, 60:80] = 0
    scan = oct_scan("s", picture[None], (10, 4))
    noisy = with_noise(scan, 20)
    changed = (noisy - scan).numpy()[0, ..., 0]
    assert not changed[:20].any()
    assert changed[90:, 5:35].std() == pytest.approx(20, rel=0.1)
    assert noisy.min() >= 0
    np.testing.assert_array_equal(noisy, with_noise(scan, 20))
    assert noisy.meta["filename_or_obj"] == scan.meta["filename_or_obj"]


def test_a_row_for_every_level_of_noise(eyes, tmp_path):  # noqa: F811
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"subjects": {"training": [], "validation": [], "test": [*"012", "9"]}}))
    table = noisy_images(eyes, tmp_path, path, levels=(0, 8), precision="float32")
    assert [row["noise"] for row in table] == [0, 8]
    assert all(0 <= row["rate_0.01"] < 1 and row["read"] <= row["images"] == 3 for row in table)
    assert table[0]["rate_0.01"] != table[1]["rate_0.01"], "another image"
    lines = (tmp_path / "noise_oct.md").read_text().splitlines()
    assert len([line for line in lines if line.startswith("| ")]) == 3
    with pytest.raises(WeightsError, match="no odds"):
        noisy_images(eyes, tmp_path, path, method="darker", precision="float32")
