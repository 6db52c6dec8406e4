# SPDX-License-Identifier: Apache-2.0
"""A method as a bundle of its own: one folder or zip that runs away from this repository, and in MONAI Label.

MONAI Label reads one config file and one file of weights, and offers every bundle as a model. So everything that a
method and a modality add to configs/inference.json is merged into one file, all networks go into one state dict, and
the calibration is tied to that.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from .errors import OutputError
from .io.files import whole_file
from .modalities import DEFAULT, Modality, modality_of
from .paths import __version__, bundle_root
from .pipeline.job import Job
from .scoring.calibration import Calibration, weights_hash
from .scoring.odds import odds_beside

__all__ = ["export", "export_name"]

COPIED = (
    "LICENSE",
    "LICENSE.weights",
    "README.md",
    "setup.cfg",
    "pyproject.toml",
    "requirements.txt",
    "configs/logging.conf",
    "docs",
)
WEIGHTS, BRAIN, CALIBRATION = "models/model.pt", "models/brain_mask/model.pt", "models/calibration.json"
CONTRAST = "models/contrast/model.pt"
DATE = (2000, 1, 1, 0, 0, 0)  # of the files in a zip, so that the same release is the same file


def export_name(modality: str, method: str) -> str:
    """Of the folder; none of MONAI Label's words for other tasks is in it."""
    return f"flipmap_{modality}" if method == DEFAULT else f"flipmap_{modality}_{method}"


def export(modality: str, method: str, path: str | Path, url: str | None = None, models_dir: str | None = None) -> Path:
    """Write a self-contained bundle.

    Args:
        modality: of `bundle.modalities.MODALITIES`.
        method: one that is calibrated for it, or ``default``.
        path: a zip when it ends so, else a folder that does not exist yet.
        url: where the weights will lie: then ``large_files.yml`` names them with their hashes, as the MONAI model zoo
            asks for, they are left out of the bundle, and go into a folder beside it to be uploaded
            (``python -m monai.bundle download_large_files`` fetches them); and README.md begins with the metadata of a
            model card of the Hugging Face Hub.
        models_dir: folder of weights and calibrations of one's own (`bundle.model_files`).

    Returns:
        ``path``.

    Raises:
        FlipmapError: on an unknown modality or method, or one without weights.
        OutputError: when it cannot be written.
    """
    path = Path(path)
    configs = modality_of(modality).configs(method)
    for one in (path, *([_beside(path)] if url else [])):
        if one.exists():
            raise OutputError(one, "is there already", "Give another name, or remove it")
    root = Path(bundle_root())
    job = Job(configs, device="cpu", models_dir=models_dir)
    name = path.stem if path.suffix == ".zip" else path.name
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / name
        _write(made, root, job, configs)
        if url:
            _large_files_apart(made, url, _beside(path))
            _as_model_card(made / "README.md", job.modality)
        if path.suffix == ".zip":
            with whole_file(path) as temporary:
                _zip(made, temporary)
        else:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(made, path)
            except OSError as error:
                raise OutputError(path, f"cannot be written ({error.strerror})", "Give another place") from error
    return path


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.stem if path.suffix == '.zip' else path.name}_weights")


