# SPDX-License-Identifier: Apache-2.0
"""Several contrasts of one head: planned, fused on the grid of the first, calibrated, and told apart from the rest."""

from __future__ import annotations

import csv
import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from bundle.batch.head import heads_of
from bundle.batch.plan import plan_series
from bundle.batch.run import run_batch
from bundle.batch.sources import plan_of
from bundle.cli import main
from bundle.errors import EXIT_CODES, ScanError, WeightsError
from bundle.io.nifti import write_map
from bundle.modalities import MODALITIES
from bundle.pipeline import several
from bundle.pipeline.job import Job
from bundle.pipeline.several import MapOfContrast, Several, fused_scores, read_shares
from bundle.pipeline.spec import JobSpec
from bundle.synthesis.sample import synthetic_head
from bundle.transforms.rigid import onto

SHAPE, SPACING = (96, 112, 14), (2.0, 2.0, 8.0)


@pytest.fixture(scope="module")
def job():
    return JobSpec().load()


def test_a_calibration_made_anew_leaves_the_map_out(monkeypatch, caplog):
    """Nobody who calibrates FLAIR on data of their own loses the command."""
    monkeypatch.setattr("bundle.pipeline.job.Job.calibration_hash", "another")
    job = JobSpec().load()
    assert job.several is None
    assert "no map of FLAIR and T1w together" in caplog.text
    assert heads_of([], job) == []


def map_of(value, affine=None, brain=None, shape=(20, 22, 8)):
    inside = np.ones(shape, bool) if brain is None else brain
    return MapOfContrast(
        np.ones(shape), np.full(shape, value, np.float32), inside, np.eye(4) if affine is None else affine, "x"
    )


def test_shares_and_where_only_one_shows_the_brain():
    half = np.zeros((20, 22, 8), bool)
    half[:10] = True
    raw, brain = fused_scores({"FLAIR": map_of(4.0), "T1w": map_of(1.0, brain=half)}, {"FLAIR": 0.75, "T1w": 0.25})
    assert brain.all()
    np.testing.assert_allclose(raw[:10], 0.75 * 4 + 0.25)
    np.testing.assert_allclose(raw[10:], 4.0)
    with pytest.raises(ScanError, match="no scan of T1w"):
        fused_scores({"FLAIR": map_of(4.0)}, {"FLAIR": 0.75, "T1w": 0.25})


def test_another_grid_is_brought_over():
    """A T1w of other voxels, axes and pose: its map comes to lie where it belongs."""
    flair, lesion, affine = synthetic_head(SHAPE, SPACING, seed=2)
    t1w, _, _ = synthetic_head(SHAPE, SPACING, seed=2, contrast="T1w")
    grid = np.diag([-2.5, 2.5, 5.0, 1.0])
    shape = (78, 92, 24)
    grid[:3, 3] = affine[:3, :3] @ (np.array(SHAPE) / 2) + affine[:3, 3] - grid[:3, :3] @ (np.array(shape) / 2)
    moved = np.eye(4)
    moved[:3, 3] = (3.0, -4.0, 2.0)

    def elsewhere(values):
        return onto(values.astype(np.float32), affine, moved, grid, shape)

    brain = flair > 40
    maps = {
        "FLAIR": MapOfContrast(flair.astype(np.float32), np.zeros(SHAPE, np.float32), brain, affine, "a"),
        "T1w": MapOfContrast(elsewhere(t1w), elsewhere(lesion) * 3, elsewhere(brain) > 0.5, grid, "b"),
    }
    raw, _ = fused_scores(maps, {"FLAIR": 0.5, "T1w": 0.5})
    inside, outside = raw[(lesion > 0) & brain].mean(), raw[(lesion == 0) & brain].mean()
    assert inside > 1.0
    assert outside < 0.1


def test_shares_and_calibration_belong_together(job, monkeypatch):
    shares, tables = read_shares()
    assert sum(shares.values()) == pytest.approx(1)
    assert tables.is_file()
    assert job.several.name == "+".join(shares)
    assert job.several.calibration.patients >= 10
    known = {contrast: job.job_of(contrast).calibration_hash for contrast in shares}
    Several(known)
    with pytest.raises(WeightsError, match="for other settings"):
        Several({**known, "T1w": "another"})
    monkeypatch.setattr(several, "read_shares", lambda *_: ({**shares, "T1w": 0.9}, tables))
    with pytest.raises(WeightsError, match="for other settings"):
        Several(known)


def names(root, job):
    return sorted((case.name, case.stem.as_posix()) for case in heads_of(plan_of(root, job)[0], job))


def test_heads_are_what_lies_together_under_one_name(job, tmp_path):
    empty = np.ones((4, 4, 4))
    for name in (
        "sub-01/anat/sub-01_FLAIR",
        "sub-01/anat/sub-01_T1w",
        "sub-01/anat/sub-01_T2w",
        "sub-02/anat/sub-02_FLAIR",
    ):
        write_map(tmp_path / "bids" / f"{name}.nii.gz", empty, np.eye(4))
    assert names(tmp_path / "bids", job) == [("sub-01_FLAIRT1w", "sub-01/anat/sub-01_mod-FLAIRT1w")]
    for name in ("a_FLAIR", "a_T1w", "b_T1w", "c_FLAIR"):
        write_map(tmp_path / "flat" / f"{name}.nii.gz", empty, np.eye(4))
    assert names(tmp_path / "flat", job) == [("a_FLAIRT1w", "a_FLAIRT1w")]


