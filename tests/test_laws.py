# SPDX-License-Identifier: Apache-2.0
"""The laws of tests/laws.py: every shipped method, every step of every preparation, every random transform."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.transforms import InvertibleTransform

from bundle.io.nifti import scan_from_array, write_map
from bundle.modalities import DEFAULT, MODALITIES
from bundle.pipeline.job import Job
from bundle.synthesis.anomalies import SHAPES, TEXTURES, RandSyntheticAnomalyd
from bundle.synthesis.camera import RandCamerad
from bundle.synthesis.lesions import RandContrastd, RandHealthyBraind, RandSmallLesionsd
from bundle.synthesis.retinal_lesions import RandRetinalLesionsd
from bundle.synthesis.sample import synthetic_head
from bundle.synthesis.scanner import RandMarginsd, RandScannerd
from bundle.transforms.mri import LoadScand, to_axial
from tests import laws
from tests.oct_files import bscan, save_picture

PAIRS = [(m.name, method) for m in MODALITIES.values() for method in (DEFAULT, *m.methods) if m.calibrates(method)]
BRAINS = [modality for modality in MODALITIES.values() if modality.suffix and modality.calibrates(DEFAULT)]
SPOT = 600.0  # brighter than anything


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    """Modality → two small volumes on its grid: a scan's middle, and the same mirrored."""
    made = {}
    for modality in {name for name, _ in PAIRS}:
        job = Job(MODALITIES[modality].configs(), calibration="none", device="cpu")
        if MODALITIES[modality].suffix:
            scan, _, affine = synthetic_head(contrast=MODALITIES[modality].suffix)
            image = job.prepare({"image": scan_from_array(scan, affine)})["image"].as_tensor()[:, 64:192, 64:192, 11:13]
        else:
            path = tmp_path_factory.mktemp("oct") / "b.png"
            save_picture(path, bscan(0)[0])
            image = job.prepare({"image": str(path), "voxel_um": (5.75, 3.87)})["image"].as_tensor()[:, :128, :128]
        made[modality] = torch.stack([image, image.flip(1)])
    return made


@pytest.mark.parametrize(("modality", "method"), PAIRS)
@pytest.mark.parametrize("law", [laws.map_has_the_grid_and_is_nothing_outside, laws.batch_equals_a_loop])
def test_methods(law, modality, method, volumes):
    job = Job(MODALITIES[modality].configs(method), precision="float32", device="cpu")
    law(job.inferer, job.network, volumes[modality])


@pytest.fixture(scope="module")
def spotted():
    """A head with a spot in its brain, turned and tilted."""
    scan, _, affine = synthetic_head((96, 112, 16), (2.0, 2.0, 7.0), lesion_mm=0, seed=5)
    scan = np.minimum(scan, 80).astype(np.float32)  # the scalp, too
    scan[40:44, 60:64, 8:10] = SPOT
    tilt = np.eye(4)
    tilt[:2, :2] = [[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]]
    return scan_from_array(scan, tilt @ affine)


@pytest.mark.parametrize("modality", BRAINS, ids=lambda modality: modality.name)
def test_steps_of_the_preparation(modality, spotted):
    job = Job(modality.configs(), check_contrast=False, device="cpu")
    item = {"image": spotted, "name": "spotted"}
    for step in job.preprocessing.transforms:
        laws.keeps_places(step, item)
        if isinstance(step, InvertibleTransform) and not isinstance(step, LoadScand):
            laws.inverse_brings_back(step, item)
        item = step(item)


def slice_of_a_brain():
    scan, _, _ = synthetic_head((128, 144, 3), (1.6, 1.6, 40.0))
    image = torch.from_numpy(scan[..., 1].astype(np.float32))[None] / 200
    brain = ((image > 0.08) & (image < 0.6)).float()
    return {"image": image.clamp(0, 1), "donor": image.flip(1).clamp(0, 1), "brain": brain, "retina": brain}


RANDOM = {
    "anomalies": RandSyntheticAnomalyd("image"),
    "small lesions": RandSmallLesionsd("image"),
    "healthy brain": RandHealthyBraind("image"),
    "contrast": RandContrastd("image"),
    "scanner": RandScannerd("image", mask_keys="brain"),
    "margins": RandMarginsd("brain", most=3, least=-2),
    "camera": RandCamerad("image", mask_keys="retina"),
    "retinal lesions": RandRetinalLesionsd("image"),
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_transforms(name):
    laws.same_seed_same_result(RANDOM[name], slice_of_a_brain())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("texture", TEXTURES)
def test_an_anomaly_of_no_severity_is_none(shape, texture):
    item = slice_of_a_brain()
    drawn = RandSyntheticAnomalyd("image", severity=(0, 0), opaque=0, shapes=[shape], textures=[texture])
    twin = drawn.set_random_state(seed=1)(dict(item))
    assert torch.equal(twin["anomalous"], item["image"]) and not twin["mask"].any()


CODES = [f"{a}{b}{c}" for a in "RLAPIS" for b in "RLAPIS" for c in "RLAPIS"]
CODES = [code for code in CODES if all(len(set(pair) & set(code)) == 1 for pair in ("RL", "AP", "IS"))]


@pytest.mark.parametrize("code", CODES)
def test_every_orientation_as_nibabel_and_simpleitk_write_it(code, tmp_path):
    """All 48, turned by each of the two libraries, come to the same axial volume."""
    rng = np.random.default_rng(0)
    array = rng.random((14, 12, 10)).astype(np.float32) + 1
    affine = np.diag([-2.0, -3.0, 4.0, 1.0])
    affine[:3, 3] = [11, -7, 5]
    plain = to_axial(scan_from_array(array, affine))
    image = nib.Nifti1Image(array, affine)
    ours, theirs = nib.io_orientation(affine), nib.orientations.axcodes2ornt(code)
    nib.save(image.as_reoriented(nib.orientations.ornt_transform(ours, theirs)), tmp_path / "nibabel.nii.gz")
    write_map(tmp_path / "plain.nii.gz", array, affine, np.float32)
    itk = "".join({"R": "L", "L": "R", "A": "P", "P": "A", "I": "S", "S": "I"}[letter] for letter in code)
    sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(tmp_path / "plain.nii.gz"), itk), tmp_path / "itk.nrrd")
    for name in ("nibabel.nii.gz", "itk.nrrd"):
        read = to_axial(LoadScand("image")({"image": str(tmp_path / name)})["image"])
        assert torch.equal(read.as_tensor(), plain.as_tensor())
        np.testing.assert_allclose(read.affine, plain.affine, atol=1e-4)
