# SPDX-License-Identifier: Apache-2.0
"""Figures of whole lesions, on drawn ones whose figures are known."""

import numpy as np
import pytest
from scipy import ndimage

from bundle.evaluation.lesion_wise import LesionWise, anima_f1, isles_f1, scan_figures


def blocks(*places):
    mask = np.zeros((40, 40, 10), bool)
    for x, y, z, size in places:
        mask[x : x + size, y : y + size, z : z + size] = True
    return mask


LESIONS = blocks((2, 2, 2, 4), (20, 20, 2, 4), (30, 2, 5, 2))


@pytest.mark.parametrize(
    ("found", "f1"),
    [
        (LESIONS, 1.0),
        (np.zeros_like(LESIONS), 0.0),
        (blocks((5, 5, 5, 2)), 1 / (1 + 2 / 2)),  # one voxel of the first lesion
        (blocks((2, 2, 2, 4), (35, 35, 2, 3)), 1 / (1 + (1 + 2) / 2)),
        (blocks((2, 2, 2, 22)), 2 / (2 + (0 + 1) / 2)),  # one finding, two lesions
    ],
)
def test_isles(found, f1):
    assert isles_f1(found, LESIONS) == pytest.approx(f1)


def test_nothing_to_find_and_nothing_found():
    nothing = np.zeros_like(LESIONS)
    assert isles_f1(nothing, nothing) == 1
    assert anima_f1(nothing, nothing, 1.0) == 1
    assert isles_f1(LESIONS, nothing) == 0
    assert anima_f1(LESIONS, nothing, 1.0) == 0


@pytest.mark.parametrize(
    ("found", "f1"),
    [
        (LESIONS, 1.0),
        (blocks((5, 5, 5, 1)), 0.0),  # less than a tenth of the lesion
        (blocks((2, 2, 2, 3), (20, 20, 2, 4), (30, 2, 5, 2)), 1.0),
        (blocks((2, 2, 2, 9)), 0.0),  # 64 of 648 voxels: far too large for what it covers
    ],
)
def test_mssegs_rule(found, f1):
    assert anima_f1(found, LESIONS, 1.0) == pytest.approx(f1)


def test_mssegs_rule_leaves_out_what_is_below_three_cubic_millimetres():
    speck = LESIONS | blocks((35, 35, 5, 1))
    assert anima_f1(LESIONS, speck, 1.0) == 1
    assert anima_f1(LESIONS, speck, 4.0) < 1


def figures_of(found, odds, most=1.0, lesion=LESIONS, voxel_ml=0.01):
    ranks, count = ndimage.label(found, np.ones((3, 3, 3)))
    assert count == len(odds)
    return scan_figures(ranks, odds, lesion, voxel_ml, most)


def test_a_scan():
    found = blocks((2, 2, 2, 3), (20, 20, 2, 3), (35, 35, 2, 3))
    scan = figures_of(found, [0.5, 3.0, 0.2])
    assert scan.true.tolist() == [True, True, False]
    assert scan.kept.tolist() == [True, False, True]
    assert scan.hit.tolist() == [True, False, False]
    assert scan.hit_by_any.tolist() == [True, True, False]
    np.testing.assert_allclose(scan.lesions_ml, [0.64, 0.64, 0.08])
    assert scan.isles == pytest.approx(1 / (1 + (1 + 2) / 2))
    assert scan.reached.tolist() == [0.5, 3.0, np.inf]


def test_of_several_scans():
    ill = figures_of(blocks((2, 2, 2, 3), (20, 20, 2, 3), (35, 35, 2, 3)), [0.5, 3.0, 0.2])
    well = figures_of(blocks((8, 8, 2, 2)), [0.05], lesion=np.zeros_like(LESIONS))
    both = LesionWise([ill, well])
    figures = both.figures(draws=20)
    assert figures["findings"] == 1.5
    assert figures["true"] == pytest.approx(1 / 3)
    assert figures["lesions_hit"] == pytest.approx(1 / 3)
    assert figures["lesions_hit_of_any"] == pytest.approx(1 / 2)
    assert figures["lesions_hit_small"] == 0
    assert figures["isles_f1"] == pytest.approx(ill.isles), "over scans with lesions"
    assert figures["isles_f1_interval"][0] <= figures["isles_f1"] <= figures["isles_f1_interval"][1] + 1e-9


def test_froc_falls_with_false_findings_allowed():
    """Two scans; by odds come a true, two false, a true and a false finding: at 1 false one a scan both are hit."""
    lesion = blocks((2, 2, 2, 3))
    first = figures_of(blocks((2, 2, 2, 3), (20, 20, 2, 2), (30, 30, 2, 2)), [0.01, 0.05, 0.9], lesion=lesion)
    second = figures_of(blocks((2, 2, 2, 3), (20, 20, 2, 2)), [0.5, 0.02], lesion=lesion)
    figures = LesionWise([first, second]).figures(draws=5)
    assert figures["froc_at_1"] == pytest.approx(1.0)
    assert figures["froc_at_0.25"] <= figures["froc_at_1"]
