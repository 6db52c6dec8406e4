# SPDX-License-Identifier: Apache-2.0
"""Scans that the tests draw themselves, and real ones where they are."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from bundle import bundle_root
from bundle.io.nifti import write_map
from bundle.networks.anomaly_network import AnomalyNetwork
from bundle.synthesis.sample import synthetic_head

#: Optional means optional: without the extra `hospital` its tests are not collected.
collect_ignore_glob = [] if find_spec("highdicom") else ["test_dicom*.py"]

#: The bundle that is tested: the repository, or the package that was installed from a wheel.
ROOT = Path(bundle_root())
DATA = Path(os.environ.get("FLIPMAP_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def head():
    """A small synthetic head: scan, lesion mask, affine."""
    return synthetic_head((96, 112, 12), (2.0, 2.0, 9.0), seed=3)


@pytest.fixture
def network():
    """A small network with random weights that flips some bits and not others."""
    torch.manual_seed(0)
    small = AnomalyNetwork(
        code_channels=8,
        autoencoder={"channels": (8, 16, 16), "norm_num_groups": 4},
        denoiser_channels=(16, 16),
        denoiser_attention=(False, True),
        num_head_channels=8,
        norm_num_groups=8,
    )
    for parameter in small.parameters():  # MONAI zeroes the last convolution: random weights answer differently a bit
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    return small.eval()


def data_folder(name: str) -> Path:
    """A folder of real data; the test is skipped where it is absent."""
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"no {folder}: set FLIPMAP_DATA")
    return folder


@pytest.fixture(scope="session")
def real_flair():
    return data_folder("brain_lgg")


@pytest.fixture
def bids_folder(tmp_path):
    """Six synthetic patients with lesion masks in the layout of a BIDS data set."""
    root = tmp_path / "bids"
    for number in range(6):
        scan, lesion, affine = synthetic_head((72, 84, 10), (2.7, 2.7, 11.0), seed=number)
        name = f"sub-{number:02d}"
        write_map(root / name / "anat" / f"{name}_FLAIR.nii.gz", scan, affine, np.int16)
        write_map(root / name / "anat" / f"{name}_T1w.nii.gz", scan, affine, np.int16)
        mask = root / "derivatives" / "lesion" / name / "anat" / f"{name}_label-lesion_mask.nii.gz"
        write_map(mask, lesion, affine, np.uint8)
    return root
