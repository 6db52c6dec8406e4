# SPDX-License-Identifier: Apache-2.0
"""The training recipes, small: they run, resume, leave weights that load, and take BraTS as downloaded."""

import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.distributed as dist
from monai.bundle import ConfigParser
from monai.data import DataLoader
from monai.transforms import Compose
from monai.utils import set_determinism
from torch.utils.data import ConcatDataset

from bundle.datasets import LAYOUTS
from bundle.errors import ScanError
from bundle.io.nifti import write_map
from bundle.scoring.calibration import weights_hash
from bundle.synthesis.anomalies import RandSyntheticAnomalyd
from bundle.synthesis.retinas import SyntheticRetinas
from bundle.synthesis.sample import synthetic_head
from bundle.synthesis.scanner import RandScannerd
from bundle.training.inferers import FlipLoss
from bundle.training.mixed_slices import MixedSlices
from bundle.training.slices import SliceDataset
from bundle.transforms.brain import BrainMaskd
from tests.conftest import ROOT
from tests.oct_files import bscan, save_picture

SMALL = {
    "batch_size": 4,
    "max_epochs": 1,
    "val_interval": 1,
    "network_def": {
        "_target_": "bundle.networks.anomaly_network.AnomalyNetwork",
        "in_channels": "@channels",
        "code_channels": 8,
        "autoencoder": {"channels": [8, 8, 16], "norm_num_groups": 4},
        "denoiser_channels": [16, 16],
        "denoiser_attention": [False, True],
        "num_head_channels": 8,
        "norm_num_groups": 8,
    },
    "steps#grid#size": [64, 64],
    "steps#grid#spacing": 4.0,
    "validate#handlers#0#interval": 1,
}


#: Of the recipes whose network works on images.
SMALL_UNET = {
    **{key: value for key, value in SMALL.items() if not key.startswith("validate")},
    "network_def": {
        "_target_": "bundle.networks.slice_unet.SliceUNet",
        "channels": [8, 16],
        "attention": [False, True],
        "num_head_channels": 8,
        "residual": True,
    },
}


def run(tmp_path, recipe, dataset_dir, launcher=(sys.executable, "-m"), extra=(), base=SMALL, **overrides):
    split, small = tmp_path / "split.json", tmp_path / "small.json"
    subjects = sorted({case["subject"] for case in LAYOUTS[overrides.get("layout", "bids_lesion")](dataset_dir)})
    split.write_text(json.dumps({"subjects": {"training": subjects[:4], "validation": subjects[4:5]}}))
    small.write_text(json.dumps({**base, **overrides}))
    files = [
        str(ROOT / "configs" / f"train_{recipe}.json"),
        *(str(ROOT / "configs" / name) for name in extra),
        str(small),
    ]
    arguments = ["--config_file", str(files), "--bundle_root", str(ROOT), "--dataset_dir", str(dataset_dir)]
    arguments += ["--split", str(split)]
    arguments += ["--output_dir", str(tmp_path / recipe)]
    if base is SMALL and recipe == "denoiser":
        arguments += ["--autoencoder_weights", str(tmp_path / "autoencoder/weights.pt")]
    return finished(launcher, arguments, tmp_path)


