# SPDX-License-Identifier: Apache-2.0
"""The brain mask: found in a head, given by the user, recognised where the skull is gone, refused
where there is none to be seen.
"""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

from bundle.errors import ScanError, WeightsError
from bundle.io.nifti import read_scan
from bundle.synthesis.heads import SyntheticHeads, label_maps
from bundle.synthesis.sample import HEAD_MM, synthetic_head
from bundle.transforms.background import BackgroundToZerod
from bundle.transforms.brain import BrainMaskd, _possible, normalise
from bundle.transforms.head import head_mask
from bundle.transforms.mri import to_axial
from bundle.transforms.skull_stripping import is_stripped, skull_ratio
from tests.conftest import ROOT, data_folder


@pytest.fixture(scope="module")
def find():
    return BrainMaskd("image", ROOT / "models" / "brain_mask" / "model.pt", precision="float32")


def metatensor(volume, affine):
    return MetaTensor(torch.from_numpy(np.asarray(volume, np.float32))[None], affine=torch.as_tensor(affine))


def inside(shape, spacing):
    """What lies within the skull of `synthetic_head`, without its folds and noise."""
    x, y, z = (np.arange(n) * s for n, s in zip(shape, spacing, strict=True))
    x, y, z = np.meshgrid(x - x.mean(), y - y.mean(), z - 0.32 * z.max(), indexing="ij")
    return np.sqrt((x / HEAD_MM[0]) ** 2 + (y / HEAD_MM[1]) ** 2 + (z / HEAD_MM[2]) ** 2) < 0.86


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 5.0), (2.0, 2.0, 2.0), (1.5, 1.5, 8.0)])
def test_found_in_thick_and_thin_slices(find, spacing):
    shape = tuple(round(e / s) for e, s in zip((190, 220, 130), spacing, strict=True))
    scan, _, affine = synthetic_head(shape, spacing, lesion_mm=0, seed=3)
    mask = find({"image": metatensor(scan, affine)})["brain"]
    assert mask.shape == (1, *shape)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    np.testing.assert_allclose(mask.affine, affine)
    assert dice(mask[0].numpy() > 0, inside(shape, spacing)) > 0.85, "though no real head is so round"


def test_a_mask_of_the_users_own_is_kept(find, head):
    scan, lesion, affine = head
    item = find({"image": metatensor(scan, affine), "brain": metatensor(lesion, affine)})
    assert np.array_equal(item["brain"][0].numpy() > 0, lesion > 0)
    with pytest.raises(ScanError, match="empty brain mask"):
        find({"image": metatensor(scan, affine), "brain": metatensor(0 * lesion, affine)})
    for moved in (metatensor(lesion[1:], affine), metatensor(lesion, affine @ np.diag([1, 1, 1.1, 1]))):
        with pytest.raises(ScanError, match="not on the grid of its scan"):
            find({"image": metatensor(scan, affine), "brain": moved})


def test_a_stripped_scan_is_its_own_mask(find):
    """Real FLAIR scans, stripped by the mask that is found in them: recognised, and not stripped again."""
    for path in sorted(data_folder("brain_lgg").glob("sub-HT*/anat/*_FLAIR.nii.gz"))[:3]:
        scan = to_axial(read_scan(path))
        brain = find({"image": scan})["brain"]
        stripped = MetaTensor((scan * brain).as_tensor(), affine=scan.affine)
        mask = find({"image": stripped})["brain"][0].numpy() > 0
        spacing = tuple(float(s) for s in scan.pixdim)
        assert dice(mask, head_mask(stripped[0].numpy(), spacing)) == 1, path.name
        assert mask.sum() < 0.8 * head_mask(scan[0].numpy(), spacing).sum(), "what is left is not the whole head"


def test_stripped_by_others(find):
    """The network takes 57 % of some old brains for brain: too little to tell by the share alone."""
    for path in sorted(data_folder("brain_wml10").glob("sub-wml0[34]/anat/*.nii.gz")):
        scan = to_axial(read_scan(path))
        mask = find({"image": scan})["brain"][0].numpy() > 0
        assert mask.sum() > 0.95 * (scan[0].numpy() > 0).sum(), path.name


@pytest.mark.parametrize("skull", [True, False], ids=["whole", "stripped"])
@pytest.mark.parametrize("scale", [1, 1000], ids=["small numbers", "large numbers"])
def test_a_skull_is_a_valley_between_scalp_and_brain(skull, scale):
    x, y = np.ogrid[-100:100, -100:100]
    radius = np.repeat(np.hypot(x, y)[..., None], 6, axis=2)
    within, brain = radius < (90 if skull else 75), radius < 75
    volume = scale * np.select([radius < 75, radius < 82, within], [1.0, 0.1, 1.4], 0)
    ratio = skull_ratio(volume, within, brain, (1.0, 1.0, 5.0))
    assert ratio == pytest.approx(0.1 if skull else 1.0)
    assert is_stripped(volume, within, ndimage.binary_erosion(brain, iterations=15), (1.0, 1.0, 5.0)) != skull


