# SPDX-License-Identifier: Apache-2.0
"""Make a synthetic sample scan: a drawn head with a lesion, nobody's.

python scripts/make_sample.py OUT/sample_FLAIR.nii.gz
"""

import argparse
from pathlib import Path

import numpy as np

from bundle.io.nifti import write_map
from bundle.synthesis.sample import synthetic_head


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--lesion_mm", type=float, default=15.0, help="radius of the lesion; 0 for a healthy head")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    scan, _, affine = synthetic_head(lesion_mm=arguments.lesion_mm, seed=arguments.seed)
    write_map(arguments.path, scan, affine, np.int16)
    print(f"sample scan: {arguments.path}")


if __name__ == "__main__":
    main()
