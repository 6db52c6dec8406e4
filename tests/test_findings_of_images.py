# SPDX-License-Identifier: Apache-2.0
"""Findings and case scores of images of known diagnosis."""

import csv
import json

import numpy as np
import pytest

from bundle.errors import WeightsError
from bundle.evaluation.findings_of_images import findings_of_images
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
