# SPDX-License-Identifier: Apache-2.0
"""Weights and calibrations of one's own lie in a folder of one's own; those that ship are never replaced by the way."""

import hashlib
import json
import shutil

import pytest
import torch
from monai.bundle import ConfigParser

from bundle.cli import main
from bundle.errors import WeightsError
from bundle.modalities import DEFAULT, MODALITIES
from bundle.networks.weights import load_weights
from bundle.pipeline.job import Job
from tests.conftest import ROOT

MODELS = ROOT / "models"
INTENSITY = MODALITIES["flair"].configs("intensity")


def hashes():
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in MODELS.rglob("*") if path.is_file()}


@pytest.fixture
def split(tmp_path):
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"subjects": {"training": ["sub-00"], "validation": ["sub-01", "sub-02"]}}))
    return str(path)


@pytest.mark.parametrize(
    "command",
    [
        ["calibrate", "--dataset_dir", "DATA", "--split", "SPLIT", "--only", "intensity"],
        ["join-weights", str(MODELS / "model.pt"), str(MODELS / "model.pt")],
        ["odds", "DATA"],
        ["lab", "several", "calibrate", "DATA"],
    ],
    ids=lambda command: command[0],
)
def test_what_ships_is_not_replaced_unless_asked(command, bids_folder, split, capsys):
    before = hashes()
    known = {"DATA": str(bids_folder), "SPLIT": split}
    assert main([known.get(one, one) for one in command]) == 2
    said = capsys.readouterr().err
    assert "--models DIR" in said
    assert "--overwrite-shipped" in said
    assert len(said.strip().splitlines()) == 1
    assert hashes() == before


def test_what_ships_is_replaced_where_that_is_asked(tmp_path, bids_folder, split, monkeypatch):
    """On a copy of the bundle's models."""
    copy = tmp_path / "bundle"
    shutil.copytree(ROOT / "configs", copy / "configs")
    shutil.copytree(MODELS, copy / "models")
    for module in ("paths", "model_files", "modalities", "evaluation.calibrate"):
        monkeypatch.setattr(f"bundle.{module}.bundle_root", lambda: str(copy))
    arguments = ["calibrate", "--dataset_dir", str(bids_folder), "--split", split, "--only", "intensity"]
    assert main(arguments) == 2
    assert main([*arguments, "--overwrite-shipped"]) == 0
    entries = json.loads((copy / "models" / "calibration.json").read_text())
    assert entries["intensity"]["patients"] == 3
    assert set(entries) == set(json.loads((MODELS / "calibration.json").read_text()))


def test_a_calibration_of_ones_own_is_written_and_read_in_the_folder(tmp_path, bids_folder, split):
    own, before = tmp_path / "own", hashes()
    arguments = ["calibrate", "--models", str(own), "--dataset_dir", str(bids_folder), "--split", split]
    assert main([*arguments, "--only", "intensity"]) == 0
    assert list(json.loads((own / "calibration.json").read_text())) == ["intensity"]
    shipped, ours = Job(INTENSITY), Job(INTENSITY, models_dir=str(own))
    assert ours.calibration_hash != shipped.calibration_hash
    assert ours.calibration_points["patients"] == 3
    assert ours.fingerprint != shipped.fingerprint
    assert hashes() == before
    with pytest.raises(WeightsError, match="no entry"):
        Job(models_dir=str(own))  # the default has not been calibrated there
    scans = bids_folder / "sub-03" / "anat" / "sub-03_FLAIR.nii.gz"
    method = str(ROOT / "configs" / "methods" / "intensity.json")
    assert main(["run", str(scans), str(tmp_path / "out"), "--models", str(own), "--config", method]) == 0