def test_below_the_skull_base_only_what_lies_near_the_core():
    logits = np.full((30, 30, 20), -5.0, np.float32)
    logits[5:25, 5:25, 8:18] = 5  # the brain
    logits[13:17, 13:17, 5:8] = 5  # its stem
    logits[10:20, 26:29, 3:8] = 0.5  # fat of the neck, which looks like brain
    logits[13:17, 13:17, 2:5] = 0.5  # the stem, going on where the network is less sure
    logits[10:20, 26:29, 8:12] = 0.5  # the same doubt at the brain's edge
    found = _possible(logits)
    assert not found[:, 26:, :8].any()
    assert found[13:17, 13:17, 4].all(), "one voxel below the core"
    assert not found[..., :4].any()
    assert found[10:20, 26:29, 8:12].all(), "a doubt above the skull base stays"
    assert found[logits == 5].all()
    np.testing.assert_array_equal(_possible(np.minimum(logits, 0.5)), logits > -1, "where nothing is sure, as it was")


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 5.0), (1.0, 1.0, 10.0)], ids=["thin", "whole"])
def test_where_no_brain_is_nothing_is_taken_for_one(find, spacing):
    ball = np.hypot.reduce(np.indices((40, 40, 10)) - np.array([20, 20, 5])[:, None, None, None]) < 4
    with pytest.raises(ScanError, match="no brain found") as caught:
        find({"image": metatensor(100.0 * ball, np.diag([-spacing[0], -spacing[1], spacing[2], 1.0]))})
    assert "--brain-masks" in caught.value.remedy


@pytest.mark.parametrize("plane", ["axial", "coronal"])
@pytest.mark.parametrize("seed", [3, 5])
def test_a_single_slice_of_a_whole_head_is_refused_and_of_a_stripped_one_its_own_mask(find, plane, seed):
    scan, _, affine = synthetic_head((128, 150, 90), (1.5, 1.5, 1.5), lesion_mm=0, seed=seed)
    brain = inside(scan.shape, (1.5, 1.5, 1.5))
    cut = (slice(None), slice(None), slice(50, 51)) if plane == "axial" else (slice(None), slice(75, 76), slice(None))
    with pytest.raises(ScanError, match="no brain found in a single slice"):
        find({"image": metatensor(scan[cut], affine)})
    given = find({"image": metatensor(scan[cut], affine), "brain": metatensor(brain[cut], affine)})
    assert given["brain"].sum() == brain[cut].sum(), "with a mask it is mapped"
    mask = find({"image": metatensor(np.where(brain, scan, 0)[cut], affine)})["brain"][0].numpy() > 0
    assert dice(mask, brain[cut]) > 0.95


#: Folder, files of it, whether they are stripped.
REAL = [("brain_lgg", 6, False), ("brain_wmh_auto", 2, False), ("brain_t1_ixi", 3, False), ("brain_wml10", 5, True)]


@pytest.mark.parametrize(("folder", "count", "stripped"), REAL)
def test_single_slices_of_real_scans(find, folder, count, stripped):
    """Slices through the brain: of whole heads hardly one may pass; of stripped ones most."""
    paths = sorted(data_folder(folder).glob("sub-*/anat/*.nii.gz"))
    taken = []
    for path in paths[:: max(1, len(paths) // count)][:count]:
        scan = BackgroundToZerod("image")({"image": to_axial(read_scan(path))})["image"]
        filled = np.flatnonzero((scan[0].numpy() > 0).any((0, 1)))
        for share in (0.2, 0.5, 0.65, 0.8):
            z = filled[int(share * (len(filled) - 1))]
            try:
                find({"image": scan[..., z : z + 1]})
                taken.append(True)
            except ScanError:
                taken.append(False)
    assert np.mean(taken) > 0.8 if stripped else np.mean(taken) < 0.1


def test_weights_that_are_not_its_own(tmp_path):
    with pytest.raises(WeightsError, match="no such file"):
        BrainMaskd("image", tmp_path / "absent.pt")
    with pytest.raises(WeightsError, match="not the weights of this network"):
        BrainMaskd("image", ROOT / "models" / "model.pt")


def test_normalised_without_the_unit(head):
    scan = head[0].astype(np.float32)
    np.testing.assert_allclose(normalise(scan), normalise(17 * scan), atol=1e-5)
    assert not normalise(np.zeros((4, 4, 4))).any()


def test_synthetic_heads_repeat_and_differ():
    paths = label_maps(data_folder("brain_labels"), "validation")
    assert not set(paths) & set(label_maps(data_folder("brain_labels"), "training"))
    heads = SyntheticHeads(paths[:1], 2, seed=5)
    first, again, other = heads[0], heads[0], heads[1]
    for key in ("image", "label"):
        assert torch.equal(first[key], again[key])
        assert not torch.equal(first[key], other[key])
        assert first[key].shape == (1, 64, 80, 64)
        assert 0 <= first[key].min() < first[key].max() <= 1 + 1e-5


def test_held_out_label_maps(find):
    heads = SyntheticHeads(label_maps(data_folder("brain_labels"), "validation"), 8, seed=50)
    grid = np.diag([-3.0, -3.0, 3.0, 1.0])
    scores = []
    for item in (heads[number] for number in range(len(heads))):
        mask = find({"image": metatensor(item["image"][0], grid)})["brain"][0].numpy() > 0
        scores.append(dice(mask, item["label"][0].numpy() > 0.5))
    assert np.mean(scores) > 0.85, scores
