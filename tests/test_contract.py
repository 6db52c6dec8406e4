# SPDX-License-Identifier: Apache-2.0
"""The contract with MONAI: files, ids, properties, targets; and that the configs say the same where they must."""

import ast
import csv
import importlib
import json
import re
import subprocess
import sys

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, verify_net_in_out
from monai.bundle.config_item import ComponentLocator
from monai.utils import set_determinism

import bundle
from bundle.arguments import check_settings
from bundle.errors import FlipmapError, WeightsError
from bundle.methods.dark_pockets import DarkPockets
from bundle.modalities import DEFAULT, MODALITIES
from bundle.networks.weights import load_weights
from bundle.pipeline.job import Job
from bundle.scoring.calibration import read_calibration, weights_hash
from bundle.synthesis.camera import RandCamerad
from scripts.compose_configs import compose
from scripts.fill_docs import PAGES, TABLES, fill
from tests.conftest import ROOT

CONFIGS = sorted([*(ROOT / "configs").glob("*.json"), *(ROOT / "configs" / "methods").glob("*.json")])
RUNNABLE = ("inference", "train_autoencoder", "train_denoiser")
LICENCES = (ROOT / "LICENSE.weights").read_text()
METADATA = json.loads((ROOT / "configs" / "metadata.json").read_text())


def walk(node):
    yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from walk(child)


def read(name):
    return json.loads((ROOT / "configs" / f"{name}.json").read_text())


def test_required_files():
    for name in (
        "LICENSE",
        "configs/metadata.json",
        "configs/inference.json",
        "models/model.pt",
        "docs/README.md",
        "docs/data_license.txt",
        "configs/logging.conf",
    ):
        assert (ROOT / name).is_file(), name


@pytest.mark.parametrize("config", CONFIGS, ids=lambda p: p.stem)
def test_every_target_resolves(config):
    names = ComponentLocator(excludes=["metatensor"])
    for node in walk(json.loads(config.read_text())):
        if isinstance(node, dict) and "_target_" in node:
            target = node["_target_"]
            if "." in target:
                module, _, attribute = target.rpartition(".")
                assert callable(getattr(importlib.import_module(module), attribute)), target
            else:
                assert names.get_component_module_name(target), target


@pytest.mark.parametrize("config", CONFIGS, ids=lambda p: p.stem)
def test_every_import_and_expression_parses(config):
    for node in walk(json.loads(config.read_text())):
        if isinstance(node, str) and node.startswith("$"):
            code = re.sub(r"@[\w#]+", "x", node[1:])
            tree = ast.parse(code)
            for found in ast.walk(tree):
                if isinstance(found, ast.ImportFrom):
                    assert hasattr(importlib.import_module(found.module), found.names[0].name), node


@pytest.mark.parametrize("name", RUNNABLE)
def test_properties(name, tmp_path, monkeypatch, bids_folder):
    """Every id that MONAI asks for is there, and can be built."""
    monkeypatch.chdir(tmp_path)
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"subjects": {"training": ["sub-00", "sub-01"], "validation": ["sub-02"]}}))
    training = {"split": str(split), "output_dir": str(tmp_path / "run")}
    if name == "train_denoiser":
        training["autoencoder_weights"] = str(ROOT / "models" / "model.pt")
    workflow = ConfigWorkflow(
        config_file=str(ROOT / "configs" / f"{name}.json"),
        meta_file=str(ROOT / "configs" / "metadata.json"),
        workflow_type="infer" if name == "inference" else "train",
        dataset_dir=str(bids_folder),
        logging_file=str(ROOT / "configs" / "logging.conf"),
        **({} if name == "inference" else training),
    )
    workflow.initialize()
    try:
        assert not workflow.check_properties()
    finally:
        set_determinism(None)


def test_one_network_everywhere():
    """What is trained is what is asked; the restoration beside it has a recipe of its own."""
    networks = [read(name)["network_def"] for name in RUNNABLE]
    assert networks[0].pop("restoration") == {}
    assert networks[0].pop("lesions") == {}
    assert networks[0] == networks[1] == networks[2]
    assert read("train_disyre")["network_def"] == {
        "_target_": "bundle.networks.slice_unet.SliceUNet",
        "in_channels": "@channels",
    }


