# SPDX-License-Identifier: Apache-2.0
"""Every command of ``flipmap`` is started, on data as small as it takes: none may be offered that does not run."""

import json
import shutil

import numpy as np
import pytest
import torch
from monai.utils import set_determinism

from bundle.cli import COMMANDS, LAB, main
from bundle.commands import benchmark, choose_percentile, choose_settings, leave_site_out
from bundle.datasets import read_split
from bundle.io.nifti import write_map
from bundle.synthesis.sample import synthetic_head
from tests.conftest import ROOT

SPLIT = ROOT / "configs" / "splits" / "lgg_flair.json"


class Tiny:
    """Folders of a few drawn heads, made once; ``work`` is a folder for each command's own results."""

    tested = ("--part", "test")
    short = ("--autoencoder_epochs", "1", "--denoiser_epochs", "1")

    def __init__(self, root):
        self.root, self.work = root, root / "work"
        parts = read_split(SPLIT)
        names = [*parts["training"][:4], *parts["validation"][:2], *parts["test"][:1]]
        self.data = root / "data"
        self.lgg = self.data / "brain_lgg"
        for number, name in enumerate(names):
            head, lesion, affine = synthetic_head((72, 84, 10), (2.7, 2.7, 11.0), seed=number)
            for suffix in ("FLAIR", "T1w"):
                write_map(self.lgg / name / "anat" / f"{name}_{suffix}.nii.gz", head, affine, np.int16)
            mask = self.lgg / "derivatives" / "lesion" / name / "anat" / f"{name}_label-lesion_mask.nii.gz"
            write_map(mask, lesion, affine, np.uint8)
        self.scan = self.lgg / names[0] / "anat" / f"{names[0]}_FLAIR.nii.gz"
        self.scans = root / "scans"
        self.scans.mkdir()
        shutil.copy(self.scan, self.scans / "a_FLAIR.nii.gz")
        self.weights = ROOT / "models" / "model.pt"
        self.split = root / "split.json"
        few = {part: subjects[:2] for part, subjects in parts.items()}
        self.split.write_text(json.dumps({"subjects": {**few, "training": parts["training"][:2]}}))

    def mapped(self):
        main(["run", str(self.scans), str(self.work / "mapped")])
        return self.work / "mapped"

    def series(self):
        pytest.importorskip("highdicom")
        from tests.dicom_files import write_series

        head, _, affine = synthetic_head((72, 84, 8), (2.7, 2.7, 12.0), seed=0)
        write_series(self.root / "series", head, affine, SeriesDescription="AX FLAIR")
        return self.root / "series"

    def trainings(self):
        state = torch.load(self.weights, weights_only=True)
        paths = [self.work / name / "weights.pt" for name in ("first", "second")]
        for path in paths:
            path.parent.mkdir()
            torch.save({k: one for k, one in state.items() if not k.startswith(("restoration", "lesions"))}, path)
        return paths

    def few(self):
        shutil.copytree(self.scan.parent, self.work / "few" / "sub-01" / "anat", dirs_exist_ok=True)
        return self.work / "few"

    def smaller(self):
        path = self.root / "smaller.json"
        path.write_text(json.dumps({"max_epochs": 1, "batch_size": 2, "train#trainer#epoch_length": 1}))
        return path

    def labels(self):
        x, y, z = np.ogrid[-1:1:60j, -1:1:70j, -1:1:50j]
        radius = np.sqrt(x**2 + y**2 + z**2)
        maps = np.select([radius < 0.4, radius < 0.6, radius < 0.65, radius < 0.8], [2, 3, 24, 507], 0)
        for number in range(4):
            write_map(self.root / "labels" / f"{number}.nii.gz", np.roll(maps, number, 0), np.eye(4), np.int16)
        return self.root / "labels"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return Tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def small(monkeypatch, tiny):
    """What takes long by design is made short; whatever a command leaves lies in a folder of its own."""
    monkeypatch.setattr(choose_settings, "LEVELS", (25,))
    monkeypatch.setattr(choose_settings, "THRESHOLDS", (0.5,))
    monkeypatch.setattr(choose_settings, "FINISHES", {"": (0.0, 0), "sharpened": (0.0, 2)})
    monkeypatch.setattr(leave_site_out, "EPOCH", 1)
    monkeypatch.setattr(benchmark, "SLICES", 2)
    monkeypatch.setattr(choose_percentile, "SETTING", (2,))
    monkeypatch.setattr(choose_percentile, "TESTED", 2)
    shutil.rmtree(tiny.work, ignore_errors=True)
    tiny.work.mkdir()
    monkeypatch.chdir(tiny.work)
    yield
    set_determinism(None)


