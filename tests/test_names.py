# SPDX-License-Identifier: Apache-2.0
"""Which files are scans by their names: BIDS and other people's, results of this project, copies of one scan."""

from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from bundle.cases import find_scans, sort_scans
from bundle.errors import DatasetError
from bundle.follow import follow
from bundle.names import contrast_by_name, contrast_in_name, not_a_scan
from bundle.oct_cases import find_oct
from bundle.outputs import DICOM_OUTPUTS, ENFACE, OUTPUTS, REGIONS, is_result
from bundle.pipeline.save import named
from bundle.scoring.calibration import RAW_UNITS
from tests.conftest import ROOT
from tests.test_cases import names, touch

#: Names like those of bids-examples and of other people → the contrast, or a word of why each is no scan.
NAMES = {
    "sub-01_FLAIR.nii.gz": "FLAIR",
    "sub-01_ses-a_acq-highres_run-2_T1w.nii": "T1w",
    "sub-01_rec-norm_T2w.nii.gz": "T2w",
    "sub-01_part-mag_T1w.nii.gz": "T1w",
    "sub-01_echo-1_T1w.nii.gz": "T1w",
    "sub-01_ce-gadolinium_T1w.nii.gz": "T1c",
    "sub-01_ce-gd_FLAIR.nii.gz": "FLAIRc",
    "sub-01_T2starw.nii.gz": "T2starw",
    "sub-01_UNIT1.nii.gz": "UNIT1",
    "sub-01_desc-preproc_T1w.nii.gz": "T1w",
    "sub-01_part-phase_FLAIR.nii.gz": "phase",
    "sub-01_part-real_T1w.nii.gz": "complex",
    "sub-01_inv-1_MP2RAGE.nii.gz": "MP2RAGE",
    "sub-01_inv-2_part-mag_T1w.nii.gz": "MP2RAGE",
    "sub-01_acq-scout_T1w.nii.gz": "localizer",
    "sub-01_mt-on_T1w.nii.gz": "magnetisation",
    "sub-01_T1map.nii.gz": "computed map",
    "sub-01_Chimap.nii.gz": "computed map",
    "sub-01_echo-1_MESE.nii.gz": "quantitative",
    "sub-01_magnitude1.nii.gz": "field map",
    "sub-01_phasediff.nii.gz": "field map",
    "sub-01_desc-brain_mask.nii.gz": "mask or label map",
    "sub-01_label-GM_probseg.nii.gz": "mask or label map",
    "sub-01_desc-aseg_dseg.nii.gz": "mask or label map",
    "sub-01_contrast-go_stat-t_statmap.nii.gz": "statistical",
    "spmT_0001.nii": "SPM",
    "con_0003.nii": "SPM",
    "thresh_zstat1.nii.gz": "FEAT",
    "x.feat/mean_func.nii.gz": "x.feat",
    "100307.curvature.dscalar.nii": "CIFTI",
    "rest.dtseries.nii": "CIFTI",
    "BraTS20_Training_001_seg.nii.gz": "mask or label map",
    "BraTS-GLI-00000-000-seg.nii.gz": "mask or label map",
    # Names that nobody standardised: words are hints.
    "BraTS20_Training_001_t1ce.nii.gz": "~T1c",
    "BraTS-GLI-00000-000-t2f.nii.gz": "~FLAIR",
    "IXI012-HH-1211-T1.nii.gz": "~T1w",
    "patient3_T2_FLAIR_axial.nii": "~FLAIR",
    "t1_gd.nii.gz": "~T1c",
    "MPRAGE.nii.gz": "~T1w",
    "scan_ADC.nii.gz": "~ADC",
    "flair_on_t1.nii.gz": "~",
    "PD_001.nii.gz": "~",
    "scan.nii.gz": "~",
    "heatmap_of_nothing.nii.gz": "~",
    "brain.nii.gz": "~",
}


@pytest.mark.parametrize(("name", "what"), NAMES.items())
def test_what_a_name_says(name, what):
    why = not_a_scan(name)
    if what.startswith("~"):
        assert why is None and contrast_by_name(name) == "" and contrast_in_name(name) == what[1:]
    elif why is None:
        assert contrast_by_name(name) == contrast_in_name(name) == what
    else:
        assert what in why.reason and why.remedy


@pytest.mark.parametrize("bids", [True, False])
def test_what_is_no_scan_has_its_reason(tmp_path, bids):
    folder = "sub-01/anat/" if bids else "some/where/"
    touch(
        tmp_path, f"{folder}sub-01_T1w.nii.gz", f"{folder}sub-01_ce-gd_T1w.nii.gz", f"{folder}sub-01_part-phase_T1w.nii"
    )
    found = sort_scans(tmp_path, ["FLAIR", "T1w"])
    assert names(found.scans) == ["sub-01_T1w"] == names(find_scans(tmp_path, "T1w"))
    assert {Path(path).name: "contrast agent" in why.reason for path, why in found.left_out.items()} == {
        "sub-01_ce-gd_T1w.nii.gz": True,
        "sub-01_part-phase_T1w.nii": False,
    }


