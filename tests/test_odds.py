# SPDX-License-Identifier: Apache-2.0
"""Odds of findings: what is promised of healthy scans, and what is kept of a map."""

import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor

from bundle.errors import FlipmapError, WeightsError
from bundle.evaluation.healthy_findings import healthy_scan
from bundle.scoring.calibration import RARER, Calibrated, Calibration, Rarer, read_calibration, write_calibration
from bundle.scoring.findings import ALL, FindFindingsd, check_false_findings, find_findings, kept
from bundle.scoring.healthy_tissue import HealthyScan
from bundle.scoring.odds import (
    FindingOdds,
    extremeness,
    in_words,
    read_odds,
    share_of_healthy,
    write_odds,
)

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


def healthy(seed, scans=30, findings=40, source="here", litres=1.2):
    rng = np.random.RandomState(seed)
    return [HealthyScan(rng.exponential(0.6, rng.poisson(findings)) - 1, 1000 * litres, source) for _ in range(scans)]


@pytest.fixture(scope="module")
def odds():
    return FindingOdds.fit([*healthy(0), *healthy(1, source="there")], 2.0, "hash")


@pytest.mark.parametrize("promised", [10.0, 1.0, 0.1])
def test_healthy_scans_of_a_new_place_have_as_many_as_promised(odds, promised):
    scans = healthy(2, scans=400)
    seen = np.mean([(odds.expected(scan.extreme, scan.organ_ml)[0] <= promised).sum() for scan in scans])
    assert promised / 1.5 <= seen <= promised * 1.5


def test_places_count_alike_however_many_scans_they_have():
    few, many = healthy(3, scans=4, findings=80), healthy(4, scans=60, findings=20, source="there")
    both = FindingOdds.fit([*few, *many], 2.0)
    least = min(np.concatenate([scan.extreme for scan in (*few, *many)]))
    assert float(both.expected(least, 1200.0)[0]) == pytest.approx(50, rel=0.15)


def test_a_place_is_left_out_for_its_own_scans():
    quiet, loud = healthy(5, findings=10), healthy(6, findings=100, source="loud")
    both = FindingOdds.fit([*quiet, *loud], 2.0)
    assert float(both.without("loud").expected(0.0, 1200.0)[0]) < float(both.expected(0.0, 1200.0)[0]) / 3
    assert both.without("elsewhere") is both
    alone = FindingOdds.fit(quiet, 2.0)
    assert alone.without("here") is alone


@given(st.lists(st.floats(-4, 30), min_size=2, max_size=20))
@settings(max_examples=50, deadline=None)
def test_more_extreme_is_never_less_rare(extreme):
    odds = FindingOdds.fit(healthy(7), 2.0)
    ordered = np.sort(extreme)
    expected, beyond = odds.expected(ordered, 1300.0)
    assert (np.diff(expected) <= 0).all()
    assert (np.diff(beyond.astype(int)) >= 0).all()
    assert (expected > 0).all()


def test_the_case_score_has_no_ceiling(odds):
    scores = [odds.score([value], 1200.0)[0] for value in (-5.0, 0.0, 2.0, 6.0, 12.0, 25.0)]
    assert all(low < high for low, high in itertools.pairwise(scores[1:]))
    assert scores[0] >= 0
    assert odds.score([25.0], 1200.0)[1], "beyond the table, by the fitted law"
    assert odds.score([], 1200.0) == (0.0, False)


def test_beyond_is_more_extreme_than_anything_that_was_counted():
    odds = FindingOdds.fit(healthy(8), 2.0)
    most = max(odds.tissue["here"].extreme)
    assert not odds.expected(most, 1200.0)[1]
    assert odds.expected(most + 0.01, 1200.0)[1]
    assert float(odds.expected(most, 1200.0)[0]) == pytest.approx(1 / 30, rel=0.01), "one in thirty scans"


def test_findings_that_are_all_alike_make_a_table():
    odds = FindingOdds.fit([HealthyScan(np.full(12, 1.0), 1000.0)], 2.0)
    assert odds.score([0.5], 1000.0)[0] == pytest.approx(0.0, abs=1e-4)
    assert odds.score([3.0], 1000.0)[0] > 0


def test_the_share_of_healthy_scans():
    rng = np.random.RandomState(0)
    for expected in (0.01, 0.5, 3.0):
        assert share_of_healthy(expected) == pytest.approx((rng.poisson(expected, 200_000) > 0).mean(), abs=0.005)