def test_one_preprocessing_everywhere():
    """Training and inference see the same scans: only the label's keys differ, and the grid of the codes is coarser."""
    for step in ("background", "brain", "scale"):
        same = [read(name)["steps"][step] for name in RUNNABLE]
        assert same[0] == same[1] == same[2]
    grids = []
    for name in RUNNABLE:
        parser = ConfigParser(read(name))
        grid = parser.get_parsed_content("steps#grid")
        grids.append((grid.size, grid.spacing, grid.slice_spacing, grid.source_key))
    assert grids[1] == grids[2]
    size, spacing, slices, source = grids[1]
    coarsen = read("inference")["coarsen"]
    assert grids[0] == (tuple(coarsen * n for n in size), spacing / coarsen, slices, source)
    fine = ConfigParser(read("train_lesions")).get_parsed_content("steps#grid")
    assert (fine.size, fine.spacing, fine.slice_spacing, fine.source_key) == grids[0]


@pytest.mark.parametrize("recipe", ["train_oct", "train_lesions_oct"])
def test_networks_of_oct_are_asked_for_pieces_of_the_size_that_they_learned_from(recipe):
    sizes = {
        tuple(node.get("size", RandCamerad("image").size))
        for node in walk(read(recipe))
        if isinstance(node, dict) and str(node.get("_target_")).endswith("RandCamerad")
    }
    ((length, _),) = sizes
    oct_ = MODALITIES["oct"]
    for method in (DEFAULT, *(name for name in oct_.methods if name != "intensity")):
        inferer = Job(oct_.configs(method), calibration="none").inferer
        parts = getattr(inferer, "methods", {"": inferer}).values()
        assert {part.roi_size for part in parts if not isinstance(part, DarkPockets)} == {length}, method


@pytest.mark.parametrize("contrast", ["t1w", "t2w"])
def test_fusions_of_all_contrasts_are_finished_and_checked_alike(contrast):
    """They have parts of their own, and join them as suits them; what is not about that is as in the main job."""
    main, ours = read("inference")["inferer"], read(contrast)["inferer"]
    parts = {"_target_", "methods", "shares", "gated", "gate", "around", "own", "rise", "fall", "outside"}
    assert {key: one for key, one in ours.items() if key not in parts} == {
        key: one for key, one in main.items() if key not in parts
    }


def test_configs_are_made_from_their_parts():
    """What people run is what `make configs` writes from configs/recipes and configs/parts."""
    made = dict(compose())
    assert len(made) >= 10
    for path, text in made.items():
        assert path.read_text() == text, f"{path.name} is not current: run make configs"


def test_parts_and_recipes_are_used_and_short():
    recipes = [json.loads(path.read_text()) for path in (ROOT / "configs" / "recipes").glob("*.json")]
    parts = {path.stem for path in (ROOT / "configs" / "parts").glob("*.json")}
    assert {name for recipe in recipes for name in recipe["_parts_"]} == parts
    for recipe in recipes:
        assert not {"bundle_root", "device", "preprocessing", "resume", "ema"} & set(recipe), "a part has it"


@pytest.mark.parametrize("name", MODALITIES)
def test_every_setting_of_a_modality_is_read_by_something(name):
    """Or it is refused: what changes nothing is not accepted."""
    parser = ConfigParser()
    parser.read_config([str(path) for path in MODALITIES[name].configs()])
    config = {key: value for key, value in parser.get().items() if key != "_meta_"}
    unread = set()
    for setting in config:
        try:
            check_settings([setting], config)
        except FlipmapError as error:
            assert "nothing in this config reads it" in str(error)
            unread.add(setting)
    of_the_brain = {"brain_weights", "contrast_weights", "check_contrast", "coarsen"}
    assert unread == (of_the_brain if name == "oct" else set())


def test_windows_are_scored_where_they_are_asked_for(head):
    """They are another method than the calibrated one, which is said."""
    with pytest.raises(WeightsError, match="roi_size"):
        Job(roi_size=64)
    assert Job(roi_size=64, calibration="none").inferer.methods["structured_flips"].roi_size == 64


def test_inference_is_self_contained():
    """MONAI Label reads this one file: no macro, no reference to another file, one network."""
    text = (ROOT / "configs" / "inference.json").read_text()
    assert not re.search(r'"%', text)
    assert "metadata" not in text


def test_the_card_has_the_figures_of_the_table():
    with (ROOT / "docs" / "evaluation" / "places.csv").open(encoding="utf-8") as file:
        (row,) = (row for row in csv.DictReader(file) if (row["place"], row["method"]) == ("LGG", "default"))
    assert list(read("metadata")["eval_metrics"].values()) == [
        round(float(row[name]), 3) for name in ("auprc", "dice_at_0.01")
    ]


