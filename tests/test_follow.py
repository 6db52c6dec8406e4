# SPDX-License-Identifier: Apache-2.0
"""Two scans of one head: planted lesions that grow, and copies with another pose, noise and contrast."""

from __future__ import annotations

import json
import re

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from bundle.batch.sources import plan_of
from bundle.cases import find_scans
from bundle.cli import main
from bundle.errors import EXIT_CODES, DatasetError, ScanError
from bundle.follow.change import STATES, Limits, change_map, matched
from bundle.follow.follow import CHANGE, EARLIER_MAP, FINDINGS, PAGE, PICTURE, pairs_of
from bundle.io.nifti import write_map
from bundle.pipeline.spec import JobSpec
from bundle.synthesis.sample import synthetic_head
from bundle.transforms.rigid import Volume, onto, register_rigid
from tests.conftest import data_folder

SHAPE, SPACING = (128, 152, 20), (1.5, 1.5, 6.0)


def posed(scan, affine, seed, degrees=5.0, mm=5.0):
    """The scan as if the head lay otherwise, and the world of the new one → that of the old one."""
    rng = np.random.RandomState(seed)
    turned = Rotation.from_euler("xyz", rng.uniform(-degrees, degrees, 3), degrees=True).as_matrix()
    middle = affine[:3, :3] @ (np.array(scan.shape) / 2) + affine[:3, 3]
    transform = np.eye(4)
    transform[:3, :3], transform[:3, 3] = turned, middle - turned @ middle + rng.uniform(-mm, mm, 3)
    return onto(scan.astype(np.float32), affine, transform, affine, scan.shape), transform


def as_another_day(scan, affine, seed):
    """Another pose, noise, scale and contrast."""
    rng = np.random.RandomState(seed)
    moved = posed(scan, affine, seed)[0].clip(0)
    moved = (moved / moved.max()) ** rng.uniform(0.85, 1.15) * 800
    return (moved + rng.standard_normal(moved.shape) * 6 * (moved > 0)).clip(0)


def follow(folder, earlier, later, affine):
    """What the command says of two scans."""
    write_map(folder / "earlier.nii.gz", earlier, affine)
    write_map(folder / "later.nii.gz", later, affine)
    code = main(["follow", str(folder / "earlier.nii.gz"), str(folder / "later.nii.gz"), str(folder / "out")])
    assert code == EXIT_CODES["all good"]
    return json.loads((folder / "out" / f"later_{FINDINGS}").read_text())


@pytest.fixture(scope="module")
def brain():
    """A drawn head without its skull's world: scan, brain, affine."""
    scan, _, affine = synthetic_head(SHAPE, SPACING, seed=1)
    mask = ndimage.binary_erosion(ndimage.binary_fill_holes(scan > 20), iterations=6)
    return scan.astype(np.float32), mask, affine


@pytest.mark.parametrize("seed", range(3))
def test_a_head_that_lies_otherwise_is_found_again(brain, seed):
    scan, mask, affine = brain
    (moved, transform), (inside, _) = (posed(v, affine, seed, 10, 10) for v in (scan, mask.astype(np.float32)))
    found = register_rigid(Volume(moved.clip(0) ** 0.8, affine, inside > 0.5), Volume(scan, affine, mask))
    places = np.c_[np.random.RandomState(0).uniform(-40, 40, (100, 3)), np.ones(100)]
    error = np.linalg.norm((places @ (found - transform).T)[:, :3], axis=1).mean()
    before = np.linalg.norm((places @ (np.eye(4) - transform).T)[:, :3], axis=1).mean()
    assert error < 0.5 * before, "an ellipsoid hardly says how it is turned"
    np.testing.assert_allclose(found[:3, :3] @ found[:3, :3].T, np.eye(3), atol=1e-6)


def test_what_cannot_be_one_head_is_refused(brain):
    scan, mask, affine = brain
    corner = np.zeros_like(mask)
    corner[:20, :20, :4] = True
    with pytest.raises(ScanError, match="does not come to lie over"):
        register_rigid(Volume(scan, affine, mask, "a"), Volume(scan * corner, affine, corner, "b"))