def _large_files_apart(made: Path, url: str, folder: Path) -> None:
    """Move the weights out of the bundle, and name them in its ``large_files.yml``."""
    lines = ["large_files:"]
    for file in sorted(made.rglob("*.pt")):
        name = file.relative_to(made).as_posix()
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        lines += [f'  - path: "{name}"', f'    url: "{url.rstrip("/")}/{name}"']
        lines += [f'    hash_val: "{hashlib.sha256(file.read_bytes()).hexdigest()}"', '    hash_type: "sha256"']
        shutil.move(file, folder / name)
    (made / "large_files.yml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _as_model_card(readme: Path, modality: Modality) -> None:
    """Put the metadata of a model card before a README, as the Hugging Face Hub reads it."""
    tags = ("monai", "medical", "anomaly-detection", "unsupervised", modality.name)
    lines = ["---", "library_name: monai", "license: other", "license_name: research-only"]
    lines += ["license_link: LICENSE.weights", "pipeline_tag: image-segmentation", "tags:"]
    lines += [*(f"- {tag}" for tag in tags), "---", "", ""]
    readme.write_text("\n".join(lines) + readme.read_text(encoding="utf-8"), encoding="utf-8")


def _write(made: Path, root: Path, job: Job, configs: Sequence[Path]) -> None:
    for name in COPIED:
        origin, target = _source(root, name), made / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if origin.is_dir() else shutil.copy)(origin, target)
    shutil.copytree(Path(__file__).parent, made / "bundle", ignore=_not_code)
    shutil.copytree(Path(__file__).parent.parent / "flipmap", made / "flipmap", ignore=_not_code)
    (made / BRAIN).parent.mkdir(parents=True)
    torch.save({key: _smallest(value) for key, value in job.network.state_dict().items()}, made / WEIGHTS)
    weights = [made / WEIGHTS]
    if job.modality.brain_network:
        shutil.copy(job.config.get_parsed_content("brain_weights"), made / BRAIN)
        weights.append(made / BRAIN)
        (made / CONTRAST).parent.mkdir(parents=True)
        shutil.copy(job.config.get_parsed_content("contrast_weights"), made / CONTRAST)
    entries = json.loads(Path(job.config.get_parsed_content("tables")).read_text())
    # Of what the exported weights made: other entries may be of an earlier training, or of other files.
    source = weights_hash(*job.config.get_parsed_content("calibrated_weights"))
    current = {name: entry for name, entry in entries.items() if entry["weights"] == source}
    tied = {name: {**entry, "weights": weights_hash(*weights)} for name, entry in current.items()}
    (made / CALIBRATION).write_text(json.dumps(tied) + "\n")
    odds = _odds(odds_beside(job.config.get_parsed_content("tables")), current, tied)
    odds_beside(made / CALIBRATION).write_text(json.dumps(odds) + "\n")
    (made / "configs" / "inference.json").write_text(json.dumps(_config(configs, job.modality), indent=4) + "\n")
    metadata = json.loads((root / "configs" / "metadata.json").read_text())
    (made / "configs" / "metadata.json").write_text(json.dumps(_metadata(metadata, job), indent=4) + "\n")


def _odds(path: Path, current: Mapping[str, Mapping], tied: Mapping[str, Mapping]) -> dict[str, list[dict]]:
    """Odds of findings that belong to the calibrations as they are here, tied to them as they are exported."""
    known = json.loads(path.read_text()) if path.exists() else {}
    return {
        name: [
            {**one, "calibration": Calibration(**tied[name]).hash}
            for one in known.get(name, [])
            if one["calibration"] == Calibration(**entry).hash
        ]
        for name, entry in current.items()
    }


def _smallest(value: torch.Tensor) -> torch.Tensor:
    """In 16 bits where these hold it exactly, as they do what came from a file of 16 bits."""
    half = value.half() if value.is_floating_point() else value
    return half.clone() if torch.equal(half.to(value.dtype), value) else value.clone()


def _source(root: Path, name: str) -> Path:
    """A file of the repository's root: from a wheel it comes in a folder of its own."""
    return root / name if (root / name).exists() else root / "root" / name


def _not_code(folder: str, names: list[str]) -> list[str]:
    """What is not copied as code: of a wheel, the folders that the bundle has beside its code."""
    data = ("configs", "docs", "models", "root") if Path(folder) == Path(__file__).parent else ()
    return [name for name in names if name in ("__pycache__", *data)]


def _config(configs: Sequence[Path], modality: Modality) -> dict:
    """The configs merged, as MONAI merges them, with one file of weights."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config([str(path) for path in configs])
    merged = {key: value for key, value in parser.get().items() if key != "_meta_"}
    merged["weights"] = f"$@bundle_root + '/{WEIGHTS}'"
    merged["tables"] = f"$@bundle_root + '/{CALIBRATION}'"
    merged["calibrated_weights"] = "$[@weights, @brain_weights]" if modality.brain_network else "$[@weights]"
    merged["network"] = "$load_weights(@network_def, @weights).to(@device)"
    return merged


def _metadata(metadata: Mapping, job: Job) -> dict:
    """The repository's own, with what this bundle is; figures of another method are left out."""
    said = {**metadata, "version": __version__, "name": f"flipmap {job.modality.name}, {job.settings['method']}"}
    if job.modality.config or job.settings["method"] != _default_method():
        said["eval_metrics"] = {}
    said |= job.modality.described
    said["network_data_format"]["inputs"]["image"] |= job.modality.image_format
    return said


def _default_method() -> str:
    return json.loads((Path(bundle_root()) / "configs" / "inference.json").read_text())["method"]


def _zip(folder: Path, target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            info = zipfile.ZipInfo((Path(folder.name) / file.relative_to(folder)).as_posix(), DATE)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, file.read_bytes())
