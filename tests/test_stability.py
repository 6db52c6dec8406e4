# SPDX-License-Identifier: Apache-2.0
"""The same head in another pose, noise, resolution, shading and contrast."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from bundle.errors import WeightsError
from bundle.evaluation.stability import CHANGES, findings_again, stability_table
from bundle.io.nifti import write_map
from bundle.synthesis.sample import synthetic_head


def test_what_is_found_again():
    before, after = np.zeros((20, 20, 4), int), np.zeros((20, 20, 4), int)
    before[2:6, 2:6, 1] = 1
    before[12:14, 12:14, 2] = 2
    after[4:8, 2:6, 1] = 1  # moved
    after[5:6, 8:10, 1] = 2  # new
    again, new, volumes = findings_again(before, after)
    assert (again, new) == (1, 1)
    assert volumes == [1.0]


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_keeps_the_head_where_it_is(name):
    """Findings move with the scan: a bright block is still under its mark, in world coordinates and on the grid."""
    scan, mark = torch.rand(1, 60, 70, 12) * 0.1 + 0.2, torch.zeros(1, 60, 70, 12)
    scan[:, 30:40, 30:42, 4:9], mark[:, 30:40, 30:42, 4:9] = 0.9, 1
    affine = np.diag([2.0, 2.0, 5.0, 1.0])
    item = {"image": MetaTensor(scan, affine=affine), "findings": MetaTensor(mark, affine=affine)}
    changed = CHANGES[name].set_random_state(0)(item)
    image, marked = changed["image"].numpy()[0], changed["findings"].numpy()[0] > 0.5
    assert image.shape == marked.shape
    assert image[marked].mean() > 2 * image[~marked].mean()
    centre = np.argwhere(marked).mean(0) @ changed["image"].affine.numpy()[:3, :3].T
    centre += changed["image"].affine.numpy()[:3, 3]
    np.testing.assert_allclose(centre, [69, 71, 30], atol=2.5)
    assert image.shape != scan.shape[1:] or np.abs(image - scan[0].numpy()).mean() > 1e-3, "something has changed"


def test_a_method_without_odds_is_named(tmp_path):
    with pytest.raises(WeightsError, match="no odds of findings"):
        stability_table({}, tmp_path, method="denoising")


def test_the_table_on_disk(tmp_path):
    scan, _, affine = synthetic_head((72, 84, 8), (2.7, 2.7, 12.0), seed=3)
    write_map(tmp_path / "sub-1" / "anat" / "sub-1_FLAIR.nii.gz", scan, affine, np.int16)
    places = {"here": {"dataset_dir": str(tmp_path)}}
    table = stability_table(places, tmp_path / "out", precision="float32", check_contrast=False)
    assert [row["change"] for row in table] == list(CHANGES)
    assert all(row["scans"] == 1 and 0 <= row["found_again"] <= 1 for row in table)
    lines = (tmp_path / "out" / "stability.md").read_text().splitlines()
    assert len([line for line in lines if line.startswith("| ")]) == len(CHANGES) + 1
    assert (tmp_path / "out" / "stability.csv").is_file()
