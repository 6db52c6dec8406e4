# SPDX-License-Identifier: Apache-2.0
"""The benchmark of places: the figures of a set are those of its scans, and places compare by their ratio to the
intensity.
"""

import csv

import numpy as np
import pytest

from bundle.errors import FlipmapError
from bundle.evaluation.lesion_figures import LesionFigures
from bundle.evaluation.places import against, benchmark_places
from bundle.io.nifti import write_map
from bundle.report.figures import CasePanel
from bundle.synthesis.sample import synthetic_head


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Two places of two heads each, and one without lesions."""
    root = tmp_path_factory.mktemp("places")
    for place, scale in (("a", 1.0), ("b", 3.0)):
        for number in range(2):
            scan, lesion, affine = synthetic_head((96, 112, 8), (2.0, 2.0, 13.0), seed=number)
            name = f"sub-{number:02d}"
            write_map(root / place / name / "anat" / f"{name}_FLAIR.nii.gz", scan * scale, affine, np.float32)
            mask = root / place / "derivatives" / "lesion" / name / "anat" / f"{name}_label-lesion_mask.nii.gz"
            write_map(mask, lesion, affine, np.uint8)
    scan, _, affine = synthetic_head((96, 112, 8), (2.0, 2.0, 13.0), seed=5, lesion_mm=0)
    write_map(root / "healthy" / "one_FLAIR.nii.gz", scan, affine, np.int16)
    places = {name: {"dataset_dir": str(root / name)} for name in ("a", "b", "healthy")}
    places["b"]["pictured"] = "brain"
    rows = {
        "intensity": {"method": "intensity", "inferer#coarsen": 1},
        "brighter": {"method": "brighter"},
        "default": {},
    }
    return benchmark_places(places, rows, root / "out", precision="float32"), root / "out"


def test_a_row_a_place_and_method(table):
    rows, folder = table
    assert [(row["place"], row["method"]) for row in rows] == [
        (place, method) for place in ("a", "b", "healthy") for method in ("intensity", "brighter", "default")
    ]
    with (folder / "places.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 9
    assert (folder / "places.md").read_text().count("\n| ") == 4
    lesions = (folder / "places_lesions.md").read_text()
    assert lesions.count("\n| ") == 5 and "| *lesions* | 0 / 0 / 2 | 0 / 0 / 2 |" in lesions
    assert [path.name for path in folder.glob("*.png")] == ["b.png"], "no picture without leave"


def test_another_picture_is_refused_at_once(tmp_path):
    places = {"a": {"dataset_dir": str(tmp_path), "pictured": True}}
    with pytest.raises(FlipmapError, match="Give scan or brain"):
        benchmark_places(places, {"default": {}}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_mask_is_drawn_where_the_scan_may_not_be_shown():
    """In grey: neither black, nor as bright as the scan's own brightest."""
    brain, scan = np.ones((4, 4, 2), bool), np.linspace(0, 100, 32).reshape(4, 4, 2)
    nothing = np.zeros(brain.shape)
    assert CasePanel("a", brain, nothing, nothing).white == 3
    assert CasePanel("a", scan, nothing, nothing).white == np.percentile(scan, 99.5)


def test_the_same_heads_on_another_scale_have_the_same_figures(table):
    rows, _ = table
    by = {(row["place"], row["method"]): row for row in rows}
    for method in ("intensity", "brighter", "default"):
        assert by["a", method]["auprc"] == pytest.approx(by["b", method]["auprc"], abs=0.01)
    assert by["a", "default"]["auprc"] > 0.5
    assert by["healthy", "default"]["auprc"] == ""
    assert 0 <= by["healthy", "default"]["reached_rate_0.01"] < 0.2
    assert by["a", "intensity"]["reached_rate_0.01"] == "", "without a calibration no rate is promised"


def test_lesions_are_counted_by_their_size_and_single_slices_by_their_best_dice():
    figures, lesion, values = LesionFigures({0.01: 2.0}), np.zeros((40, 40, 6), bool), np.zeros((40, 40, 6))
    lesion[2:4, 2:4, 1], lesion[10:30, 10:30, 2:5], lesion[35, 35, 3], lesion[36, 36, 4] = True, True, True, True
    values[2:4, 2:3, 1], values[10:30, 10:25, 2:5], values[0, 0, 3] = 2.5, 3.0, 9.0
    figures.add(values, lesion, np.ones_like(lesion), voxel_ml=0.01)
    figures.add(values, np.zeros_like(lesion), np.ones_like(lesion), voxel_ml=0.01)
    row = figures.figures()
    assert [row[f"lesions_{size}"] for size in ("small", "medium", "large")] == [2, 0, 1], "corners touch"
    assert row["marked_small_at_0.01"] == pytest.approx((0.5 + 0) / 2)
    assert row["marked_medium_at_0.01"] == "" and row["marked_large_at_0.01"] == pytest.approx(0.75)
    assert row["largest_slice_best_dice"] == pytest.approx(2 * 300 / (301 + 401), abs=1e-3), "of slice 3"
    assert LesionFigures({}).figures()["largest_slice_best_dice"] == ""


def test_places_compare_by_their_ratio():
    rows = [
        {"place": place, "method": method, "auprc": value}
        for place, values in {"a": (0.5, 0.6), "b": (0.1, 0.3), "healthy": ("", "")}.items()
        for method, value in zip(("intensity", "default"), values, strict=True)
    ]
    assert against(rows, "default") == pytest.approx((np.log(1.2) + np.log(3)) / 2)
    assert against(rows, "intensity") == 0
