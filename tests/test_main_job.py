# SPDX-License-Identifier: Apache-2.0
"""The main job as users run it: another folder, good and broken scans together, interrupted, and repeated."""

import os
import signal
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from bundle.io.nifti import write_map
from bundle.scoring.calibration import read_calibration
from bundle.synthesis.sample import synthetic_head
from tests.conftest import ROOT
from tests.test_mri import oblique, reoriented
from tests.test_nifti import BROKEN

KINDS = ("anomaly.nii.gz", "anomaly_mask.nii.gz", "brain_mask.nii.gz", "findings.json")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(dataset_dir, output_dir, *more):
    config = str(ROOT / "configs" / "inference.json")
    return [sys.executable, "-m", "monai.bundle", "run", "--config_file", config, "--logging_file",
            str(ROOT / "configs" / "logging.conf"), "--dataset_dir", str(dataset_dir), "--output_dir", str(output_dir),
            *map(str, more)]  # fmt: skip


def run(dataset_dir, output_dir, cwd, *more):
    done = subprocess.run(
        command(dataset_dir, output_dir, *more), cwd=cwd, capture_output=True, text=True, check=False, env=ENVIRONMENT
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def sample():
    return synthetic_head((128, 128, 10), (1.875, 1.875, 11.0), seed=0)


def of_whole_places(mask, values, threshold):
    """Whether a mask is of connected places of the map, each of them whole: those of the findings that are kept."""
    places, _ = ndimage.label(values >= threshold, np.ones((3, 3, 3)))
    kept = set(np.unique(places[mask > 0]))
    return 0 not in kept and np.array_equal(mask > 0, np.isin(places, list(kept)))


def test_good_and_broken_scans_together(tmp_path, sample):
    scan, lesion, affine = sample
    inputs, outputs = tmp_path / "in", tmp_path / "out"
    for codes in ("LPS", "RAS", "PSR"):
        data, its_affine = reoriented(scan, affine, codes)
        write_map(inputs / "deep" / f"{codes}.nii.gz", data, its_affine, np.int16)
    write_map(inputs / "oblique.nii.gz", scan, oblique(affine), np.int16)
    kinds = [kind for kind in BROKEN if kind != "absent"]
    for kind in kinds:
        BROKEN[kind][0](inputs / f"broken {kind}.nii.gz")

    code, log = run(inputs, outputs, tmp_path)
    assert code == 1, log
    for kind in kinds:
        assert f"broken {kind}.nii.gz: " in log, kind
    assert f"4 of {4 + len(kinds)} scans done, {len(kinds)} failed" in log

    names = ["LPS", "RAS", "PSR", "oblique"]
    assert sorted(os.listdir(outputs)) == sorted(f"{name}_{kind}" for name in names for kind in KINDS)
    maps = {}
    for name in names:
        assert f"{name}: done in" in log
        source = nib.load(next(inputs.rglob(f"{name}.nii.gz")))
        result, mask = (nib.load(outputs / f"{name}_{kind}.nii.gz") for kind in ("anomaly", "anomaly_mask"))
        for image in (result, mask):
            assert image.shape == source.shape
            np.testing.assert_allclose(image.affine, source.affine, atol=1e-5)
            assert nib.aff2axcodes(image.affine) == nib.aff2axcodes(source.affine)
        assert result.get_data_dtype() == np.float32
        assert mask.get_data_dtype() == np.uint8
        values = np.asarray(result.dataobj)
        assert of_whole_places(np.asarray(mask.dataobj), values, 2)
        turned = nib.Nifti1Image(values, affine if name == "oblique" else source.affine)
        maps[name] = reoriented(values, turned.affine, "LPS")[0]
    for name in names[1:]:
        # Rounding of the grid may tip a voxel at the brain's edge; nothing else may differ.
        assert np.isclose(maps[name], maps["LPS"], atol=1e-2).mean() > 0.9998, name
    lesion = lesion > 0
    assert maps["LPS"][lesion].mean() > 1.5 + maps["LPS"][~lesion & (scan > 30)].mean(), "the lesion lights up"


def test_all_good_is_zero_and_repeats(tmp_path, sample):
    scan, _, affine = sample
    write_map(tmp_path / "in" / "one.nii.gz", scan[..., 3:6], affine, np.int16)
    first = run(tmp_path / "in", tmp_path / "a", ROOT)
    assert first[0] == 0, first[1]
    again = run(tmp_path / "in" / "one.nii.gz", tmp_path / "b", tmp_path, "--threshold", 3.0)
    assert again[0] == 0, again[1]
    maps = [np.asarray(nib.load(tmp_path / d / "one_anomaly.nii.gz").dataobj) for d in "ab"]
    assert np.array_equal(*maps)
    mask = np.asarray(nib.load(tmp_path / "b" / "one_anomaly_mask.nii.gz").dataobj)
    assert of_whole_places(mask, maps[1], 3)


def test_a_misspelt_id_is_refused(tmp_path, sample):
    scan, _, affine = sample
    write_map(tmp_path / "in" / "one.nii.gz", scan[..., 3:6], affine, np.int16)
    code, log = run(tmp_path / "in", tmp_path / "out", tmp_path, "--treshold=3")
    assert code == 2, log
    assert "Did you mean threshold?" in log
    assert "Traceback" not in log
    code, log = run(tmp_path / "in", tmp_path / "out", tmp_path, "--steps#scal#headroom", 2)
    assert code != 0
    assert "did you mean 'scale'" in log, "within an id MONAI says it by itself"
    assert not (tmp_path / "out").exists()


def test_nothing_to_do_is_said(tmp_path):
    (tmp_path / "in").mkdir()
    code, log = run(tmp_path / "in", tmp_path / "out", tmp_path)
    assert code == 3
    assert "Traceback" not in log
    assert "no .nii.gz, .nii, .mgz" in log


def test_interrupted_in_the_middle_leaves_whole_files(tmp_path, sample):
    scan, _, affine = sample
    for number in range(30):
        write_map(tmp_path / "in" / f"{number:02d}.nii.gz", scan[..., 3:6], affine, np.int16)
    outputs = tmp_path / "out"
    process = subprocess.Popen(
        command(tmp_path / "in", outputs),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # who runs the tests may ignore it
    )
    give_up = time.monotonic() + 120
    while not list(outputs.glob("0[3-9]_anomaly.nii.gz")) and time.monotonic() < give_up:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) != 0
    written = list(outputs.glob("*.nii.gz"))
    assert 0 < len(written) < 60
    assert not list(outputs.glob(".unfinished*"))
    for path in written:
        assert np.isfinite(np.asarray(nib.load(path).dataobj)).all()


def test_calibration_of_the_default_method():
    table = read_calibration(ROOT / "models" / "calibration.json", "fused")
    assert table.value[-1] > 3, "enough healthy voxels for the 0.1 % threshold"