@pytest.mark.parametrize(
    ("change", "kind"),
    [("larger", "size"), ("higher", "height"), ("deeper", "place")],
)
def test_what_is_larger_higher_or_deeper_is_more_extreme(change, kind):
    values = np.full(20, 2.5)
    plain = extremeness(values, 0.01, 3.0, 2.0)
    other = {
        "larger": extremeness(np.full(40, 2.5), 0.01, 3.0, 2.0),
        "higher": extremeness(values + 1, 0.01, 3.0, 2.0),
        "deeper": extremeness(values, 0.01, 9.0, 2.0),
    }
    assert other[change] > plain, kind


def test_a_voxel_cut_in_eight_is_as_extreme():
    """The same finding on a finer grid: same volume, same values."""
    assert extremeness(np.full(8, 3.0), 0.001, 5, 2.0) == pytest.approx(extremeness(np.full(1, 3.0), 0.008, 5, 2.0))


def test_files_go_round_and_belong_to_one_calibration(odds, tmp_path, caplog):
    path = tmp_path / "odds.json"
    assert read_odds(path, "fused", "hash", 2.0) is None
    assert "flipmap odds makes them" in caplog.text
    write_odds(path, "fused", [odds])
    back = read_odds(path, "fused", "hash", 2.0)
    assert back == odds
    np.testing.assert_array_equal(back.per_litre, odds.per_litre)
    assert back.healthy_scores == odds.healthy_scores
    for calibration, threshold in (("another", 2.0), ("hash", 2.5)):
        caplog.clear()
        assert read_odds(path, "fused", calibration, threshold) is None
        assert "all findings are kept" in caplog.text
    path.write_text(json.dumps({"fused": [{"tissue": {"a": {"organ_ml": [2.0, 1.0]}}}]}))
    with pytest.raises(WeightsError, match="no odds"):
        read_odds(path, "fused", "hash", 2.0)


def test_too_little_healthy_tissue_is_an_error():
    with pytest.raises(ValueError, match="at least 10"):
        FindingOdds.fit([HealthyScan(np.arange(4.0), 1200.0)], 2.0)


@pytest.fixture
def item():
    """A brain with a strong place in its depth, a faint one at its surface, and a lone voxel."""
    anomaly = np.zeros((60, 60, 20), np.float32)
    brain = np.zeros(anomaly.shape, np.float32)
    brain[4:56, 4:56, 1:19] = 1
    anomaly[25:32, 25:32, 8:11], anomaly[5:7, 30:34, 10], anomaly[40, 40, 5] = 4.5, 2.2, 2.1
    tensors = {key: MetaTensor(torch.from_numpy(v[None]), affine=torch.as_tensor(AFFINE)) for key, v in
               (("pred", anomaly), ("brain", brain), ("mask", (anomaly >= 2).astype(np.float32)))}  # fmt: skip
    return {**tensors, "units": "", "table_end": 5.0}


@pytest.fixture
def shipped(tmp_path):
    """A calibration, and odds that are made with it."""
    calibration = Calibration.fit([np.random.RandomState(0).rand(10_000)])
    write_calibration(tmp_path / "calibration.json", "fused", calibration)
    scans = [HealthyScan(np.random.RandomState(n).normal(1.5, 0.6, 20), 1200.0, "here") for n in range(10)]
    known = read_calibration(tmp_path / "calibration.json", "fused").hash
    write_odds(tmp_path / "odds.json", "fused", [FindingOdds.fit(scans, 2.0, known)])
    return tmp_path


def found(item, folder, **settings):
    files = {"odds": folder / "odds.json", "calibration": folder / "calibration.json"}
    return FindFindingsd("pred", threshold=2.0, method="fused", scored_ml=0.1, **files, **settings)(item)


def test_the_mask_is_of_the_findings_that_are_kept(item, shipped):
    result = found(item, shipped)
    findings = result["findings"]
    assert [one["peak"] for one in findings["findings"]] == [4.5]
    assert findings["left_out"] == 2
    assert findings["findings"][0]["expected"] <= 1
    assert result["mask"].sum() == 7 * 7 * 3
    assert result["pred"].max() == 4.5
    assert (result["pred"] > 0).sum() == 7 * 7 * 3 + 8 + 1, "the map keeps every voxel"
    assert findings["case_score"] > 1
    whole = found(item, shipped, false_findings=ALL)
    assert len(whole["findings"]["findings"]) == 3
    assert whole["mask"].sum() == 7 * 7 * 3 + 8 + 1
    assert whole["findings"]["case_score"] == findings["case_score"], "it is of the scan, whatever is shown"
    expected = [one["expected"] for one in whole["findings"]["findings"]]
    assert expected == sorted(expected)