@pytest.mark.parametrize(
    ("earlier_mm", "later_mm", "state"),
    [(0, 14, "new"), (18, 9, "smaller"), (14, 14, "unchanged")],
)
def test_a_lesion_that_grows_in_a_drawn_head(tmp_path, earlier_mm, later_mm, state):
    (earlier, _, affine), (later, _, _) = (synthetic_head(SHAPE, SPACING, mm, seed=4) for mm in (earlier_mm, later_mm))
    said = follow(tmp_path, earlier, as_another_day(later, affine, 3), affine)
    # The lesion may touch what else stands out in a drawn head.
    states = {"new": ("new", "larger")}.get(state, (state,))
    assert said["findings"][0]["state"] in states
    others = [one for one in said["findings"] if one["state"] not in (*states, "unchanged")]
    assert sum(abs(one["later_ml"] - one["earlier_ml"]) for one in others) < 1
    image = nib.load(tmp_path / "out" / f"later_{CHANGE}")
    assert image.shape == SHAPE
    np.testing.assert_allclose(image.affine, affine, atol=1e-4)
    assert nib.load(tmp_path / "out" / f"later_{EARLIER_MAP}").shape == SHAPE
    assert (tmp_path / "out" / f"later_{PICTURE}").stat().st_size > 10_000
    page = (tmp_path / "out" / PAGE).read_text()
    assert f"<td>{said['findings'][0]['state']}</td>" in page
    assert not re.search(r"(src|href)=.(http|/|file)", page)
    assert (tmp_path / "out" / "earlier" / "batch.csv").is_file()
    assert (tmp_path / "out" / "later" / "report.html").is_file()


def balls(*spheres):
    """A map with spheres of a value: (centre, radius, value)."""
    grid = np.stack(np.indices((40, 40, 20)), -1)
    made = np.zeros((40, 40, 20), np.float32)
    for centre, radius, value in spheres:
        made[np.linalg.norm(grid - centre, axis=-1) <= radius] = value
    return made


EVERYWHERE, UNIT, LIMITS = np.ones((40, 40, 20), bool), np.eye(4), Limits(threshold=2.0, tolerance_mm=2.0)


@pytest.mark.parametrize(
    ("earlier", "later", "states"),
    [
        ([], [((20, 20, 10), 5, 4)], ["new"]),
        ([((20, 20, 10), 5, 4)], [], ["gone"]),
        ([((20, 20, 10), 3, 4)], [((20, 20, 10), 7, 4)], ["larger"]),
        ([((20, 20, 10), 7, 4)], [((20, 20, 10), 3, 4)], ["smaller"]),
        ([((20, 20, 10), 5, 4)], [((21, 21, 10), 5, 4)], ["unchanged"]),
        ([((20, 20, 10), 5, 2.5)], [((20, 20, 10), 5, 3.0)], ["unchanged"]),
        ([((20, 20, 10), 5, 1.8)], [((20, 20, 10), 5, 2.2)], ["unchanged"]),
        ([], [((20, 20, 10), 1, 4)], []),
        ([((10, 10, 10), 5, 4)], [((10, 10, 10), 5, 4), ((30, 30, 10), 4, 4)], ["new", "unchanged"]),
    ],
)
def test_states(earlier, later, states):
    found = matched(balls(*earlier), balls(*later), EVERYWHERE, UNIT, LIMITS)
    assert [one.state for one in found] == states
    assert set(states) <= set(STATES)


def test_change_is_in_units_of_the_map_and_signed():
    earlier, later = balls(((10, 10, 10), 5, 3)), balls(((30, 30, 10), 5, 4.5))
    change = change_map(earlier, later, EVERYWHERE, UNIT, LIMITS)
    assert change[30, 30, 10] == pytest.approx(4.5)
    assert change[10, 10, 10] == pytest.approx(-3)
    unseen = EVERYWHERE.copy()
    unseen[:, :, 12:] = False
    assert not change_map(earlier, later, unseen, UNIT, LIMITS)[..., 12:].any()
    back = change_map(later, earlier, EVERYWHERE, UNIT, LIMITS)
    np.testing.assert_array_equal(back, -change)


def test_scans_are_paired_by_their_contrast(tmp_path):
    for session, names in (("ses-1", ("FLAIR", "T1w")), ("ses-2", ("FLAIR", "T2w"))):
        for name in names:
            path = tmp_path / "sub-01" / session / "anat" / f"sub-01_{session}_{name}.nii.gz"
            write_map(path, np.ones((4, 4, 4)), np.eye(4))
    job = JobSpec().load()
    plans = [plan_of(tmp_path / "sub-01" / session, job)[0] for session in ("ses-1", "ses-2")]
    (pair,) = pairs_of(*plans, job)
    assert pair.earlier.name == "sub-01_ses-1_FLAIR"
    assert pair.later.name == "sub-01_ses-2_FLAIR"
    with pytest.raises(DatasetError, match="several scans that may be meant"):
        pairs_of([*plans[0], plans[0][0]], plans[1], job)
    with pytest.raises(DatasetError, match="and of T2w"):
        pairs_of(plans[0], [case for case in plans[1] if "T2w" in case.name], job)