def test_weights_are_plain_tensors_and_fit():
    path = ROOT / "models" / "model.pt"
    state = torch.load(path, weights_only=True)
    assert all(isinstance(value, torch.Tensor) and torch.isfinite(value).all() for value in state.values())
    assert path.stat().st_size < 30 * 2**20
    load_weights(ConfigParser(read("inference")).get_parsed_content("network_def"), path)


def test_calibration_belongs_to_the_weights():
    entry = read_calibration(ROOT / "models" / "calibration.json", read("inference")["method"])
    assert entry.weights == weights_hash(ROOT / "models" / "model.pt", ROOT / "models" / "brain_mask" / "model.pt")
    assert entry.voxels > 100_000


def test_network_in_and_out():
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(ROOT / "configs" / "metadata.json"),
        config_file=str(ROOT / "configs" / "inference.json"),
        device="cpu",
        n=4,
    )


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda p: p.name)
def test_docs_name_what_exists(page):
    """Links, configs, scripts and make targets that a page names are there, and no placeholder is left."""
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"(?:configs|scripts|bundle|models)/[\w/]+\.(?:json|py|pt)", text):
        assert (ROOT / name).is_file(), name
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (page.parent / link).is_file(), link
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([\w-]+)`", text)) <= targets
    assert not re.search(r"@[A-Z]+@", text)


def test_every_source_file_names_its_licence():
    folders = ("bundle", "flipmap", "scripts", "tests")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 150
    assert not [path for path in files if not path.read_text().startswith("# SPDX-License-Identifier: Apache-2.0\n")]


@pytest.mark.parametrize("weights", sorted((ROOT / "models").rglob("*.pt")), ids=lambda path: path.parent.name)
def test_shipped_weights_say_where_they_come_from(weights):
    known = json.loads((weights.parent / "provenance.json").read_text())
    assert known["sha256"] == weights_hash(weights)
    assert known["parts"]
    assert weights.parent.name in ("models", "oct") or f"models/{weights.parent.name}/" in LICENCES


def test_tables_in_pages_are_those_that_evaluation_wrote():
    shown: set[str] = set()
    for name in PAGES:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert fill(ROOT / name) == text, f"{name} is not current: run make results"
        shown |= set(re.findall(r"<!-- begin (\w+) -->", text))
        assert not re.search(r"<!-- begin (\w+) -->\s*<!-- end", text), f"an empty table in {name}"
    assert shown == set(TABLES)


def test_versions_agree():
    assert bundle.__version__ == METADATA["version"]
    assert METADATA["version"] in METADATA["changelog"]
    assert f"## {METADATA['version']}" in (ROOT / "CHANGELOG.md").read_text()
    assert f"version: {METADATA['version']}\n" in (ROOT / "CITATION.cff").read_text()
    pins = dict(line.split("==") for line in (ROOT / "requirements.txt").read_text().split() if "==" in line)
    assert pins["torch"] == METADATA["pytorch_version"]
    assert pins["monai"] == METADATA["monai_version"]
    assert pins["numpy"] == METADATA["numpy_version"]
    for name, version in METADATA["required_packages_version"].items():
        assert pins[name] == version


@pytest.mark.parametrize("path", sorted((ROOT / "bundle").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_all_is_true(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    module = importlib.import_module(name)
    if path.name != "__init__.py":
        assert module.__doc__, "the first line of a module says what it is"
        for public in module.__all__:
            if "commands" in path.parts and public in ("add_arguments", "run"):
                continue  # `bundle.commands` says what they do
            assert getattr(module, public).__doc__ or not callable(getattr(module, public)), public


def test_importing_the_package_is_light():
    """`bundle` itself pulls in neither torch nor MONAI, so that --help stays quick."""
    code = "import sys, bundle, bundle.cli, bundle.commands.run; print(sorted({'torch', 'monai'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_expressions_in_configs_are_short():
    """What takes more is a function, with a name, a docstring and a test; MONAI's own are left as it has them."""
    long = {}
    for path in (ROOT / "configs").rglob("*.json"):
        expressions = re.findall(r'"(\$(?:[^"\\]|\\.)*)"', path.read_text(encoding="utf-8"))
        found = [one for one in expressions if len(one) > 100 and path.parent.name != "tracking"]
        long |= {path.name: found} if found else {}
    assert not long
