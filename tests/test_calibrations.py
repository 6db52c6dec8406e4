# SPDX-License-Identifier: Apache-2.0
"""Every shipped calibration belongs to the method, the preprocessing and the weights that it ships with, keeps its
promise on patients who made none of it, and is refused for anything else.
"""

import nibabel as nib
import numpy as np
import pytest

from bundle.cli import main
from bundle.datasets import training_cases
from bundle.errors import WeightsError, cause_of
from bundle.io.nifti import scan_from_array, write_map
from bundle.modalities import DEFAULT, MODALITIES
from bundle.pipeline.job import Job
from bundle.scoring.calibration import RAW_UNITS, UNITS
from bundle.transforms.head import free_slices
from tests.conftest import ROOT, data_folder

SPLITS = ROOT / "configs" / "splits"
PAIRS = [(m.name, method) for m in MODALITIES.values() for method in (DEFAULT, *m.methods) if m.calibrates(method)]
#: Patients of the test part that are asked, few slices each, and how far the mean over them may be from 1 %.
PATIENTS = {"flair": 3, "t1w": 3, "t2w": 2, "oct": 24}
FACTOR = 3.5


def _tested(folder, known, layout=None, split=None):
    return training_cases(data_folder(folder), "test", layout or known.layout, split or known.split_path, known.suffix)


TESTED = {
    "flair": lambda known: _tested("brain_lgg", known),
    "t1w": lambda known: _tested("brain_lgg", known),
    # All healthy volunteers of T2w trained or calibrated: elderly people of another place.
    "t2w": lambda known: _tested("brain_wml10", known, "bids_lesion", SPLITS / "small_lesions.json"),
    "oct": lambda known: _tested("oct", known),
}


QUICK = (("flair", DEFAULT), ("oct", DEFAULT))


@pytest.mark.parametrize(("modality", "method"), PAIRS)
def test_the_table_fits(modality, method):
    """Building the job compares weights, preprocessing, method and settings with those of the table."""
    job = Job(MODALITIES[modality].configs(method))
    known = job.calibration_points
    assert known["end"] > 2, "enough voxels for 1 %"
    assert known["patients"] >= 3
    assert job.units == UNITS


@pytest.mark.parametrize(
    ("modality", "method"),
    [pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.slow) for pair in PAIRS],
)
def test_the_promised_rate_holds_on_other_patients(modality, method):
    """Of healthy tissue about 1 % is above 2, on patients who neither trained nor calibrated."""
    known = MODALITIES[modality]
    cases = TESTED[modality](known)
    cases = sorted(cases, key=lambda case: nib.load(case["image"]).shape[2] if known.axial else 0)
    job = Job(known.configs(method), precision="float32")
    above, voxels = 0, 0
    for case in cases[: PATIENTS[modality]]:
        item = job({key: case[key] for key in ("image", "voxel_um") if key in case})
        inside = item[job.region][0].numpy() > 0
        if "label" in case:
            inside &= free_slices(np.asarray(nib.load(case["label"]).dataobj) > 0)[None, None]
        above, voxels = above + (item["pred"][0].numpy()[inside] >= 2).sum(), voxels + inside.sum()
    assert 0.01 / FACTOR < above / voxels < 0.01 * FACTOR


@pytest.mark.parametrize(
    "settings",
    [
        {"steps#scale#headroom": 1.5},
        {"steps#scale#spread": None},
        {"steps#grid#slice_spacing": 6.0},
        {"inferer#methods#structured_flips#sharpening": 0},
        {"inferer#methods#structured_flips#score_with": "flips"},
        {"inferer#shares#intensity": 0},
        {"inferer#across": 0},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_other_settings_are_refused(settings):
    with pytest.raises(WeightsError) as caught:
        Job(**settings)
    error = cause_of(caught.value)
    assert isinstance(error, WeightsError)
    assert next(iter(settings)).rpartition("#")[2] in error.reason
    assert "flipmap calibrate" in error.remedy


def test_raw_scores_say_so_everywhere(head, tmp_path):
    scan, _, affine = head
    write_map(tmp_path / "in" / "a.nii.gz", scan, affine, np.int16)
    output = tmp_path / "out"
    arguments = ["run", str(tmp_path / "in"), str(output), "-q", "--set", "calibration=none"]
    assert main([*arguments, "--set", "steps#scale#headroom=1.5"]) == 0
    path = output / "a_desc-rawscore_map.nii.gz"
    assert path.is_file()
    assert not list(output.glob("*anomaly_map*"))
    assert nib.load(path).header["descrip"].item().decode() == RAW_UNITS
    assert RAW_UNITS in (output / "a_desc-rawscore_findings.json").read_text()
    assert RAW_UNITS in (output / "a_desc-rawscore_map.json").read_text()
    page = (output / "report.html").read_text()
    assert "Raw scores, not calibrated" in page
    assert "healthy voxels as high or higher" not in page
    assert main(["run", str(tmp_path / "in"), str(tmp_path / "calibrated"), "-q"]) == 0
    mapped = nib.load(tmp_path / "calibrated" / "a_desc-anomaly_map.nii.gz")
    assert mapped.header["descrip"].item().decode() == UNITS


def test_no_value_is_beyond_the_table(head):
    """Ten times as bright as anything healthy: as rare as the table knows, and said to be so."""
    scan, lesion, affine = head
    result = Job(precision="float32")({"image": scan_from_array(np.where(lesion > 0, 10.0 * scan.max(), scan), affine)})
    end = result["table_end"]
    assert float(result["pred"].max()) <= end + 1e-5
    assert result["findings"]["table_end"] == round(end, 3)
