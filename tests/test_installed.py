# SPDX-License-Identifier: Apache-2.0
"""The package away from the repository: commands, the API and the main job, started in another folder.

`make test-wheel` runs this against the built wheel; the ordinary suite runs it against the repository.
"""

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import bundle
from bundle.io.nifti import write_map
from bundle.synthesis.sample import synthetic_head
from tests.conftest import ROOT

FLIPMAP = [sys.executable, "-c", "from bundle.cli import entry; entry()"]


def run(command, folder):
    done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An empty folder but for one scan."""
    folder = tmp_path_factory.mktemp("elsewhere")
    scan, _, affine = synthetic_head((96, 112, 6), (2.0, 2.0, 18.0), seed=3)
    write_map(folder / "in" / "a_FLAIR.nii.gz", scan, affine, np.int16)
    return folder


@pytest.fixture(scope="module")
def mapped(folder):
    """The map by the bundle's own command, with the config that the package names."""
    config = run([*FLIPMAP, "config"], folder).strip()
    assert Path(config).is_file()
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", config, "--precision", "float32"]
    run([*command, "--dataset_dir", "in", "--output_dir", "maps"], folder)
    return np.asarray(nib.load(folder / "maps" / "a_FLAIR_anomaly.nii.gz").dataobj)


def test_a_folder_named_bundle_does_no_harm(folder):
    """The library, the command and the config are those that are installed."""
    (folder / "bundle").mkdir()
    (folder / "bundle" / "__init__.py").write_text("")
    code = "import flipmap; print(flipmap.default_config()); flipmap.Job"
    config = run([sys.executable, "-c", code], folder).strip()
    assert config == run([sys.executable, "-m", "flipmap", "config"], folder).strip()
    shutil.rmtree(folder / "bundle")


def test_flipmap_run_writes_the_map_of_the_main_job(folder, mapped):
    run([*FLIPMAP, "run", "in", "out", "-q", "--set", "precision=float32"], folder)
    again = np.asarray(nib.load(folder / "out" / "a_FLAIR_desc-anomaly_map.nii.gz").dataobj)
    np.testing.assert_array_equal(again, mapped)
    assert mapped.max() > 1


def test_predict_gives_the_map_of_the_main_job(folder, mapped):
    scan = nib.load(folder / "in" / "a_FLAIR.nii.gz")
    again = bundle.predict(np.asarray(scan.dataobj), scan.affine, precision="float32")
    np.testing.assert_allclose(again, mapped, atol=1e-5)


def test_an_export_runs_where_it_is_unpacked(folder, mapped):
    run([*FLIPMAP, "export", "exported"], folder)
    where = folder / "exported"
    for name in ("LICENSE", "docs/data_license.txt", "models/model.pt", "configs/metadata.json"):
        assert (where / name).is_file(), name
    code = {path.name for path in (where / "bundle").iterdir()}
    assert not code & {"configs", "models", "docs", "root"}
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json"]
    run([*command, "--precision", "float32", "--dataset_dir", "../in", "--output_dir", "../away"], where)
    away = np.asarray(nib.load(folder / "away" / "a_FLAIR_anomaly.nii.gz").dataobj)
    np.testing.assert_array_equal(away, mapped)


def test_every_package_is_installed():
    """The list in setup.cfg is written by hand, since it maps the folders of the bundle into the package."""
    if not (ROOT / "setup.cfg").is_file():
        pytest.skip("not in the repository")
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    named = set(settings["options"]["packages"].split())
    code = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "bundle").rglob("__init__.py")}
    assert named == code | {"flipmap", "bundle.configs", "bundle.docs", "bundle.models", "bundle.root"}
    for name, folder in (line.split(" = ") for line in settings["options"]["package_dir"].strip().splitlines()):
        assert (ROOT / folder).is_dir(), name


@pytest.mark.parametrize("recipe", ["Containerfile", "flipmap.def"])
def test_a_container_has_all_that_the_package_is_built_from(recipe):
    """Folders and files of setup.cfg: what a recipe forgets ends its build, or the command in it."""
    path = ROOT / "container" / recipe
    if not path.is_file():
        pytest.skip("the repository is not here")
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    folders = {"configs", "docs", "models"}
    folders |= {line.split(".")[0] for line in settings["options"]["packages"].split()}
    files = {*settings["metadata"]["license_files"].split()} | {"setup.cfg", "pyproject.toml", "README.md"}
    words = set(path.read_text(encoding="utf-8").split())
    assert {name for name in files | {"requirements.txt"} if name not in words} == set()
    assert {name for name in folders if f"/src/{name}" not in words} == set()
