# SPDX-License-Identifier: Apache-2.0
"""Rates of healthy tissue by place, and what they do to the odds of findings."""

from dataclasses import replace

import numpy as np
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from bundle.scoring.findings import find_findings
from bundle.scoring.healthy_tissue import HealthyScan
from bundle.scoring.odds import FindingOdds
from bundle.scoring.rates import CELLS, BrainBox, PlaceRates

AFFINE = np.array([[3.0, 0, 0, -80], [0, 3.0, 0, -100], [0, 0, 4.0, -60], [0, 0, 0, 1]])
SHAPE = (54, 64, 38)


def ball():
    """A brain of 140 x 170 x 130 mm, 3 x 3 x 4 mm voxels."""
    where = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), -1) @ AFFINE[:3, :3].T + AFFINE[:3, 3]
    return (((where - [0, -5, 14]) / [70, 85, 65]) ** 2).sum(-1) < 1


def turned(values, codes):
    """A volume on another grid: its values, and the affine."""
    turn = ornt_transform(io_orientation(AFFINE), axcodes2ornt(codes))
    return apply_orientation(values, turn), AFFINE @ inv_ornt_aff(turn, values.shape)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PSR", "SAL"])
def test_a_place_does_not_hang_on_the_grid(codes):
    points = [(30.0, 40.0, 60.0), (-30.0, 40.0, 60.0), (0.0, -80.0, -20.0), (65.0, -5.0, 14.0)]
    brain, affine = turned(ball(), codes)
    box = BrainBox(brain, affine)
    assert box.whole
    places = box.at_mm(points)
    np.testing.assert_allclose(places, BrainBox(ball(), AFFINE).at_mm(points), atol=1e-9)
    assert abs(places[0] - places[1]).max() < 0.02, "halves are one"
    assert places[3, 0] > 0.9 > 0.5 > places[0, 0] > 0.3
    assert places[0, 1] > 0.7
    assert places[2, 1] < 0.1
    assert places[0, 2] > 0.8
    np.testing.assert_allclose(box.volumes(brain).sum(), brain.sum() * 0.036)


def test_what_is_no_whole_brain_has_no_places():
    slab = ball()
    slab[..., :12] = slab[..., 22:] = False
    assert not BrainBox(slab, AFFINE).whole
    assert not BrainBox(np.zeros(SHAPE, bool), AFFINE).whole


def tissue(lit=None, share=0.01):
    """Twenty litres over the lower 12 of 16 layers; ``lit``: the part of a layer that lights up, by its number."""
    volume = np.zeros((16, 16, 16))
    volume[:, :, :12] = 20_000 / (16 * 16 * 12)
    raised = volume * share
    for layer, part in (lit or {}).items():
        raised[:, :, layer] = volume[:, :, layer] * part
    return volume.ravel(), raised.ravel()


def test_rates_are_high_where_healthy_tissue_lights_up_and_even_where_nothing_is_known():
    rates = PlaceRates([tissue({0: 0.5}), tissue({0: 0.5})])
    low, middle, unknown = rates.decades(np.array([[0.5, 0.5, 0.03], [0.5, 0.5, 0.5], [0.5, 0.5, 0.99]]))
    assert low > 0.4
    assert middle < -0.4
    assert abs(unknown) < 0.1
    even = PlaceRates([tissue(), tissue()]).decades(np.array([[0.5, 0.5, 0.03], [0.1, 0.9, 0.5]]))
    np.testing.assert_allclose(even, 0, atol=1e-9)


def test_a_set_that_hardly_lights_up_says_nothing():
    """One lit voxel is no rate, and must not stand for litres."""
    asked = np.array([[0.5, 0.5, 0.03], [0.5, 0.5, 0.5], [0.1, 0.2, 0.6]])
    volume, raised = tissue({}, 0.0)
    raised[np.ravel_multi_index((1, 3, 9), (16, 16, 16))] = 0.003
    pair = [tissue({0: 0.5}), tissue({0: 0.5})]
    np.testing.assert_array_equal(PlaceRates([*pair, (volume, raised)]).decades(asked), PlaceRates(pair).decades(asked))


def test_a_loud_set_does_not_outvote_a_quiet_one():
    """A rate is relative to the mean of its set."""
    asked = np.array([[0.5, 0.5, 0.03], [0.5, 0.5, 0.5]])
    once = PlaceRates([tissue({0: 0.5}), tissue({6: 0.05}, 0.001)])
    loud = PlaceRates([tissue({0: 0.5}), tissue({6: 0.5}, 0.01)])
    np.testing.assert_allclose(once.decades(asked), loud.decades(asked), atol=0.01)


