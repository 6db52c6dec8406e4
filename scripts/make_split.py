# SPDX-License-Identifier: Apache-2.0
"""Make the committed patient split of a BIDS data set: stratified by hospital, decided by a hash, never by hand.

python scripts/make_split.py DATASET_DIR configs/splits/lgg_flair.json
"""

import argparse
import hashlib
import json
from collections import defaultdict
from pathlib import Path

from bundle.cases import find_scans
from bundle.datasets import hospital_of

FRACTIONS = {"test": 0.25, "validation": 0.15}  # the rest trains


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset_dir", type=Path)
    parser.add_argument("split", type=Path)
    arguments = parser.parse_args()

    sites = defaultdict(list)
    for subject in sorted({case["subject"] for case in find_scans(arguments.dataset_dir)}):
        sites[hospital_of(subject)].append(subject)
    parts: dict[str, list[str]] = {"training": [], "validation": [], "test": []}
    for subjects in sites.values():
        subjects.sort(key=lambda name: hashlib.sha256(name.encode()).hexdigest())
        n_test, n_validation = (round(len(subjects) * FRACTIONS[part]) for part in ("test", "validation"))
        parts["test"] += subjects[:n_test]
        parts["validation"] += subjects[n_test : n_test + n_validation]
        parts["training"] += subjects[n_test + n_validation :]
    text = {"comment": "Split by patient, stratified by hospital; made by scripts/make_split.py", "subjects": parts}
    arguments.split.write_text(json.dumps(text | {"subjects": {k: sorted(v) for k, v in parts.items()}}, indent=1))


if __name__ == "__main__":
    main()