def test_two_studies_as_an_archive_gives_them(tmp_path):
    """Of each study the FLAIR series is meant; the localizer, and a T1w that only one of them has, are not."""
    pytest.importorskip("highdicom")
    from tests.dicom_files import write_series

    for study, lesion_mm in (("early", 9), ("late", 18)):
        scan, _, affine = synthetic_head(SHAPE, SPACING, lesion_mm, seed=4)
        root = tmp_path / study
        write_series(root / "a", scan, affine, SeriesDescription="AX FLAIR", StudyInstanceUID=f"1.2.{lesion_mm}")
        write_series(root / "b", scan[..., :3], affine, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_series(tmp_path / "early" / "c", scan, affine, SeriesDescription="SAG T1", StudyInstanceUID="1.2.9")
    code = main(["follow", str(tmp_path / "early"), str(tmp_path / "late"), str(tmp_path / "out")])
    assert code == EXIT_CODES["all good"]
    (path,) = (tmp_path / "out").glob(f"*_{FINDINGS}")
    said = json.loads(path.read_text())
    assert said["findings"][0]["state"] == "larger"
    assert said["earlier"] != said["later"]
    assert list((tmp_path / "out" / "later").glob("*desc-anomaly_seg.dcm"))


def test_raw_scores_are_not_compared(tmp_path, head, capsys):
    write_map(tmp_path / "a.nii.gz", head[0], head[2])
    given = ["follow", *[str(tmp_path / "a.nii.gz")] * 2, str(tmp_path / "out"), "--set", "calibration=none"]
    assert main(given) == EXIT_CODES["usage"]
    assert "raw scores of two scans do not compare" in capsys.readouterr().err


def test_a_real_head_is_found_again_within_half_a_millimetre():
    image = nib.load(find_scans(data_folder("brain_wml10"))[0]["image"])
    scan = np.asarray(image.dataobj, dtype=np.float32)
    moved, transform = posed(scan, image.affine, 5, 10, 10)
    found = register_rigid(Volume(moved, image.affine, moved > 5), Volume(scan, image.affine, scan > 5))
    middle = image.affine[:3, :3] @ (np.array(scan.shape) / 2) + image.affine[:3, 3]
    places = np.c_[middle + np.random.RandomState(0).uniform(-50, 50, (100, 3)), np.ones(100)]
    assert np.linalg.norm((places @ (found - transform).T)[:, :3], axis=1).mean() < 0.5


@pytest.mark.slow
def test_a_copy_of_a_real_scan_has_hardly_changed(tmp_path):
    number = 1
    case = find_scans(data_folder("brain_wml10"))[number]
    image = nib.load(case["image"])
    scan = np.asarray(image.dataobj, dtype=np.float32)
    said = follow(tmp_path, scan, as_another_day(scan, image.affine, number), image.affine)
    changed = sum(abs(one["later_ml"] - one["earlier_ml"]) for one in said["findings"] if one["state"] != "unchanged")
    assert changed < 0.3


@pytest.mark.slow
def test_a_lesion_planted_into_a_real_scan(tmp_path):
    case = find_scans(data_folder("brain_wml10"))[4]
    image = nib.load(case["image"])
    scan = np.asarray(image.dataobj, dtype=np.float32)
    middle = np.array(scan.shape) // 2 + [28, 0, 6]
    away = np.linalg.norm((np.stack(np.indices(scan.shape), -1) - middle) * image.header.get_zooms()[:3], axis=-1)
    ill = scan + 0.7 * np.median(scan[scan > 0]) * np.clip(7.5 - away, 0, 1) * (scan > 0)
    said = follow(tmp_path, scan, as_another_day(ill, image.affine, 2), image.affine)
    new = [one for one in said["findings"] if one["state"] in ("new", "larger")]
    assert len(new) == 1
    assert new[0]["later_ml"] - new[0]["earlier_ml"] == pytest.approx(1.5, abs=1.0)
