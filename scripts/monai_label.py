# SPDX-License-Identifier: Apache-2.0
"""One command for annotators: make MONAI Label's environment, put the bundle into its app, serve a folder of studies.

    python scripts/monai_label.py STUDIES
    python scripts/monai_label.py STUDIES --bundle flipmap_oct.zip --port 8001

STUDIES is a folder of NIfTI scans, or the address of a DICOMweb server (http://…/dicom-web), which is what OHIF needs.
The environment is made once, beside this repository's (some minutes, 4 GB): MONAI Label pins NumPy 1.26, so it cannot
share one. The server listens on this machine alone, unless --host says otherwise; it has no login of its own.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LABEL = ("monailabel==0.8.5", "monai==1.6.1", "pydicom<3", "pynetdicom<3")
OURS = ("einops", "scipy", "scikit-learn", "matplotlib", "jinja2", "pillow", "dcmqi")
TORCH = "torch==2.13.0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", help="folder of NIfTI scans, or the address of a DICOMweb server")
    parser.add_argument("--bundle", type=Path, action="append", default=[], help="exported bundle beside this one")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--environment", type=Path, default=ROOT / ".venv-monailabel", help="made when missing")
    parser.add_argument("--app", type=Path, help="folder of the app (a new temporary one by default)")
    options = parser.parse_args()
    python = environment(options.environment)
    app = (options.app or Path(tempfile.mkdtemp(prefix="flipmap-app-"))).resolve()
    models = install(python, app, options.bundle)
    studies = options.studies if "://" in options.studies else str(Path(options.studies).resolve())
    command = [python, __file__, "--serve", "start_server", "--app", app, "--studies", studies]
    command += ["--conf", "models", ",".join(models), "--conf", "zoo_source", "local"]
    command += [
        "--conf",
        "skip_trainers",
        "true",
        "--conf",
        "sam2",
        "false",
        "--host",
        options.host,
        "--port",
        str(options.port),
    ]
    print(f"models: {', '.join(models)}; http://{options.host}:{options.port}", flush=True)
    os.environ["MONAI_LABEL_TASKS_TRAIN"] = "false"  # what is annotated is no healthy data
    # Where MONAI Label looks for dcmqi's programs, which write DICOM Segmentations, before it would download them.
    os.environ["PATH"] = f"{python.parent.resolve()}{os.pathsep}{os.environ.get('PATH', '')}"
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")  # volumes come and go: fewer places to leave gaps in
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait leave the machine to the viewer
    os.execv(python, [str(part) for part in command])


def environment(folder: Path) -> Path:
    """The environment's Python; made, with everything in it, when it is not there."""
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        print(f"making {folder}, once", flush=True)
        venv.create(folder, with_pip=True, clear=folder.exists())
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as pins:
            pins.write(TORCH + "\n")
            pins.flush()
            pip = [str(python), "-m", "pip", "install", "--quiet", "--prefer-binary"]
            env = {**os.environ, "PIP_CONSTRAINT": pins.name}
            subprocess.run([*pip, TORCH], check=True, env=env)
            subprocess.run([*pip, *LABEL, *OURS], check=True, env=env)
        (folder / "complete").touch()
    return python


def install(python: Path, app: Path, exported: list[Path]) -> list[str]:
    """Put MONAI Label's stock app into ``app``, with this bundle and the exported ones as its models; their names."""
    if not (app / "main.py").exists():
        where = "import sys, pathlib; print(pathlib.Path(sys.prefix) / 'monailabel' / 'sample-apps' / 'monaibundle')"
        stock = subprocess.run([python, "-c", where], check=True, capture_output=True, text=True).stdout.strip()
        shutil.copytree(stock, app, dirs_exist_ok=True)
    folder = app / "model"
    folder.mkdir(exist_ok=True)
    names = ["flipmap_flair"]
    link = folder / names[0]
    if not link.exists():
        link.symlink_to(ROOT)
    for path in exported:
        name = path.name.removesuffix(".zip")
        names.append(name)
        if (folder / name).exists():
            continue
        if path.suffix == ".zip":
            zipfile.ZipFile(path).extractall(folder)
        else:
            (folder / name).symlink_to(path.resolve())
    return names


def serve() -> None:
    """Inside the environment: MONAI Label's own command."""
    from torch import library

    try:
        import torchvision  # noqa: F401
    except RuntimeError:  # its operators were compiled for CUDA, this PyTorch is without
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        operators = library.Library("torchvision", "DEF")
        operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        vars(serve)["operators"] = operators  # they go with it
    from monailabel.main import Main

    sys.argv = ["monailabel", *sys.argv[2:]]
    Main().run()


if __name__ == "__main__":
    serve() if sys.argv[1:2] == ["--serve"] else main()
