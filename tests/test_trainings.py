# SPDX-License-Identifier: Apache-2.0
"""Trainings compared: calibrated for each, kept, and made anew for other weights; mean and spread of the figures."""

import csv
import json

import pytest
import torch
from monai.bundle import ConfigParser

from bundle.cli import main
from bundle.scoring.calibration import read_calibration
from tests.conftest import ROOT


def save_random_weights(path, seed):
    torch.manual_seed(seed)
    parser = ConfigParser()
    parser.read_config(ROOT / "configs" / "inference.json")
    parser.update({"network_def#restoration": "$None"})
    network = parser.get_parsed_content("network_def")
    torch.nn.init.normal_(network.denoiser.out[2].conv.weight, std=0.1)  # MONAI zeroes it: no two would differ
    path.parent.mkdir(exist_ok=True)
    # As the recipe of the denoiser leaves them.
    torch.save({k: v for k, v in network.state_dict().items() if not k.startswith("lesions.")}, path)


@pytest.mark.slow
def test_trainings_in_units_of_their_own(bids_folder, tmp_path):
    split = tmp_path / "split.json"
    split.write_text(
        json.dumps(
            {"subjects": {"training": ["sub-00", "sub-04"], "validation": ["sub-01", "sub-03"], "test": ["sub-02"]}}
        )
    )
    files = [tmp_path / name / "weights.pt" for name in ("a", "b")]
    for seed, file in enumerate(files):
        save_random_weights(file, seed)
    arguments = ["compare-trainings", "--dataset_dir", str(bids_folder), "--split", str(split), "--part", "test"]
    arguments += ["--output_dir", str(tmp_path), "--weights", *map(str, files)]
    assert main(arguments) == 0
    units = [file.parent / "calibration" / "calibration.json" for file in files]
    for file, unit in zip(files, units, strict=True):
        joined = unit.parent / "model.pt"
        assert torch.equal(
            torch.load(joined)["denoiser.out.2.conv.weight"], torch.load(file)["denoiser.out.2.conv.weight"]
        )
        assert read_calibration(unit, "fused", [joined, ROOT / "models" / "brain_mask" / "model.pt"]).voxels
    made = [unit.stat().st_mtime_ns for unit in units]
    with (tmp_path / "trainings.csv").open() as file:
        table = list(csv.DictReader(file))
    rows = [row for row in table if row["map"] == "structured_flips"]
    first, second, mean, spread = (float(row["auprc"]) for row in rows)
    assert [row["training"] for row in rows] == ["1", "2", "mean", "standard deviation"]
    assert mean == pytest.approx((first + second) / 2, rel=1e-3)
    assert spread == pytest.approx(abs(first - second) / 2**0.5, rel=1e-2)

    assert len({row["auprc"] for row in table if row["map"] == "intensity, smoothed"}) == 1

    save_random_weights(files[1], 2)
    assert main(arguments) == 0
    assert units[0].stat().st_mtime_ns == made[0]
    assert units[1].stat().st_mtime_ns > made[1]
