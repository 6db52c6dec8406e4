# SPDX-License-Identifier: Apache-2.0
"""A method as a bundle of its own, and the network as TorchScript: the same map away from the repository."""

import json
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.apps.utils import HashCheckError
from monai.bundle import ckpt_export, download_large_files, onnx_export
from monai.bundle.config_parser import ConfigParser

from bundle.cli import main
from bundle.errors import FlipmapError, OutputError
from bundle.export import BRAIN, CALIBRATION, CONTRAST, WEIGHTS, export, export_name
from bundle.io.nifti import write_map
from bundle.modalities import DEFAULT, MODALITIES, modality_of
from bundle.networks.weights import load_weights
from bundle.pipeline.job import Job
from bundle.scoring.calibration import read_calibration, weights_hash
from tests.conftest import ROOT

#: What MONAI's own exports take.
OF_THE_MAIN_JOB = {
    "net_id": "network_def",
    "ckpt_file": str(ROOT / "models" / "model.pt"),
    "meta_file": str(ROOT / "configs" / "metadata.json"),
    "config_file": str(ROOT / "configs" / "inference.json"),
}


def network_of_the_main_job():
    parser = ConfigParser(json.loads((ROOT / "configs" / "inference.json").read_text()))
    return load_weights(parser.get_parsed_content("network_def"), ROOT / "models" / "model.pt").eval()


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("away")
    path = export("flair", "structured_flips", folder / "flipmap_flair_structured_flips.zip")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    return folder / "flipmap_flair_structured_flips"


def test_it_holds_what_a_bundle_must(unpacked):
    for name in ("LICENSE", "configs/metadata.json", "configs/inference.json", WEIGHTS, BRAIN, CALIBRATION,
                 "docs/README.md", "docs/data_license.txt", "bundle/cli.py"):  # fmt: skip
        assert (unpacked / name).is_file(), name
    assert not list(unpacked.rglob("__pycache__"))
    config = json.loads((unpacked / "configs" / "inference.json").read_text())
    assert config["method"] == "structured_flips"
    entry = read_calibration(unpacked / CALIBRATION, "structured_flips")
    assert entry.weights == weights_hash(unpacked / WEIGHTS, unpacked / BRAIN)
    state = torch.load(unpacked / WEIGHTS, weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    assert (unpacked / WEIGHTS).stat().st_size < 25_000_000, "the model zoo takes no larger file"
    assert not json.loads((unpacked / "configs" / "metadata.json").read_text())["eval_metrics"]


@pytest.mark.slow
def test_away_from_the_repository_it_makes_the_same_map(unpacked, tmp_path, head):
    scan, _, affine = head
    write_map(tmp_path / "in" / "a_FLAIR.nii.gz", scan, affine, np.int16)
    here = ["['configs/inference.json','configs/methods/structured_flips.json']", ROOT, tmp_path / "here"]
    there = ["configs/inference.json", unpacked, tmp_path / "there"]
    for config, where, out in (here, there):
        command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", config, "--precision", "float32"]
        command += ["--dataset_dir", tmp_path / "in", "--output_dir", out]
        subprocess.run([str(c) for c in command], check=True, cwd=where, capture_output=True)
    maps = [nib.load(tmp_path / k / "a_FLAIR_anomaly.nii.gz") for k in ("here", "there")]
    np.testing.assert_array_equal(np.asarray(maps[0].dataobj), np.asarray(maps[1].dataobj))
    assert np.asarray(maps[0].dataobj).max() > 1


def test_its_findings_have_the_odds_of_the_job_that_it_was_made_of(tmp_path):
    """They are tied to its calibration, whose hash is another."""
    path = export("flair", "default", tmp_path / "flipmap_flair")
    there, here = Job([path / "configs" / "inference.json"], bundle_root=str(path)), Job(modality_of("flair").configs())
    assert here.odds is not None
    assert there.odds is not None
    assert there.odds.tissue == here.odds.tissue
    assert there.odds.calibration != here.odds.calibration


def test_the_same_release_is_the_same_file(tmp_path):
    first, second = (export("flair", "intensity", tmp_path / k / "x.zip") for k in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_weights_apart_are_named_with_their_hashes(tmp_path):
    """As the model zoo asks for: MONAI's own download puts them back, and the bundle is whole."""
    yaml = pytest.importorskip("yaml")  # of MONAI's download
    upload = tmp_path / "x_weights"
    assert main(["export", str(tmp_path / "x"), "--method", "intensity", "--url", upload.as_uri()]) == 0
    assert not list((tmp_path / "x").rglob("*.pt"))
    card = (tmp_path / "x" / "README.md").read_text(encoding="utf-8")
    _, metadata, text = card.split("---\n", 2)
    assert yaml.safe_load(metadata)["library_name"] == "monai"
    assert yaml.safe_load(metadata)["license_link"] == "LICENSE.weights"
    assert text.strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip()
    download_large_files(str(tmp_path / "x"))
    assert {path.relative_to(upload) for path in upload.rglob("*.pt")} == {Path(WEIGHTS), Path(BRAIN), Path(CONTRAST)}
    assert weights_hash(tmp_path / "x" / WEIGHTS) == weights_hash(upload / WEIGHTS)
    (upload / BRAIN).write_bytes(b"another file")
    (tmp_path / "x" / BRAIN).unlink()
    with pytest.raises(HashCheckError, match=r"model\.pt"):
        download_large_files(str(tmp_path / "x"))


def test_onnx_gives_the_same_restoration(tmp_path):
    """MONAI's own export, run by ONNX Runtime."""
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name)
    runtime = pytest.importorskip("onnxruntime")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's exporter speaks of its own inside
        onnx_export(filepath=str(tmp_path / "model.onnx"), input_shape=[2, 1, 128, 128], **OF_THE_MAIN_JOB)
    network = network_of_the_main_job()
    image = torch.rand(2, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    session = runtime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(answer, network(image).numpy(), atol=1e-3)


def test_what_cannot_be_exported_is_said(tmp_path, capsys):
    with pytest.raises(FlipmapError, match="flair, t1w, t2w, oct"):
        export("ultrasound", "default", tmp_path / "x.zip")
    with pytest.raises(FlipmapError, match=r"no method of that name.*structured_flips"):
        export("flair", "guessing", tmp_path / "x.zip")
    (tmp_path / "x.zip").touch()
    with pytest.raises(OutputError, match="is there already"):
        export("flair", "default", tmp_path / "x.zip")
    assert main(["export", str(tmp_path / "x.zip")]) == 2
    assert "is there already" in capsys.readouterr().err


def test_names_say_nothing_that_monai_label_would_misread():
    for modality in MODALITIES.values():
        for method in (DEFAULT, *modality.methods):
            name = export_name(modality.name, method)
            assert not any(word in name for word in ("detection", "classification", "deepedit", "deepgrow"))


def test_torchscript_gives_the_same_restoration(tmp_path):
    """MONAI's own export: the network restores a slice, traced as loaded."""
    ckpt_export(filepath=str(tmp_path / "model.ts"), use_trace=True, input_shape=[1, 1, 128, 128], **OF_THE_MAIN_JOB)
    network = network_of_the_main_job()
    traced = torch.jit.load(tmp_path / "model.ts")
    image = torch.rand(1, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(traced(image), network(image), rtol=1e-4, atol=1e-4)
