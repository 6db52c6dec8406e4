# SPDX-License-Identifier: Apache-2.0
"""The page of examples runs as it stands, from top to bottom; FLIPMAP_SCREENSHOTS=docs writes its picture there."""

import os
import re
import shutil

import matplotlib
import nibabel as nib
import numpy as np
from PIL import Image

from tests.conftest import ROOT

PAGE = ROOT / "docs" / "examples.md"


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 5
    known: dict = {"__name__": "examples"}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), known)
    said = capsys.readouterr().out.splitlines()
    assert any(line.startswith("sub-1_FLAIR case score") for line in said)
    assert any("like it in a healthy scan" in line for line in said)
    precision = {
        name: float(line.split()[-1]) for line in said for name in ("flipmap", "brightness") if line.startswith(name)
    }
    assert precision["flipmap"] > 0.3
    saved = nib.load("anomaly.nii.gz")
    np.testing.assert_allclose(saved.affine, known["affine"])
    assert known["scores"].shape[:4] == (1, 1, 256, 256)
    assert known["item"]["pred"].shape[1:] == known["scan"].shape
    with Image.open("example_map.png") as picture:
        assert picture.width > 400
    if folder := os.environ.get("FLIPMAP_SCREENSHOTS"):
        shutil.copy("example_map.png", ROOT / folder)