def scans(source, seed, where):
    """Ten scans of a litre whose 40 findings lie at one height of the brain."""
    rng = np.random.RandomState(seed)
    for _ in range(10):
        places = np.column_stack([rng.rand(40), rng.rand(40), where + 0.02 * rng.rand(40)])
        volume, raised = tissue({int(where * 16): 0.3})
        yield HealthyScan(rng.exponential(0.6, 40), 1000.0, source, places, volume, raised)


def test_a_finding_is_less_extreme_where_healthy_people_have_many():
    odds = FindingOdds.fit([*scans("a", 0, 0.05), *scans("b", 1, 0.05)], 2.0)
    base, middle = odds.adjusted([3.0, 3.0], np.array([[0.5, 0.5, 0.05], [0.5, 0.5, 0.6]]))
    assert base < 3.0 < middle
    assert odds.adjusted([3.0], None) == [3.0]
    rarer, commoner = (float(odds.expected(value, 1000.0)[0]) for value in (middle, base))
    assert rarer < commoner / 10


def test_one_set_alone_says_nothing_of_places():
    odds = FindingOdds.fit(list(scans("a", 0, 0.05)), 2.0)
    assert odds.rates is None
    assert odds.adjusted([3.0], np.array([[0.5, 0.5, 0.05]])) == [3.0]
    both = FindingOdds.fit([*scans("a", 0, 0.05), *scans("b", 1, 0.05)], 2.0)
    assert both.without("b").rates is None


def test_what_is_left_out_leaves_no_trace():
    """Neither in the table, nor in the rates, nor in what these rates made of the others."""
    rest = [*scans("a", 0, 0.05), *scans("b", 1, 0.3)]
    odds = FindingOdds.fit([*rest, *scans("c", 2, 0.7)], 2.0).without("c")
    plain = FindingOdds.fit(rest, 2.0)
    np.testing.assert_array_equal(odds.per_litre, plain.per_litre)
    np.testing.assert_array_equal(odds.extreme, plain.extreme)
    assert odds.healthy_scores == plain.healthy_scores


def test_a_scan_without_a_whole_brain_takes_its_set_out_of_the_rates():
    some = [*scans("a", 0, 0.05), *scans("b", 1, 0.05), *scans("c", 2, 0.05)]
    some[0] = replace(some[0], places=None, volume=None, raised=None)
    odds = FindingOdds.fit(some, 2.0)
    assert not odds.tissue["a"].volume
    assert odds.rates is not None
    assert len(odds.tissue["b"].volume) == CELLS


def test_a_slab_is_held_against_a_table_without_places():
    odds = FindingOdds.fit([*scans("a", 0, 0.05), *scans("b", 1, 0.3)], 2.0)
    slab, anomaly = ball(), np.zeros(SHAPE, np.float32)
    slab[..., :12] = slab[..., 22:] = False
    anomaly[20:23, 30:33, 16:18] = 3.0
    (one,) = find_findings(anomaly, anomaly > 2, AFFINE, 2.0, slab, odds)
    (plain,) = find_findings(anomaly, anomaly > 2, AFFINE, 2.0, slab)
    bare = odds.without_places
    assert bare.rates is None
    assert one.extreme == plain.extreme
    raw = FindingOdds.fit(
        [replace(scan, places=None) for name in "ab" for scan in scans(name, "ab".index(name), 0.05)], 2.0
    )
    np.testing.assert_array_equal(bare.per_litre, raw.per_litre)
    assert one.expected == pytest.approx(float(bare.expected(one.extreme, slab.sum() * 0.036)[0]), rel=0.01)


def test_findings_of_a_map_are_adjusted():
    """The same blob at the base and in the middle of a brain."""
    odds = FindingOdds.fit([*scans("a", 0, 0.08), *scans("b", 1, 0.08)], 2.0)
    brain, anomaly = ball(), np.zeros(SHAPE, np.float32)
    anomaly[20:23, 30:33, 4:6] = anomaly[20:23, 30:33, 18:20] = 3.0
    plain = find_findings(anomaly, anomaly > 2, AFFINE, 2.0, brain)
    found = {one.centre_voxel[2] > 10: one for one in find_findings(anomaly, anomaly > 2, AFFINE, 2.0, brain, odds)}
    for one in plain:
        middle = one.centre_voxel[2] > 10
        assert (found[middle].extreme > one.extreme) == middle
    assert found[True].expected < found[False].expected
