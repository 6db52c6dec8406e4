# SPDX-License-Identifier: Apache-2.0
"""Findings: volumes and places in the world, whatever the grid; the same highest value for every voxel size."""

import json

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from bundle.pipeline.save import SaveFindingsd
from bundle.scoring.findings import FindFindingsd, RemoveSmalld, SmoothMapd, find_findings, highest_value
from tests.test_mri import oblique, reoriented

AFFINE = np.array([[-2.0, 0, 0, 60], [0, -1.5, 0, 70], [0, 0, 4.0, -30], [0, 0, 0, 1]])


@pytest.fixture
def anomaly():
    """Two blocks: a large faint one and a small strong one; and one voxel."""
    data = np.full((30, 40, 12), 0.5, np.float32)
    data[3:9, 4:14, 2:6] = 2.5
    data[20:22, 30:32, 8:10] = 6.0
    data[28, 2, 11] = 2.2
    return data


def metatensor(data, affine):
    return MetaTensor(torch.from_numpy(np.ascontiguousarray(data))[None], affine=torch.as_tensor(affine))


@pytest.mark.parametrize("codes", ["LPS", "RAS", "PSR", "SAL"])
@pytest.mark.parametrize("tilt", [0, 18])
def test_volumes_and_places_do_not_hang_on_the_grid(anomaly, codes, tilt):
    upright = oblique(AFFINE, tilt)
    data, affine = reoriented(anomaly, upright, codes)
    found = find_findings(data, data >= 2, affine, 2.0)
    assert [f.rank for f in found] == [1, 2, 3]
    strong, faint, lone = found
    assert faint.volume_ml == pytest.approx(6 * 10 * 4 * 0.012)
    assert faint.excess == pytest.approx(6 * 10 * 4 * 0.012 * 0.5, abs=1e-3)
    assert (strong.peak, strong.mean) == (6, 6)
    assert lone.volume_ml == pytest.approx(0.012)
    np.testing.assert_allclose(faint.centre_mm, (upright @ [5.5, 8.5, 3.5, 1])[:3], atol=0.01)
    np.testing.assert_allclose(lone.peak_mm, (upright @ [28, 2, 11, 1])[:3], atol=0.01)
    assert sorted(faint.extent_mm) == pytest.approx([12, 15, 16])
    assert data[faint.centre_voxel] == 2.5, "the centre voxel lies within the component"


def test_no_finding_is_an_empty_list(anomaly):
    assert find_findings(anomaly, anomaly > 99, AFFINE, 99.0) == []


def test_voxels_that_touch_at_a_corner_belong_together():
    mask = np.zeros((4, 4, 4), bool)
    mask[1, 1, 1] = mask[2, 2, 2] = True
    assert len(find_findings(mask.astype(np.float32), mask, np.eye(4), 0.5)) == 1


def test_highest_value(anomaly):
    fine = anomaly.repeat(2, 0).repeat(2, 1)
    finer = AFFINE @ np.diag([0.5, 0.5, 1, 1])
    assert highest_value(anomaly, AFFINE) == highest_value(fine, finer) == 2.5, "the small one has less"
    assert highest_value(np.where(anomaly > 5, 0.5, anomaly), AFFINE) == 2.5
    assert highest_value(np.full((3, 3, 3), 1.5), AFFINE) == 1.5, "less than a millilitre in all"


def test_small_ones_go_and_zero_changes_nothing(anomaly):
    item = {"mask": metatensor(anomaly >= 2, AFFINE)}
    assert torch.equal(RemoveSmalld("mask")(item)["mask"], item["mask"])
    left = RemoveSmalld("mask", min_ml=0.05)(item)["mask"][0].numpy()
    assert np.array_equal(left > 0, (anomaly >= 2) & (np.indices(anomaly.shape)[0] < 25))


def test_smoothing_is_by_millimetres(anomaly):
    point = np.zeros((21, 21, 21), np.float32)
    point[10, 10, 10] = 1
    item = {"map": metatensor(point, np.diag([1.0, 2.0, 4.0, 1.0]))}
    assert torch.equal(SmoothMapd("map")(item)["map"], item["map"])
    smooth = SmoothMapd("map", sigma_mm=4.0)(item)["map"][0].numpy()
    assert smooth.sum() == pytest.approx(1, abs=0.02)
    assert smooth[14, 10, 10] == pytest.approx(smooth[10, 12, 10], rel=0.02)
    assert smooth[14, 10, 10] == pytest.approx(smooth[10, 10, 11], rel=0.05)


def test_saved_as_json(tmp_path, anomaly):
    item = {"name": "a", "image": None, "pred": metatensor(anomaly, AFFINE), "mask": metatensor(anomaly >= 2, AFFINE)}
    item["brain"] = torch.ones_like(item["pred"])
    item = FindFindingsd("pred", threshold=2.0, method="m")(item)
    SaveFindingsd("findings", tmp_path)(item)
    said = json.loads((tmp_path / "a_findings.json").read_text())
    assert (said["scan"], said["method"], said["threshold"], len(said["findings"])) == ("a", "m", 2.0, 3)
    assert said["anomalous_ml"] == pytest.approx((6 * 10 * 4 + 8 + 1) * 0.012, abs=1e-3)
    assert said["brain_ml"] == pytest.approx(anomaly.size * 0.012, abs=0.1)
    assert [p.name for p in tmp_path.iterdir()] == ["a_findings.json"]
