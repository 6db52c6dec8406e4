"""Make the calibrations anew, after a training or a change of settings: every method, the parts of the default before
it.

    python scripts/calibrate.py --dataset_dir DATASET
    python scripts/calibrate.py --modality oct --dataset_dir DATASET --only default intensity

Whose healthy slices calibrate what: `bundle.evaluation.calibrate`.
"""

import argparse
import logging

from bundle.evaluation.calibrate import DEFAULT, PERCENTILE, calibrate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--modality", default="flair", help="flair (default) or oct")
    parser.add_argument("--only", nargs="*", default=(), help=f"methods, {DEFAULT} for the default; all by default")
    parser.add_argument("--split", help="split file; by default that of the modality")
    parser.add_argument(
        "--percentile", type=float, default=PERCENTILE, help="of the bootstrap over patients; 0 for none"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    percentile = arguments.percentile or None
    calibrate(arguments.dataset_dir, arguments.modality, arguments.only, arguments.split, percentile)


if __name__ == "__main__":
    main()