def test_a_contrast_agent_is_mapped_when_asked_for(tmp_path):
    touch(tmp_path, "sub-01/anat/sub-01_ce-gd_T1w.nii.gz", "sub-01/anat/sub-01_T1w.nii.gz")
    assert names(find_scans(tmp_path, "T1c")) == ["sub-01_ce-gd_T1w"]
    with pytest.raises(DatasetError, match=r"contrast agent.*--suffix FLAIRc"):
        touch(tmp_path / "b", "sub-02/anat/sub-02_ce-gd_FLAIR.nii.gz")
        find_scans(tmp_path / "b", "FLAIR")


#: Files → those that are mapped.
COPIES = {
    "formats": (["a.nii", "a.nii.gz", "b.nii", "c/a.nii"], ["a.nii.gz", "b.nii", "c/a.nii"]),
    "echoes": (
        ["s_echo-1_T1w.nii", "s_echo-2_T1w.nii", "s_run-2_echo-2_T1w.nii"],
        ["s_echo-1_T1w.nii", "s_run-2_echo-2_T1w.nii"],
    ),
    "echoes put together": (["s_echo-1_T1w.nii", "s_echo-2_T1w.nii", "s_T1w.nii"], ["s_T1w.nii"]),
    "derivatives": (["s_T1w.nii", "s_desc-preproc_T1w.nii", "s_space-MNI_T1w.nii"], ["s_T1w.nii"]),
    "only derivatives": (["s_desc-preproc_T1w.nii", "s_space-MNI_desc-preproc_T1w.nii"], ["s_desc-preproc_T1w.nii"]),
    "acquisitions": (["s_acq-a_T1w.nii", "s_acq-b_T1w.nii"], ["s_acq-a_T1w.nii", "s_acq-b_T1w.nii"]),
}


@pytest.mark.parametrize("kind", COPIES)
def test_a_scan_is_mapped_once(tmp_path, kind):
    files, mapped = COPIES[kind]
    touch(tmp_path, *files)
    found = sort_scans(tmp_path)
    assert sorted(Path(case["image"]).relative_to(tmp_path).as_posix() for case in found.scans) == sorted(mapped)
    assert set(found.left_out) == set(files) - set(mapped)
    assert all("mapped" in why.reason for why in found.left_out.values())


def test_bids_outputs_do_not_collide(tmp_path):
    touch(tmp_path, "sub-01/anat/sub-01_FLAIR.nii", "sub-01/anat/sub-01_FLAIR.nii.gz")
    (case,) = find_scans(tmp_path)
    assert case["image"].endswith(".nii.gz")


def written():
    """Names of all files that this project writes beside a scan named a."""
    parser = ConfigParser()
    parser.read_config(str(ROOT / "configs" / "inference.json"))
    saved = next(one for one in parser["postprocessing#transforms"] if "suffixes" in one)["suffixes"]
    by_bundle = [
        f"{one if not one.startswith('$') else region + '_mask'}.nii.gz" for one in saved for region in REGIONS
    ]
    endings = [ending for ending, _ in OUTPUTS.values()] + [ENFACE, *DICOM_OUTPUTS.values(), *by_bundle]
    endings = [ending.format(region=region) for ending in endings for region in REGIONS]
    endings += [follow.CHANGE, follow.EARLIER_MAP, follow.FINDINGS, follow.PICTURE]
    names_ = {f"a_{name}" for ending in endings for name in (ending, named(ending, RAW_UNITS))}
    return sorted(names_)


def test_results_are_never_input(tmp_path):
    files = written()
    touch(tmp_path, "a.nii.gz", *files)
    assert len(files) > 20 and any("change" in file for file in files) and any("_slices.png" in file for file in files)
    assert names(find_scans(tmp_path)) == ["a"]
    assert names(find_oct(tmp_path)) == ["a"]
    assert not sort_scans(tmp_path).left_out, "they are ours, and need no word"
    assert not any(is_result(own) for own in ("a", "anomaly", "a_map", "sub-01_FLAIR"))


def test_archives_beside_scans_are_not_passed_over(tmp_path):
    touch(tmp_path, "a.nii.gz", "more.zip", "even_more.tar.gz", "notes.json.gz", "picture.png")
    found = sort_scans(tmp_path)
    assert {path: why.remedy for path, why in found.left_out.items()} == dict.fromkeys(
        ("more.zip", "even_more.tar.gz"), "Unpack it, and give the folder"
    )


@pytest.mark.parametrize(
    ("name", "reason", "remedy"),
    [
        ("a.png", "a picture", "DICOM or NIfTI"),
        ("a.ZIP", "an archive", "Unpack"),
        ("a.npy", "without a place", "affine"),
        ("a.gii", "a surface", "scan itself"),
        ("a", "no file of a known format", "NIfTI|nii"),
    ],
)
@pytest.mark.parametrize("alone", [True, False])
def test_other_files_are_named_for_what_they_are(tmp_path, name, reason, remedy, alone):
    touch(tmp_path, name)
    if not alone and name == "a":
        reason, remedy = r"no \.nii", "Check the folder"  # a file of which nothing is known says nothing of a folder
    with pytest.raises(DatasetError, match=reason) as caught:
        find_scans(tmp_path / name if alone else tmp_path)
    assert any(word in caught.value.remedy for word in remedy.split("|"))
