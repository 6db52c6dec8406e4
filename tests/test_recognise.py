# SPDX-License-Identifier: Apache-2.0
"""The contrast of a scan, told from the image; each scan to the weights of its own."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from scipy import ndimage

from bundle.cases import lesion_cases
from bundle.errors import ContrastError
from bundle.io.nifti import scan_from_array, write_map
from bundle.notes import notes_of
from bundle.pipeline.contrasts import NAMED, job_of_any_contrast
from bundle.pipeline.job import Job
from bundle.scoring.description import describe
from bundle.synthesis.sample import synthetic_head
from bundle.training.profiles import BrainProfiles
from bundle.transforms.brain import GIVEN
from bundle.transforms.mri import ScaleHeadIntensityd
from bundle.transforms.recognise import (
    CANDIDATES,
    CERTAINTY,
    CONTRAST,
    CONTRASTS,
    PROFILE,
    BrainVoxels,
    RecogniseContrastd,
    brain_voxels,
    candidates_of,
    contrast_of,
    intensity_profile,
)
from tests.conftest import ROOT, data_folder

WEIGHTS = ROOT / "models" / "contrast" / "model.pt"
HALF = PROFILE // 2  # numbers of a profile that intensities as they are make; the others are against their surroundings
RANKED = HALF - 6  # of these, those that ranks alone make


@pytest.fixture(scope="module")
def voxels():
    rng = np.random.default_rng(0)
    depths = rng.uniform(0, 40, 20_000)
    values = np.where(depths < 5, 0.8, 1.0) + rng.normal(0, 0.1, depths.shape)
    return BrainVoxels(values, values, depths, np.zeros((20_000, 3)))


def test_ranks_do_not_see_how_a_scanner_bends_intensities(voxels):
    plain, bent = intensity_profile(voxels), intensity_profile(voxels._replace(values=voxels.values**1.7 * 3))
    np.testing.assert_allclose(plain[:RANKED], bent[:RANKED], atol=1e-5)
    turned = intensity_profile(voxels._replace(values=2 - voxels.values))
    assert np.abs(plain - turned)[:RANKED].mean() > 0.3, "but which depth is the brighter one, they see"


def test_shares_of_a_depth_add_up(voxels):
    shares = intensity_profile(voxels)[:RANKED].reshape(-1, 12)
    np.testing.assert_allclose(shares.sum(1), 12, rtol=1e-5)


def test_voxels_of_a_brain_have_depth_and_place():
    brain = np.zeros((40, 50, 9), bool)
    brain[5:35, 5:45, 2:7] = True
    volume = np.full(brain.shape, 7.0, np.float32)
    found = brain_voxels(volume, brain, (2.0, 2.0, 5.0))
    assert len(found.values) == brain.sum() and (found.values == 1).all()
    np.testing.assert_allclose(found.local, 1, atol=0.02)
    assert found.depths.min() == 2 and found.depths.max() == 30
    assert np.abs(found.places).max() <= 1 and found.places.shape == (len(found.values), 3)
    fine = brain_voxels(volume, brain, (0.5, 0.5, 5.0))
    assert len(fine.values) == brain.sum() / 4, "every other voxel of fine ones is enough"


def test_uneven_brightness_of_a_coil_is_not_in_what_is_seen_against_the_surroundings():
    rng, brain = np.random.default_rng(0), np.zeros((200, 180, 5), bool)
    brain[20:180, 15:165] = True
    cortex = np.where(distance_of(brain) < 6, 1.4, 1.0) + rng.normal(0, 0.02, brain.shape)
    coil = np.exp(np.linspace(-0.5, 0.5, 200))[:, None, None]
    even, uneven = (
        brain_voxels(volume.astype(np.float32), brain, (1.0, 1.0, 5.0)) for volume in (cortex, cortex * coil)
    )
    assert np.abs(even.values - uneven.values).mean() > 0.15
    assert np.abs(even.local - uneven.local).mean() < 0.05
    told = [
        np.abs(intensity_profile(even) - intensity_profile(uneven))[half].mean()
        for half in (slice(HALF), slice(HALF, None))
    ]
    assert told[1] < 0.5 * told[0]


def distance_of(brain):
    return ndimage.distance_transform_edt(brain, sampling=(1, 1, 1000))


def head_of(contrast, shape=(128, 144, 16), spacing=(1.5, 1.5, 7.0), **how):
    scan, _, affine = synthetic_head(shape, spacing, contrast=contrast, **how)
    return scan, affine


@pytest.mark.parametrize("contrast", ["FLAIR", "T1w", "T2w"])
@pytest.mark.parametrize("seed", [0, 1])
def test_told_on_drawn_heads_that_trained_nothing(contrast, seed):
    steps = Job(check_contrast=False, device="cpu").preprocessing.transforms[:5]
    told = contrast_of(Compose(steps)({"image": scan_from_array(*head_of(contrast, seed=seed))})["image"])
    assert told[0] == contrast and told[1] > 0.5, told


def test_another_contrast_is_refused_with_what_it_looks_like(tmp_path):
    write_map(tmp_path / "scan.nii.gz", *head_of("T2w"), np.float32)
    with pytest.raises(Exception) as caught:
        Job(device="cpu").prepare({"image": str(tmp_path / "scan.nii.gz")})
    known = caught.value
    while known is not None and not isinstance(known, ContrastError):
        known = known.__cause__
    assert known.contrast == "T2w" and "looks like T2w" in known.reason and "scan.nii.gz" in known.where
    kept = Job(device="cpu", check_contrast=False).prepare({"image": str(tmp_path / "scan.nii.gz")})
    assert contrast_of(kept["image"])[0] == "T2w", "said, and not refused"


def test_it_is_no_part_of_the_calibration():
    scale = ScaleHeadIntensityd("image", spread=0.1)
    assert describe(steps=[RecogniseContrastd("image"), scale]) == describe(steps=[scale])


def test_an_error_of_the_contrast_survives_a_loader_worker():
    import pickle

    error = ContrastError("scan.nii.gz", "looks like T2w", "Give FLAIR", "T2w")
    again = pickle.loads(pickle.dumps(error))
    assert (again.contrast, str(again)) == ("T2w", str(error))


def test_profiles_to_learn_from(tmp_path):
    (scan, affine), (other, _) = head_of("FLAIR"), head_of("T2w")

    def read(case):
        image = scan_from_array(case["array"], affine)
        return {"image": image, "brain": (image > 40).float()}

    sources = [
        {"contrast": "FLAIR", "data": [{"array": scan}], "preprocessing": read},
        {"contrast": "T2w", "data": [{"array": other}], "preprocessing": read, "share": 2},
    ]
    drawn = BrainProfiles(sources, length=60, seed=1)
    labels = [int(drawn[number]["label"]) for number in range(60)]
    assert set(labels) == {CONTRASTS.index("FLAIR"), CONTRASTS.index("T2w")}
    assert torch.equal(drawn[3]["image"], drawn[3]["image"]), "a seed makes an item the same"
    assert not torch.equal(drawn[3]["image"], drawn[4]["image"])
    plain = BrainProfiles(sources, length=60, drawn=False)
    assert len(plain) == 2 and [int(item["label"]) for item in plain] == [0, 2]


@pytest.mark.parametrize("suffix", ["FLAIR", "T1w", "T2w"])
def test_told_on_real_scans(suffix):
    steps = Job(check_contrast=False, suffix=suffix, device="cpu").preprocessing.transforms[:5]
    cases = [case for case in lesion_cases(data_folder("brain_wml10"), suffix) if case["subject"] >= "sub-wml03"]
    told = [contrast_of(Compose(steps)({"image": case["image"]})["image"]) for case in cases]
    assert [contrast for contrast, _ in told] == [suffix] * len(cases)


def test_the_contrasts_of_one_person_get_a_map_each(tmp_path):
    """By the weights of its contrast each, under names of their own."""
    from bundle import cli

    anat = tmp_path / "in" / "sub-01" / "anat"
    contrasts = ("FLAIR", "T1w", "T2w")
    for contrast in contrasts:
        write_map(anat / f"sub-01_{contrast}.nii.gz", *head_of(contrast), np.float32)
    assert cli.main(["run", str(tmp_path / "in"), str(tmp_path / "out"), "--quiet"]) == 0
    maps = {}
    for contrast in contrasts:
        stem = tmp_path / "out" / "sub-01" / "anat" / f"sub-01_mod-{contrast}_desc-anomaly_map"
        maps[contrast] = np.asarray(nib.load(f"{stem}.nii.gz").dataobj)
        said = json.loads(stem.with_name(stem.name + ".json").read_text())
        assert said["settings"]["suffix"] == contrast and said["contrast"][0] == contrast
    for contrast in ("T1w", "T2w"):
        alone = Job([ROOT / "configs" / "inference.json", ROOT / "configs" / f"{contrast.lower()}.json"], device="cpu")
        own = alone({"image": str(anat / f"sub-01_{contrast}.nii.gz"), "name": "own"})["pred"][0].numpy()
        np.testing.assert_allclose(maps[contrast], own, atol=1e-3)
        assert not np.array_equal(maps[contrast], maps["FLAIR"])


def test_a_folder_without_names_is_sorted_by_what_scans_look_like(tmp_path):
    import csv

    from bundle import cli

    for name, contrast in {"a": "FLAIR", "b": "T1w", "c": "T2w"}.items():
        write_map(tmp_path / "in" / f"{name}.nii.gz", *head_of(contrast), np.float32)
    assert cli.main(["run", str(tmp_path / "in"), str(tmp_path / "out"), "--quiet"]) == 0
    with (tmp_path / "out" / "batch.csv").open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert [rows[name]["contrast"] for name in "abc"] == ["FLAIR", "T1w", "T2w"]
    assert [rows[name]["status"] for name in "abc"] == ["done"] * 3
    assert float(rows["a"]["contrast_probability"]) > 0.5


@pytest.mark.parametrize(
    ("description", "contrast"),
    [
        ("AX FLAIR", "FLAIR"),
        ("t2_tirm_tra_dark-fluid", "FLAIR"),
        ("AX T2 TSE FLAIR", "FLAIR"),
        ("t2_space_dark-fluid_sag", "FLAIR"),
        ("SAG T1 MPRAGE", "T1w"),
        ("AX T1 POST GD", None),
        ("AX T2 TSE", "T2w"),
        ("t2_tse_tra_fs", "T2w"),
        ("T2* GRE", None),
        ("AX T2 STAR", None),
        ("T2 map", None),
        ("ep2d_diff_t2", None),
        ("AX DWI", None),
    ],
)
def test_the_description_of_a_series_says_its_contrast(description, contrast):
    """Which series are mapped at all, and whose weights are asked first."""
    from bundle.io.dicom import DicomSeries
    from bundle.pipeline.contrasts import job_of_any_contrast

    job = job_of_any_contrast()
    series = DicomSeries("1.2", (), description)
    assert series.matches(job.series) == (contrast is not None)
    if contrast is not None:
        assert job.job_of(job.contrast_named({"image": series})).settings["suffix"] == contrast


def test_a_mixed_dicom_study_in_one_command(tmp_path):
    """Each contrast is mapped by weights of its own; everything else has its row, with the reason."""
    import csv

    pytest.importorskip("highdicom")
    from bundle import cli
    from tests.dicom_files import write_series

    series = {"AX FLAIR": "FLAIR", "SAG T1 MPRAGE": "T1w", "AX T2 TSE": "T2w", "AX T1 POST GD": "T1w", "AX DWI": "T2w"}
    for number, (description, contrast) in enumerate(series.items()):
        scan, affine = head_of(contrast, (72, 84, 10), (2.7, 2.7, 11.0))
        write_series(tmp_path / "in" / str(number), scan, affine, SeriesDescription=description)
    assert cli.main(["run", str(tmp_path / "in"), str(tmp_path / "out"), "--quiet"]) == 0
    with (tmp_path / "out" / "batch.csv").open() as file:
        rows = list(csv.DictReader(file))
    done = {row["contrast"] for row in rows if row["status"] == "done"}
    assert done == {"FLAIR", "T1w", "T2w"}
    skipped = [row["reason"] for row in rows if row["status"] == "skipped"]
    assert len(skipped) == 2 and all("T1w without contrast agent or T2w;" in reason for reason in skipped)
    assert len(list((tmp_path / "out").rglob("*_desc-anomaly_seg.dcm"))) == 3


class Sees:
    """A job that takes every scan for what it is told, as its network would say."""

    def __init__(self, suffix, says):
        self.settings, self.says = {"suffix": suffix}, says

    def prepare(self, case):
        image = MetaTensor(torch.zeros(1, 2, 2, 2), meta={"filename_or_obj": str(case["image"])})
        (likely, probability), (second, other) = self.says
        image.meta |= {CONTRAST: likely, CERTAINTY: probability}
        if probability < 0.9:
            image.meta[CANDIDATES] = f"{likely} {probability},{second} {other}"
        mask = MetaTensor(torch.ones(1, 2, 2, 2), meta={GIVEN: "brain" in case})
        return {"image": image, "brain": mask}


@pytest.fixture(scope="module")
def any_contrast():
    return job_of_any_contrast(device="cpu")


@pytest.fixture
def job_that_sees(monkeypatch, any_contrast):
    """A job of all contrasts whose networks say this of any scan."""

    def job(*says):
        monkeypatch.setattr(Job, "prepare", lambda self, case: Sees("FLAIR", says).prepare(case))
        return any_contrast

    return job


@pytest.mark.parametrize("name", ["scan.nii.gz", "IM_0001.nii.gz"])
def test_an_unsure_contrast_of_a_nameless_scan_is_skipped_with_both_candidates(job_that_sees, name):
    job = job_that_sees(("FLAIR", 0.78), ("T1w", 0.2))
    with pytest.raises(ContrastError, match=r"FLAIR \(78% sure\) or T1w \(20%\)") as caught:
        job.prepare({"image": name})
    assert "--contrast FLAIR or --contrast T1w" in caught.value.remedy


def test_where_it_is_mapped_all_the_same_a_note_says_so(job_that_sees):
    job = job_that_sees(("FLAIR", 0.78), ("T1w", 0.2))
    assert notes_of(job.prepare({"image": "a_FLAIR.nii.gz"})["image"].meta) == "", "name and look agree"
    for case, why in (
        ({"image": "a_T1w.nii.gz"}, "mapped as T1w, as its name"),
        ({"image": "a.nii.gz", "brain": "b"}, "as FLAIR"),
    ):
        note = notes_of(job.prepare(case)["image"].meta)
        assert why in note and "FLAIR (78% sure) or T1w (20%)" in note
    doubt = job_that_sees(("FLAIR", 0.85), ("T1w", 0.1))
    assert "not sure" in notes_of(doubt.prepare({"image": "a.nii.gz"})["image"].meta), "a little doubt is no reason"
    sure = job_that_sees(("FLAIR", 0.95), ("T1w", 0.05))
    assert not notes_of(sure.prepare({"image": "a.nii.gz"})["image"].meta)


@pytest.mark.parametrize(
    ("name", "contrast"), [("sub-01_ce-gd_T1w", "T1c"), ("x_t1ce", "T1c"), ("a_bold", "bold"), ("a_ADC", "ADC")]
)
def test_a_name_of_another_contrast_is_skipped_before_anything_is_read(any_contrast, name, contrast):
    with pytest.raises(ContrastError, match=f"{contrast} by its name") as caught:
        any_contrast.prepare({"image": f"{name}.nii.gz"})
    assert "--contrast" in caught.value.remedy


def test_what_a_series_was_called_is_not_forgotten_when_it_is_read(job_that_sees):
    """A batch reads first, and then has a tensor alone."""
    job = job_that_sees(("FLAIR", 0.5), ("T1w", 0.4))
    scan = MetaTensor(torch.zeros(1, 2, 2, 2), meta={"filename_or_obj": "IM1", NAMED: "T1w"})
    assert "mapped as T1w" in notes_of(job.prepare({"image": scan})["image"].meta)


def test_the_network_says_where_it_is_not_sure(monkeypatch):
    recognise = RecogniseContrastd("image", WEIGHTS, wanted="FLAIR")
    told = dict(zip(CONTRASTS, (0.6, 0.3, 0.06, 0.04), strict=True))
    monkeypatch.setattr(recognise, "_tell", lambda scan, mask: told)
    scan, mask = MetaTensor(torch.zeros(1, 2, 2, 2)), MetaTensor(torch.ones(1, 2, 2, 2))
    item = recognise({"image": scan, "brain": mask})
    assert candidates_of(item["image"]) == [("FLAIR", 0.6), ("T1w", 0.3)]
    told.update(FLAIR=0.96, T1w=0.02, T2w=0.01, PDw=0.01)
    scan = MetaTensor(torch.zeros(1, 2, 2, 2))
    assert candidates_of(recognise({"image": scan, "brain": mask})["image"]) == []