def finished(launcher, arguments, tmp_path):
    """Output of a run that must end well."""
    done = subprocess.run(
        [*launcher, "monai.bundle", "run", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def autoencoder(tmp_path, bids_folder):
    run(tmp_path, "autoencoder", bids_folder)
    return tmp_path / "autoencoder"


def test_autoencoder_then_denoiser_then_resume(tmp_path, bids_folder, autoencoder):
    assert (autoencoder / "pictures" / "epoch_0001.png").stat().st_size > 2000
    first = torch.load(autoencoder / "weights.pt", weights_only=True)

    log = run(tmp_path, "denoiser", bids_folder)
    assert "val_auprc" in log
    state = torch.load(tmp_path / "denoiser" / "weights.pt", weights_only=True)
    assert all(torch.equal(state[key], first[key]) for key in state if key.startswith("autoencoder."))
    assert any(not torch.equal(state[key], first[key]) for key in state if key.startswith("denoiser."))
    assert not [key for key in state if "module" in key]

    known = json.loads((tmp_path / "denoiser" / "provenance.json").read_text())
    assert known["sha256"] == weights_hash(tmp_path / "denoiser" / "weights.pt")
    assert [one["sha256"] for one in known["parents"]] == [weights_hash(autoencoder / "weights.pt")]
    assert (known["epochs"], known["seed"], known["split"]["name"]) == (1, 2024, "split.json")
    assert str(tmp_path) not in json.dumps(known), "no folder of the machine"

    log = run(tmp_path, "denoiser", bids_folder, max_epochs=2)
    assert json.loads((tmp_path / "denoiser" / "provenance.json").read_text())["epochs"] == 2
    assert "Restored all variables" in log
    assert "epoch 2 of 2: loss" in log
    assert "epoch 1 of 2" not in log
    assert len(list((tmp_path / "denoiser").glob("checkpoint_epoch=*.pt"))) == 2


@pytest.mark.slow
def test_t1w_of_healthy_people_trains_beside_flair(tmp_path, bids_folder, autoencoder):
    log = run(tmp_path, "denoiser", bids_folder, extra=["healthy_t1w.json"], healthy_t1w_dir=str(bids_folder))
    assert "val_auprc" in log
    flair, t1w, _ = (int(n) for n in re.findall(r"(\d+) healthy slices of", log))
    assert 0 < t1w < flair * 6 / 4, "every fourth slice of six scans, against the tumour-free slices of four"


@pytest.mark.parametrize(("recipe", "metric"), [("disyre", "val_auprc"), ("mdps", "val_mse")])
def test_recipes_of_the_other_methods(tmp_path, bids_folder, recipe, metric):
    log = run(tmp_path, recipe, bids_folder, base=SMALL_UNET)
    assert metric in log
    state = torch.load(tmp_path / recipe / "weights.pt", weights_only=True)
    assert all(name.startswith("unet.") for name in state)


def test_recipe_of_the_brain_mask(tmp_path):
    """From label maps that look like nothing in particular: the last two by name validate."""
    x, y, z = np.ogrid[-1:1:60j, -1:1:70j, -1:1:50j]
    radius = np.sqrt(x**2 + y**2 + z**2)
    labels = np.select([radius < 0.4, radius < 0.6, radius < 0.65, radius < 0.8], [2, 3, 24, 507], 0)
    for number in range(3):
        write_map(tmp_path / "maps" / f"{number}.nii.gz", np.roll(labels, number, 0), np.eye(4), np.int16)
    small = {"max_epochs": 1, "batch_size": 1, "train#dataset#length": 2, "validate#dataset#length": 1}
    small |= {f"{part}#dataset#size": [32, 32, 32] for part in ("train", "validate")}
    small |= {"val_interval": 1}
    (tmp_path / "small.json").write_text(json.dumps(small))
    files = [str(ROOT / "configs" / "train_brain_mask.json"), str(tmp_path / "small.json")]
    arguments = ["--config_file", str(files), "--bundle_root", str(ROOT)]
    arguments += ["--dataset_dir", str(tmp_path / "maps"), "--output_dir", str(tmp_path / "out")]
    assert "val_dice" in finished((sys.executable, "-m"), arguments, tmp_path)
    BrainMaskd("image", tmp_path / "out" / "weights.pt")


def lesion_data(tmp_path, bids_folder):
    """Ids of the recipe of synthetic lesions: the same heads stand for all places, and spheres for label maps."""
    x, y, z = np.ogrid[-1:1:120j, -1:1:140j, -1:1:60j]
    radius = np.sqrt(x**2 + y**2 + z**2)
    labels = np.select([radius < 0.2, radius < 0.6, radius < 0.75, radius < 0.8, radius < 0.95], [4, 2, 3, 24, 507], 0)
    for number in range(3):
        write_map(tmp_path / "labels" / f"{number}.nii.gz", np.roll(labels, number, 0), np.eye(4), np.int16)
    split = tmp_path / "elderly.json"
    split.write_text(json.dumps({"subjects": {"training": ["sub-05"], "validation": ["sub-04"]}}))
    return {"elderly_dir": str(bids_folder), "elderly_split": str(split), "healthy_t1w_dirs": [str(bids_folder)],
            "label_maps_dir": str(tmp_path / "labels")}  # fmt: skip


def test_recipe_of_the_synthetic_lesions(tmp_path, bids_folder):
    """FLAIR of two places, painted T1w and painted label maps in one batch."""
    small = {"batch_size": 2, "max_epochs": 1, "val_interval": 1, "epoch_length": 4, "paintings": 1}
    small["network_def"] = {"_target_": "bundle.networks.lesion_unet.LesionUNet", "filters": [8, 8, 16]}
    small["validate#dataset#every"] = 4
    log = run(tmp_path, "lesions", bids_folder, base=small, **lesion_data(tmp_path, bids_folder))
    assert "val_auprc" in log
    assert len(re.findall(r"healthy slices of", log)) == 5
    state = torch.load(tmp_path / "lesions" / "weights.pt", weights_only=True)
    assert all(name.startswith("unet.") for name in state)


def test_several_processes(tmp_path, bids_folder):
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m")
    log = run(tmp_path, "autoencoder", bids_folder, launcher, ["multi_gpu_train.json"], batch_size=2)
    assert "val_l1" in log
    state = torch.load(tmp_path / "autoencoder" / "weights.pt", weights_only=True)
    assert not [key for key in state if "module" in key]


T_SPLITS = ("healthy_t1w", "healthy_t2w")
#: Recipes that learn from every contrast → those that the data has not got.
EVERY_CONTRAST = dict.fromkeys(("codes", "flips"), ("T1w", "T2w"))
RECIPES = sorted(path.stem.removeprefix("train_") for path in (ROOT / "configs").glob("train_*.json"))
#: What stands over another recipe.
OVERRIDES = {
    "oct": "denoiser",
    "lesions_oct": "lesions",
    "lesions_t1w": "lesions",
    "lesions_t2w": "lesions",
    "denoising": "disyre",
    "denoiser_t1w": "denoiser",
    "denoiser_t2w": "denoiser",
}
#: Split files that the recipe of contrasts reads, by name.
SPLITS = ("lgg_flair", "elderly_flair", "healthy_t1w", "healthy_t2w", "small_lesions")


def oct_data(tmp_path):
    """Ids of the recipes of OCT: three normal B-scans, and two more whose size nobody knows."""
    for number in range(3):
        save_picture(tmp_path / "oct" / "NORMAL" / f"NORMAL-{number}-1.png", bscan(number)[0])
    for name in ("a", "b"):
        save_picture(tmp_path / "cropped" / f"{name}.png", bscan(7)[0])
    (tmp_path / "split.json").write_text(json.dumps({"subjects": {"training": ["0", "1"], "validation": ["2"]}}))
    return {"dataset_dir": str(tmp_path / "oct"), "cropped_dirs": [str(tmp_path / "cropped")]}


@pytest.fixture
def data_of(bids_folder, tmp_path):
    """Recipe → its data set, synthetic, and the ids that it needs."""

    def made(recipe):
        if recipe == "brain_mask":
            x, y, z = np.ogrid[-1:1:30j, -1:1:34j, -1:1:26j]
            labels = np.select([np.sqrt(x**2 + y**2 + z**2) < r for r in (0.4, 0.6, 0.8)], [2, 3, 507], 0)
            for number in range(3):
                write_map(tmp_path / "maps" / f"{number}.nii.gz", np.roll(labels, number, 0), np.eye(4), np.int16)
            return {"dataset_dir": str(tmp_path / "maps")}
        split = tmp_path / "split.json"
        if recipe.endswith("oct"):
            return {**oct_data(tmp_path), "split": str(split), "synthetic": 2}
        split.write_text(json.dumps({"subjects": {"training": ["sub-00", "sub-01"], "validation": ["sub-02"]}}))
        contrasts = {**dict.fromkeys(("lesions_t2w", "denoiser_t2w", "contrast"), ("T2w",)), **EVERY_CONTRAST}
        extra: dict[str, object] = {}
        for contrast in contrasts.get(recipe, ()):
            for path in list(bids_folder.rglob("*_FLAIR.nii.gz")):
                shutil.copy(path, path.with_name(path.name.replace("FLAIR", contrast)))
        if recipe == "contrast":
            for name in SPLITS:
                shutil.copy(split, tmp_path / f"{name}.json")
            extra["drawn_heads"] = [{"number": number} for number in range(3)]  # each is drawn in every contrast
        places = ("healthy_t2w_dir", "small_lesions_dir")
        more = {
            **extra,
            **lesion_data(tmp_path, bids_folder),
            **dict.fromkeys(places, str(bids_folder)),
            "splits": str(tmp_path),
            "healthy_dirs": [str(bids_folder)],
            **dict.fromkeys(
                ("healthy_split", "small_lesions_split", "healthy_t1w_split", "healthy_t2w_split"), str(split)
            ),
        }
        if recipe in EVERY_CONTRAST:
            more["healthy_t1w_dirs"] = [str(bids_folder)]
        return {"dataset_dir": str(bids_folder), "split": str(split), **more}

    return made


@pytest.mark.parametrize(
    "recipe", [pytest.param(one, marks=pytest.mark.slow) if one == "contrast" else one for one in RECIPES]
)
def test_several_gpus_over_every_recipe(recipe, data_of, tmp_path, monkeypatch):
    """Composed and built, everything that a run would use, in a group of one process."""
    for key, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("MASTER_PORT", str(20_000 + os.getpid() % 20_000))
    names = [f"train_{OVERRIDES[recipe]}"] if recipe in OVERRIDES else []
    parser = ConfigParser()
    names += [f"train_{recipe}", "multi_gpu_train"]
    parser.read_config([str(ROOT / "configs" / f"{name}.json") for name in names])
    weights = str(ROOT / "models" / "model.pt")
    ids = {
        "bundle_root": str(ROOT),
        "output_dir": str(tmp_path / "run"),
        "autoencoder_weights": weights,
        "batch_size": 2,
    }
    parser.update({key: value for key, value in {**ids, **data_of(recipe)}.items() if key in parser.get()})
    if recipe == "flips":  # its code is another than that of the weights that ship
        fine = tmp_path / "fine.pt"
        torch.save(parser.get_parsed_content("network_def").state_dict(), fine)
        parser["autoencoder_weights"] = str(fine)
    try:
        for step in parser.get_parsed_content("initialize", eval_expr=True):
            assert step is not NotImplemented
        trainer = parser.get_parsed_content("train#trainer")
        assert type(trainer.network).__name__ == "DistributedDataParallel"
        assert len(trainer.data_loader) > 0
        parser.get_parsed_content("validate#evaluator")
        parser.get_parsed_content("resume")
    finally:
        dist.destroy_process_group()
        set_determinism(None)


def pictures(dataset, workers, epochs=2):
    """Every picture of some epochs, as bytes; the loader is the same for all of them, as a trainer's is."""
    # Tests before this one leave threads behind (those of gloo, for instance), and a fork of a process with threads may
    # inherit a lock that nobody will open: workers come from a server without threads.
    context = multiprocessing.get_context("forkserver") if workers else None
    if workers:
        context.set_forkserver_preload(["bundle.training.slices", "bundle.synthesis.retinas"])
    loader = DataLoader(dataset, batch_size=4, num_workers=workers, multiprocessing_context=context)
    return [[one.numpy().tobytes() for batch in loader for one in batch["anomalous"]] for _ in range(epochs)]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["scans", "retinas", "both", "mixed"])
def test_every_worker_and_every_epoch_draws_anew(workers, kind, head):
    """The same slice again and again is another picture each time."""
    volume = torch.from_numpy(head[0][..., 6:7].repeat(8, 2).astype("float32"))[None] / 200
    random = Compose([RandScannerd("image"), RandSyntheticAnomalyd("image")])
    scans = SliceDataset([{}, {}], lambda case: {"image": volume}, random)
    retinas = SyntheticRetinas(8, RandSyntheticAnomalyd("image", region_key="retina"), columns=volume.shape[1])
    kinds = {"scans": scans, "retinas": retinas, "both": ConcatDataset([scans, scans])}
    dataset = {**kinds, "mixed": MixedSlices([retinas], [1], 8)}[kind]
    first, second = pictures(dataset, workers)
    assert len({*first, *second}) == len(first) + len(second) == 2 * len(dataset)


def test_brats_as_downloaded(tmp_path):
    """Four contrasts become four channels; slices with tumour train nothing."""
    root = tmp_path / "BraTS"
    for number in range(1, 6):
        name = f"BraTS20_Training_{number:03d}"
        scan, lesion, affine = synthetic_head((60, 70, 6), (3.2, 3.2, 18.0), seed=number)
        for factor, contrast in enumerate(("t1", "t1ce", "t2", "flair"), start=1):
            write_map(root / name / f"{name}_{contrast}.nii.gz", scan * factor, affine, np.int16)
        write_map(root / name / f"{name}_seg.nii.gz", 4 * lesion, affine, np.uint8)
    log = run(tmp_path, "autoencoder", root, extra=["brats.json"], layout="brats")
    assert "healthy slices" in log
    state = torch.load(tmp_path / "autoencoder" / "weights.pt", weights_only=True)
    assert state["autoencoder.encoder.blocks.0.conv.weight"].shape[1] == 4


def test_slices_with_lesion_and_their_neighbours_are_left_out():
    image, label = torch.rand(1, 8, 8, 7) + 0.1, torch.zeros(1, 8, 8, 7)
    label[0, 3, 3, 2] = 0.2  # a lesion's edge, after resampling
    image[..., 6] = 0  # air
    dataset = SliceDataset([{}], lambda case: {"image": image, "label": label})
    assert len(dataset) == 3
    torch.testing.assert_close(dataset.slices[0].float(), image[..., 0], atol=1e-3, rtol=0)
    torch.testing.assert_close(dataset.slices[1].float(), image[..., 4], atol=1e-3, rtol=0)
    assert dataset[0]["image"].shape == (1, 8, 8)


def test_a_scan_that_cannot_be_used_is_left_out(caplog):
    """MONAI's Compose wraps the error of a transform."""

    def load(case):
        if case["name"] == "bad":
            raise ScanError(case["name"], "no brain in it", "Check it")
        return {"image": torch.full((1, 8, 8, 2), 0.5)}

    dataset = SliceDataset([{"name": "good"}, {"name": "bad"}], Compose([load]))
    assert len(dataset) == 2
    assert "bad: no brain in it" in caplog.text
    with pytest.raises(RuntimeError):
        SliceDataset([{}], Compose([lambda case: case["image"]]))


def test_every_so_many_slices_are_taken():
    image = torch.arange(1, 8).float().expand(1, 8, 8, 7) / 10
    dataset = SliceDataset([{}], lambda case: {"image": image}, every=3)
    assert [round(float(one[0, 0, 0]), 1) for one in dataset.slices] == [0.1, 0.4, 0.7]


def test_seeded_items_repeat(head):
    volume = torch.from_numpy(head[0].astype("float32"))[None] / 200

    dataset = SliceDataset([{}, {}], lambda case: {"image": volume}, seed=3)
    assert torch.equal(dataset[2]["donor"], dataset[2]["donor"])


def test_the_balance_spares_random_flips():
    """Slices with few structured flips count more; slices with random flips count alike, however many they have."""
    logits, flips = torch.zeros(4, 1, 10, 10), torch.zeros(4, 1, 10, 10)
    flips[0, 0, :5], flips[2, 0, 0, 0], flips[3, 0, :3] = 1, 1, 1
    timesteps = torch.tensor([700, 20, 0, 0])
    logits.requires_grad_()
    FlipLoss(0.5)((logits, flips, timesteps), None).backward()
    count = logits.grad.abs().sum((1, 2, 3)) * 4 / 0.5  # of each slice: at logit 0 every bit pulls with 0.5
    torch.testing.assert_close(count[:2], torch.ones(2))
    torch.testing.assert_close(count[2:].sum(), torch.tensor(2.0))
    torch.testing.assert_close(count[2] / count[3], torch.tensor((0.31 / 0.02) ** 0.5))

    plain = FlipLoss()((logits, flips, timesteps), None)
    torch.testing.assert_close(plain, torch.nn.functional.binary_cross_entropy_with_logits(logits, flips))
