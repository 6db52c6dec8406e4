# SPDX-License-Identifier: Apache-2.0
"""Real scans, where they are: geometry, agreement of turned copies, and a map worth more than the intensity."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.bundle import ConfigParser

from bundle.cases import find_scans, lesion_cases
from bundle.datasets import select_subjects, training_cases
from bundle.evaluation.metrics import Pooled
from bundle.evaluation.scores import prepare, score_case
from bundle.io.nifti import write_map
from bundle.methods.intensity import Intensity
from tests.conftest import ROOT
from tests.test_mri import reoriented

SPLIT = ROOT / "configs" / "splits" / "lgg_flair.json"


@pytest.fixture(scope="module")
def job():
    """Preprocessing, inferer, network and postprocessing of the main job, without saving."""
    config = ConfigParser()
    config.read_config(ROOT / "configs" / "inference.json")
    config.update({"bundle_root": str(ROOT), "precision": "float32", "device": "$__import__('torch').device('cpu')"})
    transforms = config["postprocessing"]["transforms"]
    config["postprocessing"]["transforms"] = [t for t in transforms if "batch.save" not in t["_target_"]]
    parts = [config.get_parsed_content(key) for key in ("preprocessing", "inferer", "network", "postprocessing")]

    def run(path):
        item = parts[0]({"image": str(path)})
        item["pred"] = parts[1](item["image"][None], parts[2].eval())[0]
        return parts[3](item)["pred"]

    return run


def test_the_folder_is_found_as_bids(real_flair):
    assert len(find_scans(real_flair)) == 88
    for part, least in (("training", 50), ("validation", 10), ("test", 18)):
        assert len(select_subjects(lesion_cases(real_flair), SPLIT, part)) >= least


@pytest.mark.slow
def test_turned_copies_get_the_same_map(real_flair, tmp_path, job):
    source = nib.load(training_cases(real_flair, "test", split=SPLIT)[0]["image"])
    scan, affine = np.asarray(source.dataobj), source.affine
    turn = np.eye(4)
    turn[:3, :3] = [[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1]]
    copies = {"LPS": (scan, affine), "PSR": reoriented(scan, affine, "PSR"),
              "oblique": (scan, turn @ affine)}  # fmt: skip
    maps = {}
    for name, (data, its_affine) in copies.items():
        write_map(tmp_path / f"{name}.nii.gz", data, its_affine, np.uint8)
        result = job(tmp_path / f"{name}.nii.gz")
        assert tuple(result.shape[1:]) == data.shape
        stored = nib.load(tmp_path / f"{name}.nii.gz").affine
        np.testing.assert_allclose(result.affine.numpy(), stored, atol=1e-4)
        if name == "oblique":
            maps[name] = result[0].numpy()
        else:
            maps[name] = reoriented(result[0].numpy(), its_affine, "LPS")[0]
    for name, values in maps.items():
        # Rounding of the grid may tip single bits over; nothing else may differ.
        assert np.abs(values - maps["LPS"]).mean() < 0.02 * maps["LPS"].mean(), name


@pytest.mark.slow
def test_a_resampled_oblique_copy_gets_a_like_map(real_flair, tmp_path, job):
    """The same head on a grid tilted by 8 degrees in plane, resampled by another library."""
    path = training_cases(real_flair, "test", split=SPLIT)[0]["image"]
    scan = sitk.Cast(sitk.ReadImage(path), sitk.sitkFloat32)
    tilt = sitk.VersorTransform((0, 0, 1), np.deg2rad(8))
    grid = sitk.Image(scan)
    turned = np.array(tilt.GetMatrix()).reshape(3, 3) @ np.array(scan.GetDirection()).reshape(3, 3)
    centre = np.array(scan.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in scan.GetSize()]))
    grid.SetDirection(turned.ravel())
    grid.SetOrigin((0, 0, 0))
    shift = centre - grid.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in scan.GetSize()])
    grid.SetOrigin(shift.tolist())
    sitk.WriteImage(sitk.Resample(scan, grid, sitk.Transform(), sitk.sitkLinear), str(tmp_path / "tilted.nii.gz"))

    upright, tilted = job(path), job(tmp_path / "tilted.nii.gz")
    write_map(tmp_path / "map.nii.gz", tilted[0].numpy(), tilted.affine.numpy())
    back = sitk.Resample(sitk.ReadImage(str(tmp_path / "map.nii.gz")), scan, sitk.Transform(), sitk.sitkLinear)
    values = sitk.GetArrayFromImage(back).transpose(2, 1, 0)
    head = upright[0].numpy() > 0
    correlation = np.corrcoef(values[head], upright[0].numpy()[head])[0, 1]
    print(f"correlation of the maps: {correlation:.3f}")
    assert correlation > 0.7


@pytest.mark.slow
def test_the_map_beats_the_intensity(real_flair):
    config = ConfigParser()
    config.read_config(ROOT / "configs" / "inference.json")
    config.update({"bundle_root": str(ROOT)})
    network, preprocessing, inferer = (config.get_parsed_content(k) for k in ("network", "preprocessing", "inferer"))
    ours, plain, lesions = [], [], []
    for case in training_cases(real_flair, "test", split=SPLIT)[:3]:
        prepared = prepare(case, preprocessing)
        for store, method in ((ours, inferer), (plain, Intensity(smoothing=2.0))):
            result = score_case(prepared, method, network, preprocessing, torch.device("cpu"))
            store.append(result.scores[prepared.head])
        lesions.append(prepared.lesion[prepared.head])
    auprc = {name: Pooled.of(s, lesions).figures()["auprc"] for name, s in (("ours", ours), ("plain", plain))}
    assert auprc["ours"] > 1.5 * auprc["plain"]
