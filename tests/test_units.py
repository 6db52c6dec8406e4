# SPDX-License-Identifier: Apache-2.0
"""Headers in micrometres and metres: what is measured is in millimetres, what is written is in the scan's own unit."""

import json
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from bundle.batch.head import MEMBERS, TOLD, finish_head
from bundle.batch.plan import PlannedCase, plan_cases
from bundle.batch.run import run_batch
from bundle.cases import find_scans
from bundle.follow import follow
from bundle.io.nifti import affine_in_mm, geometry_of, read_scan, write_map
from bundle.pipeline.job import Job
from bundle.scoring.findings import voxel_millilitres
from bundle.synthesis.sample import synthetic_head

SPACING = (2.0, 2.0, 9.0)
ML = np.prod(SPACING) / 1000


def written(path, unit, scale):
    scan, _, affine = synthetic_head((96, 112, 12), SPACING, seed=3)
    write_map(path, scan, np.diag([scale, scale, scale, 1]) @ affine, np.int16, unit)
    return affine


@pytest.mark.parametrize(("unit", "scale"), [("micron", 1000.0), ("meter", 0.001)])
def test_a_map_of_several_contrasts_is_measured_in_millimetres(tmp_path, unit, scale):
    affine = written(tmp_path / "a_FLAIR.nii.gz", unit, scale)
    scan = read_scan(tmp_path / "a_FLAIR.nii.gz")
    ones, given = np.ones(scan.shape[1:], np.float32), {}

    class Several:
        contrasts, name, calibration = ("FLAIR",), "FLAIR", SimpleNamespace(end=4.0)

        def with_rarer(self, maps):
            given.update(maps)
            return ones, ones > 0, None

        def odds(self, threshold):
            return None

    settings = {"threshold": 2.0, "smoothing_mm": 0.0}
    job = SimpleNamespace(region="brain", several=Several(), settings=settings, conclude=lambda made, end: made)
    member = {"done": True, "scan": scan, "pred": ones, "brain": ones, TOLD: None}
    made = finish_head(job, {"name": "a", MEMBERS: {"FLAIR": member}})
    np.testing.assert_allclose(given["FLAIR"].affine, affine, rtol=1e-5)
    assert voxel_millilitres(made["pred"].affine.numpy()) == pytest.approx(ML, rel=1e-4)
    assert geometry_of(made["image"].meta)["unit"] == unit, "its files are in the scan's own"


@pytest.mark.parametrize(("unit", "scale"), [("micron", 1000.0), ("meter", 0.001)])
def test_a_comparison_is_measured_in_millimetres(tmp_path, monkeypatch, unit, scale):
    path = tmp_path / "a.nii.gz"
    affine = written(path, unit, scale)
    case = PlannedCase("a", {"image": str(path)}, path.relative_to(tmp_path).with_name("a"))

    def batch(cases, job, output, jobs):
        scan = read_scan(path)
        for key in ("pred", "brain", "mask"):
            write_map(case.path(output, case.outputs[key][0]), scan[0].numpy(), **geometry_of(scan.meta))
        return [SimpleNamespace(status="done")]

    monkeypatch.setattr(follow, "run_batch", batch)
    mapped = follow._mapped(case, SimpleNamespace(read=lambda case: read_scan(path)), tmp_path)
    np.testing.assert_allclose(mapped.affine, affine, rtol=1e-5)
    write_map(tmp_path / "change.nii.gz", mapped.anomaly, **mapped.geometry)
    image = nib.load(tmp_path / "change.nii.gz")
    assert image.header.get_xyzt_units()[0] == unit
    np.testing.assert_allclose(image.affine, nib.load(path).affine, rtol=1e-5)


def test_the_map_of_a_scan_in_micrometres_is_that_of_the_scan_in_millimetres(tmp_path):
    job, content, findings = Job(device="cpu", precision="float32"), {}, {}
    for unit, scale in (("mm", 1.0), ("micron", 1000.0)):
        source = tmp_path / unit / "a_FLAIR.nii.gz"
        written(source, unit, scale)
        (case,) = plan_cases(find_scans(source.parent), source.parent)
        (record,) = run_batch([case], job, tmp_path / f"out_{unit}")
        assert record.status == "done", record
        image = nib.load(case.path(tmp_path / f"out_{unit}", case.outputs["pred"][0]))
        np.testing.assert_allclose(image.affine, nib.load(source).affine, rtol=1e-5)
        assert image.header.get_xyzt_units()[0] == unit
        content[unit] = image.get_fdata()
        path = case.path(tmp_path / f"out_{unit}", case.outputs["findings"][0])
        findings[unit] = json.loads(path.read_text())["findings"]
    np.testing.assert_allclose(content["micron"], content["mm"], atol=1e-3)
    for mm, micron in zip(findings["mm"], findings["micron"], strict=True):
        assert micron["volume_ml"] == pytest.approx(mm["volume_ml"], rel=0.01)
        np.testing.assert_allclose(micron["centre_mm"], mm["centre_mm"], atol=0.1)
    assert affine_in_mm(read_scan(tmp_path / "micron" / "a_FLAIR.nii.gz").meta)[2, 2] == pytest.approx(9, rel=1e-5)