def test_without_odds_all_are_kept_and_there_is_no_case_score(item, shipped):
    (shipped / "odds.json").unlink()
    findings = found(item, shipped)["findings"]
    assert len(findings["findings"]) == 3
    assert findings["case_score"] is None
    assert findings["false_findings"] == ALL
    assert findings["highest_value"] > 0


def test_odds_of_another_calibration_are_not_used(item, shipped):
    write_calibration(shipped / "calibration.json", "fused", Calibration.fit([np.random.RandomState(1).rand(9_000)]))
    assert found(item, shipped)["findings"]["case_score"] is None


@pytest.mark.parametrize("given", [0, -1, "many", float("nan")])
def test_no_number_of_false_findings(given):
    with pytest.raises(FlipmapError, match="above 0"):
        check_false_findings(given)


def test_what_counts_as_kept(odds):
    anomaly = np.zeros((20, 20, 20), np.float32)
    anomaly[5:9, 5:9, 5:9] = 3
    findings = find_findings(anomaly, anomaly > 0, np.eye(4), 2.0, np.ones(anomaly.shape, bool), odds)
    assert kept(findings, "all") == findings
    assert kept(findings, findings[0].expected) == findings
    assert kept(findings, findings[0].expected / 2) == []


def test_what_lies_beyond_the_table_of_the_map_still_ranks():
    """Two lesions that both reach the end of the map's table: the stronger one is the more extreme."""
    table = Calibration.fit([np.random.RandomState(0).rand(10_000)])
    transform = object.__new__(Calibrated)
    transform.keys, transform.allow_missing_keys = ("pred",), False
    transform.calibration, transform.units_key, transform.end_key = table, "units", "table_end"
    raw = torch.zeros(1, 20, 20, 5)
    raw[0, 3:6, 3:6, 2], raw[0, 12:15, 12:15, 2] = 2.0, 5.0
    item = transform({"pred": MetaTensor(raw)})
    values = item["pred"].numpy()[0]
    assert values.max() == np.float32(table.end)
    np.testing.assert_array_equal(values, table(raw.numpy())[0])
    findings = find_findings(values, values >= 2, np.eye(4), 2.0, np.ones(values.shape, bool), None, item[RARER])
    assert [one.centre_voxel for one in findings] == [(13, 13, 2), (4, 4, 2)]
    assert findings[0].extreme > findings[1].extreme + 1
    assert findings[0].peak == findings[1].peak == round(table.end, 3)


def test_rarer_values_stay_where_the_map_is():
    values = np.zeros((2, 2, 1), np.float32)
    values[0, 0, 0] = 5
    whole = Rarer(np.array([0, 3]), np.array([7.0, 9.0], np.float32)).lay_over(values)
    assert whole[0, 0, 0] == 7
    assert whole[1, 1, 0] == 0, "outside the organ"


def test_healthy_tissue_of_ill_people(item):
    """What touches a lesion is left out; where a tumour is, its slices are."""
    lesion = np.zeros((60, 60, 20), bool)
    lesion[31:36, 25:30, 9] = True
    scan = healthy_scan({**item}, "brain", 2.0, lesion, "here")
    assert len(scan.extreme) == 2
    whole = healthy_scan({**item}, "brain", 2.0)
    assert len(whole.extreme) == 3
    assert whole.organ_ml == pytest.approx(52 * 52 * 18 * 0.002)
    slices = healthy_scan({**item}, "brain", 2.0, lesion, slices_alone=True)
    assert len(slices.extreme) == 1, "the lone voxel, four slices away"
    assert slices.organ_ml == pytest.approx(52 * 52 * 15 * 0.002)


@pytest.mark.parametrize(
    ("expected", "beyond", "words"),
    [
        (3.2, False, "a healthy scan has on average 3.2 findings as extreme"),
        (0.1, False, "about one in 11 healthy scans has one like it"),
        (1e-3, True, "about one in 1,000 healthy scans has one like it, by extrapolation"),
        (1e-9, True, "fewer than one in 10,000 healthy scans has one like it, by extrapolation"),
    ],
)
def test_odds_in_words(expected, beyond, words):
    assert in_words(expected, beyond) == words
