# SPDX-License-Identifier: Apache-2.0
"""Hold the maps of two checkouts against each other, every FLAIR method on a scan of three places.

    git worktree add ../before b097eef
    python scripts/compare_versions.py ../before DATA docs/evaluation/before_after.md

Writes the AUPRC over the whole scan, before and after, and says how many maps are the same byte for byte.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

#: Folder → subject.
SCANS = {"brain_lgg": "sub-DU5871", "brain_wmh_auto": "sub-elderly10", "brain_wml10": "sub-wml04"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, help="the other checkout")
    parser.add_argument("data", type=Path, help="folder of the data sets")
    parser.add_argument("output", type=Path, help="table, or with --maps its content as JSON")
    parser.add_argument("--maps", action="store_true", help="map with the checkout that is the working directory")
    options = parser.parse_args()
    if options.maps:
        options.output.write_text(json.dumps(figures(options.data)))
        return
    here = Path(__file__).resolve().parents[1]
    both = [maps_of(root, options) for root in (options.before.resolve(), here)]
    options.output.write_text(table(*both), encoding="utf-8")


def maps_of(root: Path, options: argparse.Namespace) -> dict[str, tuple[str, float]]:
    """What `figures` says by the code of a checkout."""
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder) / "said.json"
        command = [sys.executable, Path(__file__).resolve(), root, options.data.resolve(), said, "--maps"]
        environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        subprocess.run([str(one) for one in command], check=True, cwd=root, env=environment)
        return json.loads(said.read_text())


def figures(data: Path) -> dict[str, tuple[str, float]]:
    """``method subject`` → hash of the map, and its AUPRC."""
    from sklearn.metrics import average_precision_score

    from bundle.io.nifti import read_scan
    from bundle.modalities import MODALITIES

    try:
        from bundle.pipeline.job import Job
    except ImportError:  # 0.12.0 and before
        from bundle.batch.job import Job  # type: ignore[no-redef]
    said = {}
    for method in ("default", *MODALITIES["flair"].methods):
        job = Job(MODALITIES["flair"].configs(method), precision="float32", device="cpu")
        for folder, subject in SCANS.items():
            mask = data / folder / "derivatives" / "lesion" / subject / "anat" / f"{subject}_label-lesion_mask.nii.gz"
            values = job({"image": str(data / folder / subject / "anat" / f"{subject}_FLAIR.nii.gz"), "name": subject})
            anomaly, lesion = values["pred"][0].numpy(), np.asarray(read_scan(mask, labels=True)[0]) > 0.5
            score = float(average_precision_score(lesion.ravel(), anomaly.ravel()))
            said[f"{method} {subject}"] = hashlib.sha256(anomaly.tobytes()).hexdigest(), score
    return said


def table(before: dict[str, tuple[str, float]], after: dict[str, tuple[str, float]]) -> str:
    """Markdown, a row a method."""
    same = sum(before[key][0] == after[key][0] for key in after)
    methods = list(dict.fromkeys(key.rpartition(" ")[0] for key in after))
    lines = [f"{same} of {len(after)} maps are the same byte for byte. AUPRC, before / after:", ""]
    lines += ["| method | " + " | ".join(SCANS.values()) + " |", "|---" * (len(SCANS) + 1) + "|"]
    for method in methods:
        keys = [f"{method} {subject}" for subject in SCANS.values()]
        cells = [f"{before[key][1]:.3f} / {after[key][1]:.3f}" for key in keys]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