def test_a_calibration_of_one_patient_is_refused(tmp_path, bids_folder, capsys):
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"subjects": {"training": ["sub-00"], "validation": ["sub-01"]}}))
    own = tmp_path / "own"
    arguments = ["calibrate", "--models", str(own), "--dataset_dir", str(bids_folder), "--split", str(split)]
    assert main([*arguments, "--only", "structured_flips"]) == 3
    assert "would be calibrated on 1 patient with" in capsys.readouterr().err
    assert not (own / "calibration.json").exists()


@pytest.mark.parametrize("modality", MODALITIES)
def test_weights_of_ones_own_come_with_calibrations_of_ones_own(tmp_path, modality):
    """Those of other places stay the shipped ones; with the weights alone there is no calibration yet."""
    parser = ConfigParser()
    parser.read_config([str(path) for path in MODALITIES[modality].configs(DEFAULT)])
    parser.update({"bundle_root": str(ROOT), "models_dir": None})
    ids = ("weights", "tables", "brain_weights")
    shipped = {key: parser.get_parsed_content(key) for key in ids}
    assert all(path.startswith(str(MODELS)) for path in shipped.values())
    relative = shipped["weights"].removeprefix(f"{MODELS}/")
    (tmp_path / relative).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / relative).write_bytes(b"")
    parser.update({"models_dir": str(tmp_path)})
    parser.parse(reset=True)
    assert parser.get_parsed_content("weights") == str(tmp_path / relative)
    assert parser.get_parsed_content("tables") == shipped["tables"].replace(str(MODELS), str(tmp_path))
    assert parser.get_parsed_content("brain_weights") == shipped["brain_weights"]


@pytest.mark.parametrize("made", [False, True])
def test_a_folder_that_is_none_of_models_is_refused(tmp_path, made, capsys):
    own = tmp_path / "own"
    if made:
        own.mkdir()
    assert main(["run", str(tmp_path), str(tmp_path / "out"), "--models", str(own)]) == 2
    said = capsys.readouterr().err
    assert str(own) in said
    assert ("calibration.json" if made else "no such folder") in said


def test_joining_says_what_is_left_out_and_takes_the_rest_where_asked(tmp_path, capsys):
    whole = torch.load(MODELS / "model.pt", weights_only=True)
    trained = {key: one for key, one in whole.items() if key.startswith(("autoencoder.", "denoiser."))}
    torch.save(trained, tmp_path / "weights.pt")
    arguments = ["join-weights", "--models", str(tmp_path / "own"), "model.pt", str(tmp_path / "weights.pt")]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "left out: restoration, lesions" in said
    assert set(torch.load(tmp_path / "own" / "model.pt", weights_only=True)) == set(trained)
    with pytest.raises(WeightsError, match="without lesions and restoration, which this network has"):
        Job(models_dir=str(tmp_path / "own"))

    assert main([*arguments, "--rest", str(MODELS / "model.pt")]) == 0
    assert "left out" not in capsys.readouterr().out
    assert set(torch.load(tmp_path / "own" / "model.pt", weights_only=True)) == set(whole)
    known = json.loads((tmp_path / "own" / "provenance.json").read_text())
    assert set(known["parts"]) == {"", "rest"}


def test_joining_names_what_is_no_weights(tmp_path, capsys):
    (tmp_path / "text.pt").write_text("no weights")
    for given, why in (("nowhere.pt", "no such file"), ("text.pt", "no weights")):
        assert main(["join-weights", str(tmp_path / "new.pt"), str(tmp_path / given)]) == 2
        assert f"{given}: {why}" in capsys.readouterr().err
    assert main(["join-weights", str(tmp_path / "new.pt"), str(tmp_path / "text.pt"), "lesions"]) == 2
    assert not (tmp_path / "new.pt").exists()


def test_weights_that_lack_a_part_are_named_so(tmp_path, network):
    state = {key: one for key, one in network.state_dict().items() if not key.startswith("denoiser.")}
    torch.save(state, tmp_path / "part.pt")
    with pytest.raises(WeightsError, match=r"without denoiser, .*--rest"):
        load_weights(network, tmp_path / "part.pt")
