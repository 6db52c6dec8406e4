# SPDX-License-Identifier: Apache-2.0
"""The protocol on synthetic patients: the table says what direct counts say, and calibration keeps its promise."""

import csv

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from sklearn.metrics import average_precision_score

from bundle.cases import lesion_cases
from bundle.commands import leave_site_out
from bundle.commands.leave_site_out import NOBODY, SPLIT, report, split_without
from bundle.datasets import hospital_of, read_split
from bundle.evaluation.protocol import RATES, evaluate, healthy_scores, run_methods
from bundle.evaluation.scores import prepare, score_case
from bundle.evaluation.table import benchmark
from bundle.evaluation.trainings import BASELINE, Patient
from bundle.methods.base import SliceMethod
from bundle.methods.intensity import Intensity
from tests.conftest import ROOT

CPU = torch.device("cpu")


class Oracle(SliceMethod):
    """Knows that the lesion of a synthetic head is the brightest thing inside the skull."""

    def score(self, slices, numbers, network):
        inside = (slices > 0.05).float()
        for size, padding in (
            ((41, 1), (20, 0)),
            ((1, 41), (0, 20)),
        ):  # quicker than both at once
            inside = torch.nn.functional.avg_pool2d(inside, size, stride=1, padding=padding)
        inside = inside > 0.97
        return (slices - 0.4).clamp(min=0) * inside + 0.01 * slices


@pytest.fixture(scope="module")
def preprocessing():
    parser = ConfigParser()
    parser.read_config(ROOT / "configs" / "inference.json")
    # The oracle knows how bright the lesions of these heads are, whose flat brains a standard contrast would bend.
    parser.update({"steps#scale#spread": None})
    return parser.get_parsed_content("preprocessing")


def test_a_map_returns_to_the_voxels_of_its_lesion(bids_folder, preprocessing, network):
    case = prepare(lesion_cases(bids_folder)[0], preprocessing)
    assert case.lesion.any()
    assert (case.head | ~case.lesion).all()
    assert case.brain.sum() < case.head.sum()
    assert case.healthy.any()
    assert not case.lesion[..., case.healthy].any()
    result = score_case(case, Oracle(), network, preprocessing, CPU)
    assert result.scores.shape == case.lesion.shape
    assert result.seconds > 0
    assert result.scores[case.lesion].mean() > 5 * result.scores[case.head & ~case.lesion].mean()


def test_the_row_of_a_method(bids_folder, preprocessing, network):
    cases = lesion_cases(bids_folder)
    kept = run_methods(cases[:4], {"oracle": Oracle(), "plain": Intensity()}, network, preprocessing, CPU)
    assert list(kept) == ["raw intensity", "raw intensity, smoothed", "oracle", "plain"]
    others = run_methods(cases[4:], {"oracle": Oracle()}, network, preprocessing, CPU)["oracle"]
    thresholds = {rate: float(np.quantile(healthy_scores(others), 1 - rate)) for rate in RATES}
    row = evaluate(kept["oracle"], thresholds)

    scores, lesions = np.concatenate(kept["oracle"].scores), np.concatenate(kept["oracle"].lesions)
    assert row["auprc_head"] == pytest.approx(average_precision_score(lesions, scores), abs=0.01)
    brain = np.concatenate(kept["oracle"].brain)
    found = np.where(brain, scores, 0) >= thresholds[0.01]
    assert row["dice_at_0.01"] == pytest.approx(2 * (found & lesions).sum() / (found.sum() + lesions.sum()))
    assert row["best_dice_masked"] >= row["dice_at_0.01"] - 0.01
    assert row["auprc_head_interval"][0] <= row["auprc_head"] <= row["auprc_head_interval"][1]
    assert row["slice_auroc"] > 0.8
    assert row["reached_rate_0.01"] < 0.05
    assert row["auprc_brain"] >= row["auprc_masked"] - 0.01, "the same scores, and fewer voxels that can only be missed"
    assert row["auprc_head"] > 2 * evaluate(kept["plain"], thresholds)["auprc_head"]


def test_the_table_on_disk(bids_folder, preprocessing, network, tmp_path):
    cases = lesion_cases(bids_folder)
    methods = {"oracle": Oracle()}
    rows = benchmark(cases[:3], cases[3:], methods, network, preprocessing, CPU, tmp_path, percentile=0.8)
    lines = (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()
    assert "3 test patients" in lines[0]
    assert "at the 80th percentile" in lines[0]
    assert [line.split("|")[1].strip() for line in lines[4:]] == [
        "raw intensity",
        "raw intensity, smoothed",
        "oracle",
    ]
    with (tmp_path / "table.csv").open() as file:
        stored = {row["method"]: row for row in csv.DictReader(file)}
    assert float(stored["oracle"]["auprc_head"]) == pytest.approx(rows["oracle"]["auprc_head"], rel=1e-4)
    assert all(np.isfinite(float(value)) for row in stored.values() for key, value in row.items() if key != "method")


@pytest.mark.parametrize("hospital", ["DU", "none"])
def test_a_held_out_hospital_trains_and_calibrates_nothing(hospital, tmp_path):
    parts, whole = read_split(split_without(hospital, tmp_path)), read_split(SPLIT)
    for part in ("training", "validation"):
        assert parts[part] == [s for s in whole[part] if hospital_of(s) != hospital]
    expected = whole["test"] if hospital == "none" else [s for s in whole["test"] if hospital_of(s) == hospital]
    assert parts["test"] == expected
    assert not set(parts["test"]) & {*parts["training"], *parts["validation"]}


def test_held_out_patients_are_mapped_by_the_run_that_never_saw_them(monkeypatch, tmp_path):
    lesion = np.arange(8) >= 4

    def scored(hospital, dataset_dir, folder):
        """Right where the hospital was held out, and upside down in the run that knew them all."""
        scores = np.linspace(0, 3, 8) if hospital != NOBODY else np.linspace(3, 0, 8)
        names = ["sub-AA1", "sub-BB1", "sub-BB2"] if hospital == NOBODY else [f"sub-{hospital}1"]
        return {name: [Patient(one, scores, lesion, scores[:4]) for one in names] for name in ("fused", BASELINE)}

    monkeypatch.setattr(leave_site_out, "score", scored)
    rows = {(row["hospital"], row["run"], row["map"]): row for row in report(tmp_path, "", ["AA", "BB"])}
    assert rows["all", "hospital held out", "fused"]["auprc"] == 1
    assert rows["all", "hospital held out", "fused"]["patients"] == 2
    assert rows["all", "trained on all", "fused"]["patients"] == 3
    assert rows["BB", "trained on all", "fused"]["auprc"] < 0.6
    assert rows["BB", "trained on all", BASELINE]["dice_at_0.01"] == ""
    assert ("BB", "hospital held out", BASELINE) not in rows