#: Command → its arguments on tiny data, and a file that it is to leave, if any, in the working directory.
STARTS = {
    "run": lambda t: (["run", t.scans, "out"], "out/batch.csv"),
    "follow": lambda t: (["follow", t.scan, t.scan, "out", "--contrast", "FLAIR"], "out/follow.html"),
    "report": lambda t: (["report", t.mapped()], None),
    "listen": lambda t: (["listen", "--status", "--spool", t.work], None),
    "bids": lambda t: (["bids", t.lgg, t.mapped(), "group"], None),
    "mercure": lambda t: (["mercure", t.series(), "."], "result.json"),
    "boutiques": lambda t: (["boutiques"], None),
    "methods": lambda t: (["methods"], None),
    "export": lambda t: (["export", "out.zip", "--method", "intensity"], "out.zip"),
    "config": lambda t: (["config"], None),
    "train": lambda t: (
        [*("train", "autoencoder", t.smaller(), "--dataset_dir", t.lgg, "--output_dir", "out", "--split", t.split)],
        "out/weights.pt",
    ),
    "join-weights": lambda t: (["join-weights", "--models", "own", "model.pt", t.weights], "own/model.pt"),
    "calibrate": lambda t: (
        ["calibrate", "--models", "own", "--dataset_dir", t.lgg, "--split", t.split, "--only", "intensity"],
        "own/calibration.json",
    ),
    "several": lambda t: (["several", "evaluate", t.data, "several.csv"], "several.csv"),
    "odds": lambda t: (["odds", t.data, "--models", "own"], "own/odds.json"),
    "evaluate": lambda t: (
        ["evaluate", "patients", t.lgg, "out", "--split", t.split, "--set", 'rows={"a": {"method": "intensity"}}'],
        "out/table.csv",
    ),
    "benchmark": lambda t: (["benchmark", "--passes", "intensity"], None),
    "compare-trainings": lambda t: (
        [*("compare-trainings", "--weights", *t.trainings()), *("--dataset_dir", t.lgg, "--split", t.split), *t.tested],
        "trainings.csv",
    ),
    "leave-site-out": lambda t: (
        [*("leave-site-out", "--dataset_dir", t.lgg, "--runs", "runs", "--only", "none"), *t.short],
        "runs/none/calibration.json",
    ),
    "choose-percentile": lambda t: (["choose-percentile", "--dataset_dir", t.lgg, "--draws", "2"], "percentile.csv"),
    "choose-settings": lambda t: (["choose-settings", "--dataset_dir", t.lgg, "--every", "1000"], "settings.csv"),
    "check-brain-mask": lambda t: (
        ["check-brain-mask", "--label_maps", t.labels(), "--stripped", t.lgg, "--scans", t.lgg, "--count", "1"],
        None,
    ),
    "check-contrast": lambda t: (["check-contrast", t.data, "contrasts.csv"], "contrasts.csv"),
    "check-small-lesions": lambda t: (
        ["check-small-lesions", "--dataset_dir", t.lgg, "--part", "test"],
        "small_lesions.csv",
    ),
    "check-stripping": lambda t: (["check-stripping", "--whole", t.few(), "--stripped", t.few()], None),
}


def test_no_command_is_left_out():
    assert set(STARTS) == {*COMMANDS, *LAB}


TRAININGS = ("compare-trainings", "leave-site-out")  # train, or calibrate several trainings


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=pytest.mark.slow) if one in TRAININGS else one for one in STARTS]
)
def test_it_starts(name, tiny, capsys):
    arguments, left = STARTS[name](tiny)
    assert arguments[0] == name
    capsys.readouterr()
    given = [*(("lab",) if name in LAB else ()), *map(str, arguments)]
    assert main(given) == 0, capsys.readouterr().err
    if left is None:
        assert capsys.readouterr().out.strip()
    else:
        assert (tiny.work / left).stat().st_size > 0
