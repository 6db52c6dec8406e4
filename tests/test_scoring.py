# SPDX-License-Identifier: Apache-2.0
"""Calibration and figures of merit, against direct counts."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from bundle.errors import WeightsError
from bundle.evaluation.metrics import Pooled, VoxelAveragePrecision, bin_edges, bootstrap_interval
from bundle.methods.intensity import Intensity
from bundle.methods.reconstruction import Reconstruction
from bundle.scoring.calibration import (
    RAW_UNITS,
    Calibrated,
    Calibration,
    read_calibration,
    weights_hash,
    write_calibration,
)
from bundle.scoring.description import describe, differences_between
from bundle.transforms.mri import ScaleHeadIntensityd

RNG = np.random.RandomState(0)
HEALTHY = RNG.gamma(2, 0.1, 500_000)


@pytest.mark.parametrize("rate", [0.1, 0.01, 0.001])
def test_a_value_is_a_tail_probability(rate):
    calibration = Calibration.fit([HEALTHY])
    fresh = np.random.RandomState(1).gamma(2, 0.1, 500_000)
    assert (calibration(fresh) >= -np.log10(rate)).mean() == pytest.approx(rate, rel=0.1)


def test_values_rise_and_end_where_the_voxels_end():
    calibration = Calibration.fit([HEALTHY])
    known = np.linspace(0.5, calibration.score[-1], 1000)
    assert (np.diff(calibration(known)) > 0).all()
    assert calibration.end == pytest.approx(np.log10(len(HEALTHY) / 10), abs=1e-6), "ten voxels are left there"
    beyond = np.linspace(calibration.score[-1], 30 * HEALTHY.max(), 1000)
    assert (calibration(beyond) == np.float32(calibration.end)).all()
    ranked = calibration(beyond, capped=False)
    assert (np.diff(ranked) > 0).all()
    assert ranked[0] == np.float32(calibration.end)
    assert calibration(np.zeros(3)).tolist() == [0, 0, 0]
    assert calibration(np.array([[0.1]])).dtype == np.float32


def test_many_equal_scores_are_healthy():
    calibration = Calibration.fit([np.zeros(90_000), RNG.rand(10_000)])
    assert float(calibration(np.array(1e-9))) <= 1.01
    assert (calibration(RNG.rand(10_000)) >= 2).mean() == pytest.approx(0.1, abs=0.02)


def drawn_patients(rng, count):
    """Healthy scores of patients who differ as scanners make them differ."""
    return [rng.gamma(2, 0.1, 3000) * np.exp(0.3 * rng.standard_normal()) for _ in range(count)]


def test_a_bound_holds_for_most_other_patients():
    rng, kept = np.random.RandomState(2), {None: 0, 0.8: 0}
    for _ in range(100):
        seen, unseen = drawn_patients(rng, 14), np.concatenate(drawn_patients(rng, 14))
        for percentile in kept:
            kept[percentile] += (unseen >= Calibration.fit(seen, percentile=percentile).threshold(0.01)).mean() <= 0.01
    assert kept[None] < 65, "the tail as it is, is too light for about half of other patients"
    assert kept[0.8] >= 65
    assert kept[0.8] > kept[None] + 10


def test_a_bound_only_ever_lowers_the_values():
    patients = drawn_patients(np.random.RandomState(3), 6)
    plain, bound = Calibration.fit(patients), Calibration.fit(patients, percentile=0.9)
    scores = np.linspace(0, 3 * max(one.max() for one in patients), 1000)
    assert (bound(scores) <= plain(scores) + 1e-6).all()
    assert (np.diff(bound(scores)) >= 0).all()
    assert bound.percentile == 0.9
    assert bound.threshold(0.01) > plain.threshold(0.01)
    assert float(bound(np.array(bound.threshold(0.01)))) == pytest.approx(2, abs=1e-3)


def test_one_patient_has_no_bound():
    assert Calibration.fit([HEALTHY, []], percentile=0.9).value == Calibration.fit([HEALTHY]).value


@pytest.mark.parametrize(
    ("healthy", "percentile", "reason"),
    [
        ([], 0.8, "no healthy voxel"),
        ([np.array([])], None, "no healthy voxel"),
        ([HEALTHY], 80, "80"),
        ([np.zeros(10_000)], None, "all healthy scores are 0"),
        ([np.full(10_000, 0.3), np.full(50, 0.3)], 0.8, "all healthy scores are 0.3"),
    ],
)
def test_a_calibration_that_cannot_be_made(healthy, percentile, reason):
    with pytest.raises(ValueError, match=reason):
        Calibration.fit(healthy, percentile=percentile)


def test_calibration_file(tmp_path):
    weights = tmp_path / "model.pt"
    weights.write_bytes(b"weights")
    path = tmp_path / "calibration.json"
    calibration = Calibration.fit([HEALTHY], weights_hash(weights), {"inferer.Intensity.smoothing": 0.0})
    write_calibration(path, "one", calibration)
    write_calibration(path, "two", calibration)
    again = read_calibration(path, "one")
    np.testing.assert_allclose(again(HEALTHY[:1000]), calibration(HEALTHY[:1000]), atol=1e-3)
    assert again.voxels == len(HEALTHY)
    applied = Calibrated("pred", path, "two", [weights])({"pred": torch.full((1, 2, 2, 2), 0.9)})["pred"]
    assert float(applied[0, 0, 0, 0]) == pytest.approx(float(calibration(np.array(0.9))), abs=1e-3)
    with pytest.raises(WeightsError, match="no entry 'three', only one, two"):
        read_calibration(path, "three")
    weights.write_bytes(b"other weights")
    with pytest.raises(WeightsError, match="is not for"):
        Calibrated("pred", path, "two", [weights])
    with pytest.raises(WeightsError, match="no calibration"):
        read_calibration(tmp_path / "absent.json", "one")


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"score": [], "value": [], "voxels": 0}, "0 scores"),
        ({"score": [0.1], "value": [0.0], "voxels": 9}, "1 scores"),
        ({"score": [0.1, 0.2], "value": [0.0], "voxels": 9}, "2 scores and 1 values"),
        ({"score": [0.1, 0.1], "value": [0.0, 1.0], "voxels": 9}, "does not rise"),
        ({"score": [0.1, 0.2], "value": [1.0, 1.0], "voxels": 9}, "does not rise"),
        ({"score": [0.1, float("nan")], "value": [0.0, 1.0], "voxels": 9}, "not finite"),
    ],
)
def test_a_broken_table_is_an_error_and_no_nan(tmp_path, entry, reason):
    (tmp_path / "calibration.json").write_text(json.dumps({"one": entry}))
    with pytest.raises(WeightsError, match=reason):
        read_calibration(tmp_path / "calibration.json", "one")


def test_a_calibration_is_refused_for_other_settings(tmp_path):
    made = describe(preprocessing=[ScaleHeadIntensityd("image", spread=0.1)], inferer=Intensity(smoothing=2.0))
    write_calibration(tmp_path / "c.json", "one", Calibration.fit([HEALTHY], made_with=made))
    same = {"preprocessing": [ScaleHeadIntensityd("other", spread=0.1)], "inferer": Intensity(smoothing=2.0)}
    Calibrated("pred", tmp_path / "c.json", "one", parts=same)
    for part, other, said in (
        ("preprocessing", [ScaleHeadIntensityd("image", headroom=1.5, spread=0.1)], "headroom is 1.5, it was 3.0"),
        ("preprocessing", [ScaleHeadIntensityd("image")], "spread is None, it was 0.1"),
        ("inferer", Intensity(), "smoothing is 0.0, it was 2.0"),
        ("inferer", Reconstruction(smoothing=2.0), "Reconstruction"),
    ):
        with pytest.raises(WeightsError, match=said) as caught:
            Calibrated("pred", tmp_path / "c.json", "one", parts={**same, part: other})
        assert "flipmap calibrate" in caught.value.remedy
        assert "calibration=none" in caught.value.remedy
    # How fast, and in which precision, is no matter of the units.
    Calibrated(
        "pred", tmp_path / "c.json", "one", parts={**same, "inferer": Intensity(smoothing=2.0, slices_per_pass=1)}
    )


def test_raw_scores_say_so():
    case = Calibrated("pred", "none", "one")({"pred": torch.full((1, 2, 2, 2), 0.9)})
    assert case["units"] == RAW_UNITS
    assert "table_end" not in case
    assert float(case["pred"].max()) == pytest.approx(0.9)


@pytest.fixture
def patients():
    scores, lesions = [], []
    for number in range(5):
        lesion = RNG.rand(20_000) < 0.03 * number
        scores.append((RNG.gamma(2, 0.2, 20_000) + lesion * RNG.gamma(2, 0.3, 20_000)).astype(np.float32))
        lesions.append(lesion)
    return scores, lesions


def test_binned_figures_equal_exact_ones(patients):
    scores, lesions = (np.concatenate(arrays) for arrays in patients)
    figures = Pooled.of(*patients).figures()
    assert figures["auprc"] == pytest.approx(average_precision_score(lesions, scores), abs=2e-3)
    thresholds = np.quantile(scores, np.linspace(0, 1, 2000))
    exact = max(2 * (lesions & (scores >= t)).sum() / (lesions.sum() + (scores >= t).sum()) for t in thresholds)
    assert figures["best_dice"] == pytest.approx(exact, abs=2e-3)


def test_perfect_and_useless_maps():
    lesion = RNG.rand(50_000) < 0.1
    assert Pooled.of([lesion + 0.0], [lesion]).figures() == pytest.approx({"auprc": 1, "best_dice": 1}, abs=1e-3)
    assert Pooled.of([RNG.rand(50_000)], [lesion]).figures()["auprc"] == pytest.approx(0.1, abs=0.01)


def test_bootstrap_draws_patients(patients):
    pooled = Pooled.of(*patients)
    low, high = bootstrap_interval(pooled, draws=200)["auprc"]
    assert low < pooled.figures()["auprc"] < high
    assert bootstrap_interval(pooled, draws=50) == bootstrap_interval(pooled, draws=50)


def test_edges_rise():
    assert (np.diff(bin_edges(np.concatenate([np.zeros(1000), RNG.rand(1000)]))) > 0).all()


def test_voxel_average_precision_pools_items(patients):
    metric = VoxelAveragePrecision()
    for score, lesion in zip(*patients, strict=True):
        metric.update(([torch.from_numpy(score)[None]], [torch.from_numpy(lesion)[None]]))
    scores, lesions = (np.concatenate(arrays) for arrays in patients)
    assert metric.compute() == pytest.approx(average_precision_score(lesions, scores))


def test_a_score_is_as_rare_as_at_its_depth(tmp_path):
    rng = np.random.RandomState(4)
    depths = [rng.uniform(0, 40, 60_000).astype(np.float16) for _ in range(3)]
    healthy = [rng.gamma(2, 0.1, 60_000) * np.where(depth < 4, 2, 1) for depth in depths]
    plain, layered = Calibration.fit(healthy), Calibration.fit(healthy, depths=depths)
    assert (layered.score, layered.value) == (plain.score, plain.value)
    fresh_depth = rng.uniform(0, 40, 300_000)
    fresh = rng.gamma(2, 0.1, 300_000) * np.where(fresh_depth < 4, 2, 1)
    for near, far in ((0, 2), (15, 30)):
        there = (fresh_depth >= near) & (fresh_depth < far)
        assert (layered(fresh, fresh_depth)[there] >= 2).mean() == pytest.approx(0.01, rel=0.2)
        assert not 0.008 < (plain(fresh)[there] >= 2).mean() < 0.012
    np.testing.assert_array_equal(layered(fresh), plain(fresh))
    assert layered(np.zeros(2), np.array([1.0, 20.0])).tolist() == [0, 0]
    write_calibration(tmp_path / "calibration.json", "one", layered)
    again = read_calibration(tmp_path / "calibration.json", "one")
    np.testing.assert_allclose(again(fresh, fresh_depth), layered(fresh, fresh_depth), atol=1e-3)


def test_a_layer_of_few_voxels_takes_the_table_of_all():
    calibration = Calibration.fit([HEALTHY], depths=[np.full(HEALTHY.shape, 5.0)])
    assert calibration.layers[0] == calibration.layers[5] == (calibration.score, calibration.value)


def test_a_setting_that_is_off_is_as_good_as_one_that_there_was_not():
    """Calibrations outlive a new setting of the methods, as long as nobody uses it."""
    made = describe(inferer=Intensity())
    before = {key: value for key, value in made.items() if not key.endswith("roi_size")}
    assert len(before) == len(made) - 1
    assert not differences_between(before, made)
    assert not differences_between(made, before)
    assert "roi_size is 64, it was absent" in differences_between(before, describe(inferer=Intensity(roi_size=64)))


@pytest.mark.parametrize("percentile", [None, 0.8])
def test_patients_of_many_and_of_few_pictures_count_alike(percentile):
    rng = np.random.RandomState(0)
    many, few = rng.rand(120_000), 1 + rng.rand(20_000)
    fit = {alike: Calibration.fit([many, few], percentile=percentile, alike=alike) for alike in (False, True)}
    rates = {alike: [(one >= known.threshold(0.1)).mean() for one in (many, few)] for alike, known in fit.items()}
    if percentile is None:
        assert np.mean(rates[True]) == pytest.approx(0.1, rel=0.02)
        assert np.average(rates[False], weights=[6, 1]) == pytest.approx(0.1, rel=0.02)
        assert fit[True].threshold(0.1) > fit[False].threshold(0.1) + 0.05
    assert fit[True].threshold(0.1) >= fit[False].threshold(0.1)
    same = [rng.rand(50_000) for _ in range(3)]
    for rate in (0.1, 0.01, 0.001):
        of = [Calibration.fit(same, percentile=percentile, alike=alike).threshold(rate) for alike in (False, True)]
        assert of[0] == pytest.approx(of[1], rel=1e-4), "patients of the same size"