def test_series_of_one_study_are_one_head(job, tmp_path):
    pytest.importorskip("highdicom")
    from bundle.io.dicom import find_series
    from tests.dicom_files import write_series

    scan, _, affine = synthetic_head((40, 44, 6), (4.0, 4.0, 20.0))
    for number, description in enumerate(("AX FLAIR", "SAG T1 MPRAGE")):
        write_series(tmp_path / str(number), scan, affine, SeriesDescription=description, StudyInstanceUID="1.2.3")
    write_series(tmp_path / "other", scan, affine, SeriesDescription="AX T1 SE", StudyInstanceUID="1.2.4")
    planned, _ = plan_series(find_series(tmp_path), job.series)
    (head,) = heads_of(planned, job)
    assert list(head.members) == ["FLAIR", "T1w"]
    assert "FLAIR" in head.inputs["image"].description
    assert head.name.endswith("_FLAIRT1w")


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A BIDS root with both contrasts of one drawn head, the T1w on another grid."""
    root = tmp_path_factory.mktemp("several") / "in"
    for contrast, spacing in (("FLAIR", SPACING), ("T1w", (2.0, 2.0, 9.0))):
        scan, _, affine = synthetic_head(SHAPE, spacing, seed=5, contrast=contrast)
        write_map(root / "sub-01" / "anat" / f"sub-01_{contrast}.nii.gz", scan, affine, np.int16)
    return root


def table(output):
    with (output / "batch.csv").open() as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def test_a_head_gets_a_map_each_and_one_of_both(head, tmp_path):
    output = tmp_path / "out"
    # What is drawn may look like any contrast.
    arguments = ["run", str(head), str(output), "-q"]
    assert main(arguments) == EXIT_CODES["all good"]
    rows = table(output)
    if rows["sub-01_T1w"]["status"] != "done":
        pytest.skip("the drawn T1w head is not taken for one: " + rows["sub-01_T1w"]["reason"])
    row = rows["sub-01_FLAIRT1w"]
    assert row["status"] == "done"
    assert row["contrast"] == "FLAIR+T1w"
    mapped = nib.load(output / "sub-01" / "anat" / "sub-01_mod-FLAIRT1w_desc-anomaly_map.nii.gz")
    scan = nib.load(head / "sub-01" / "anat" / "sub-01_FLAIR.nii.gz")
    assert mapped.shape == scan.shape
    np.testing.assert_allclose(mapped.affine, scan.affine, atol=1e-4)
    said = json.loads((output / "sub-01" / "anat" / "sub-01_mod-FLAIRT1w_desc-anomaly_map.json").read_text())
    assert len(said["inputs_sha256"]) == 2
    assert said["contrast"][0] == "FLAIR+T1w"
    content = mapped.get_fdata()
    assert main(arguments) == EXIT_CODES["all good"]
    assert {one["status"] for one in table(output).values()} == {"done before"}

    # Computed from the scans themselves, where nothing of them is there yet, it is the same.
    alone = tmp_path / "alone"
    shutil.copytree(output, alone)
    for path in (alone / "sub-01").rglob("*"):
        if path.is_file():
            path.unlink()
    job = JobSpec().load()
    (record,) = run_batch(heads_of(plan_of(head, job)[0], job), job, alone)
    assert record.status == "done"
    again = nib.load(alone / "sub-01" / "anat" / "sub-01_mod-FLAIRT1w_desc-anomaly_map.nii.gz").get_fdata()
    np.testing.assert_array_equal(again, content)

    assert main([*arguments, "--apart", "--dry-run"]) == EXIT_CODES["all good"]


def test_no_scan_of_a_head_is_scored_twice(head, tmp_path, monkeypatch):
    """The map of both is made of the maps that the batch leaves, whatever order the stages overlap in."""
    scored, infer = [], Job.infer

    def counted(job, item):
        scored.append(job.settings["suffix"])
        return infer(job, item)

    monkeypatch.setattr(Job, "infer", counted)
    job = JobSpec().load()
    plan = plan_of(head, job)[0]
    records = run_batch([*heads_of(plan, job), *plan], job, tmp_path / "out", jobs=3)
    assert len(records) == 3
    assert sorted(scored) == ["FLAIR", "T1w"]


def test_a_contrast_that_is_another_one_is_told(head, tmp_path):
    folder = tmp_path / "in" / "sub-01" / "anat"
    shutil.copytree(head / "sub-01" / "anat", folder)
    shutil.copy(folder / "sub-01_FLAIR.nii.gz", folder / "sub-01_T1w.nii.gz")
    assert main(["run", str(tmp_path / "in"), str(tmp_path / "out"), "-q"]) == EXIT_CODES["all good"]
    row = table(tmp_path / "out")["sub-01_FLAIRT1w"]
    assert row["status"] == "skipped"
    assert "not T1w" in row["reason"] or "looks like FLAIR" in row["reason"]


def test_every_share_has_weights():
    known = {one.suffix for one in MODALITIES.values() if one.calibrates("default")}
    assert set(read_shares()[0]) <= known
