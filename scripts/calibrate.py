"""The calibrations anew: another name of ``flipmap calibrate``.

python scripts/calibrate.py --dataset_dir DATASET
"""

import sys

from bundle.cli import main

if __name__ == "__main__":
    sys.exit(main(["calibrate", *sys.argv[1:]]))
