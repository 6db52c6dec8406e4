# SPDX-License-Identifier: Apache-2.0
"""The job in memory: the same map as the main job writes, and `bundle.predict` in one call."""

import numpy as np
import pytest

import bundle
from bundle.cli import main
from bundle.errors import FlipmapError, ScanError, WeightsError
from bundle.io.nifti import scan_from_array, write_map
from bundle.pipeline.job import Job
from tests.conftest import ROOT
from tests.test_mri import oblique, reoriented


@pytest.fixture(scope="module")
def job():
    return Job(precision="float32")


def test_a_file_and_an_array_get_the_same(job, head, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scan, _, affine = head
    write_map(tmp_path / "s.nii.gz", scan, affine, np.int16)
    from_file, from_array = job({"image": str(tmp_path / "s.nii.gz")}), job({"image": scan_from_array(scan, affine)})
    for key in ("pred", "mask", "brain"):
        assert tuple(from_file[key].shape) == (1, *scan.shape)
        np.testing.assert_array_equal(from_file[key].numpy(), from_array[key].numpy())
    assert from_file["findings"]["findings"] == from_array["findings"]["findings"]
    assert [path.name for path in tmp_path.rglob("*")] == ["s.nii.gz"], "a job writes nothing"
    inside = from_file["brain"][0].numpy() > 0
    assert not from_file["pred"][0].numpy()[~inside].any()


@pytest.mark.parametrize("codes", ["LPS", "PSR", "ARI"])
def test_a_mask_of_ones_own_comes_back_as_it_was(job, head, tmp_path, codes):
    """Voxel by voxel: it is never resampled, whatever the orientation, and nothing outside it is scored."""
    scan, _, affine = head
    own = (scan > np.percentile(scan, 60)) & (np.arange(scan.shape[0]) % 3 > 0)[:, None, None]  # finer than the grid
    paths = {}
    for key, values in (("image", scan), ("brain", own)):
        data, its_affine = reoriented(values.astype(np.int16), oblique(affine), codes)
        write_map(tmp_path / f"{key}.nii.gz", data, its_affine, np.int16)
        paths[key] = str(tmp_path / f"{key}.nii.gz")
    result = job(paths)
    brain, pred = (result[key][0].numpy() for key in ("brain", "pred"))
    np.testing.assert_array_equal(brain > 0, data > 0)
    assert not pred[brain == 0].any()
    assert pred[brain > 0].any()


def test_the_command_writes_nothing_beside_its_output(head, tmp_path, monkeypatch):
    scan, _, affine = head
    write_map(tmp_path / "in" / "s.nii.gz", scan, affine, np.int16)
    (tmp_path / "started here").mkdir()
    monkeypatch.chdir(tmp_path / "started here")
    assert main(["run", str(tmp_path / "in"), str(tmp_path / "out"), "-q"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out", "started here"]
    assert not list((tmp_path / "started here").iterdir())


def test_predict(head):
    scan, lesion, affine = head
    mapped = bundle.predict(scan, affine, precision="float32")
    assert mapped.shape == scan.shape
    assert mapped.dtype == np.float32
    assert mapped[lesion > 0].mean() > 1 + mapped[lesion == 0].mean()
    turned, its_affine = reoriented(scan, affine, "RAS")
    again = bundle.predict(turned, spacing=tuple(np.abs(np.diag(its_affine)[:3])), precision="float32")
    back = reoriented(again, its_affine, "LPS")[0]
    np.testing.assert_allclose(back, mapped, atol=1e-2)


@pytest.mark.parametrize(
    ("array", "affine", "reason"),
    [
        (np.zeros((20, 20, 5)), np.eye(4), "every voxel is 0"),
        (np.full((20, 20, 5), np.nan), np.eye(4), "NaN"),
        (np.ones((20, 20)), np.eye(4), "2-D"),
        (np.arange(2000.0).reshape(20, 20, 5), np.zeros((4, 4)), "singular"),
        (np.arange(2000.0).reshape(20, 20, 5), np.eye(3), "singular"),
    ],
)
def test_what_is_no_scan_is_named(array, affine, reason):
    with pytest.raises(ScanError, match=reason):
        bundle.predict(array, affine)


def test_a_misspelt_setting_is_refused(head):
    scan, _, affine = head
    for settings, near in (
        ({"treshold": 3}, "threshold"),
        ({"steps#scale#spread": None, "steps#scal#headroom": 2}, "scale"),
        ({"precison": "float32"}, "precision"),
    ):
        with pytest.raises(FlipmapError, match=rf"Did you mean {near}\?"):
            bundle.predict(scan, affine, **settings)
    with pytest.raises(FlipmapError, match="the config has no 'bogus'"):
        Job(bogus=1)


def test_a_setting_may_be_a_list(head):
    scan, _, affine = head
    with pytest.raises(FlipmapError, match="the config has no 'x'"):
        bundle.predict(scan, affine, x=[1])


def test_weights_that_are_missing(tmp_path):
    with pytest.raises(WeightsError, match=r"absent\.pt: no such file"):
        Job(weights=str(tmp_path / "absent.pt"))


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "methods").glob("*.json")), ids=lambda path: path.stem)
def test_every_method_runs_by_its_override(path, head):
    """With weights and calibration of its own; the same grid, units and outputs as the default."""
    scan, _, affine = head
    job = Job([ROOT / "configs" / "inference.json", path], precision="float32")
    assert job.settings["method"] == path.stem
    result = job({"image": scan_from_array(scan[..., 4:8], affine)})
    assert tuple(result["pred"].shape) == (1, *scan.shape[:2], 4)
    assert np.isfinite(result["pred"].numpy()).all()
    assert result["findings"]["method"] == path.stem
    assert result["pred"].numpy()[0][result["brain"][0].numpy() == 0].max(initial=0) == 0
