# SPDX-License-Identifier: Apache-2.0
"""``import flipmap``: few names, quick, documented by code that runs; a folder named bundle/ does no harm."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

import flipmap
from bundle.arguments import _check_one_flipmap
from bundle.io.nifti import write_map
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "library.md"


def python(*arguments, folder):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture
def foreign(tmp_path):
    """A folder in which somebody keeps a package named bundle."""
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "__init__.py").write_text("MINE = True\n")
    return tmp_path


def test_names_are_few_documented_and_there():
    assert len(flipmap.__all__) <= 15
    assert set(flipmap.__all__) == set(flipmap._WHERE) == set(dir(flipmap))
    text = PAGE.read_text(encoding="utf-8")
    for name in flipmap.__all__:
        assert getattr(flipmap, name).__doc__
        assert name.startswith("__") or f"`{name}`" in text
    with pytest.raises(AttributeError, match="predictions"):
        _ = flipmap.predictions


def test_importing_it_is_light():
    code = "import sys, flipmap; print(sorted({'torch', 'monai', 'numpy'} & set(sys.modules)))"
    assert python("-c", code, folder=ROOT).stdout.strip() == "[]"


def test_a_package_of_that_name_where_python_starts_does_no_harm(foreign):
    config = str(ROOT / "configs" / "inference.json")
    code = "import flipmap, bundle; print(bundle.__file__, flipmap.Job.__module__)"
    done = python("-c", code, folder=foreign)
    assert done.stdout.split() == [str(ROOT / "bundle" / "__init__.py"), "bundle.pipeline.job"], done.stderr
    assert python("-m", "flipmap", "config", folder=foreign).stdout.strip() == config
    done = python("-m", "monai.bundle", "run", "--config_file", config, "--dataset_dir", "none", folder=foreign)
    assert done.returncode == 3, done.stderr
    assert "none: no such file or folder" in done.stdout


def test_a_package_of_that_name_that_is_in_use_is_said(foreign):
    done = python("-c", "import bundle, flipmap", folder=foreign)
    assert "another package named bundle was imported before flipmap" in done.stderr.splitlines()[-1]
    assert python("-c", "import sys; sys.path.pop(0); import bundle, flipmap", folder=foreign).returncode == 0


def test_the_code_of_the_page_runs(tmp_path, head, monkeypatch):
    scan, _, affine = head
    monkeypatch.chdir(tmp_path)
    write_map(tmp_path / "scan_FLAIR.nii.gz", scan[..., 4:8], affine, np.float32)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 2
    known: dict = {}
    for block in blocks:
        exec(block, known)
    assert known["scores"].shape == known["volume"].shape == (1, 1, 256, 256, known["volume"].shape[-1])
    assert known["anomaly"].shape == scan[..., 4:8].shape


@pytest.mark.parametrize("shape", [(1, 1, 128, 128), (1, 256, 256, 8), (128, 128)])
def test_a_volume_of_another_shape_is_named(shape, network):
    with pytest.raises(ValueError, match=r"\(B, C, X, Y, Z\)"):
        flipmap.StructuredFlips()(torch.zeros(shape), network)


def test_a_config_of_another_flipmap_than_the_code_is_remarked(tmp_path, caplog):
    other = tmp_path / "bundle"
    (other / "configs").mkdir(parents=True)
    (other / "model_files.py").write_text("")
    for config, remarked in (
        (other / "configs" / "inference.json", True),
        (ROOT / "configs" / "inference.json", False),
    ):
        caplog.clear()
        _check_one_flipmap(str(config))
        assert ("the code is that of" in caplog.text) == remarked
