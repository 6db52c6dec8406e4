"""Make the units of the maps anew, after a training: every method of the bundle, the parts of the default before it.

    python scripts/calibrate.py --dataset_dir DATASET

Whose healthy slices calibrate what: `bundle.evaluation.units`.
"""

import argparse

from bundle.evaluation.units import DEFAULT, make_units


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--only", nargs="*", default=(), help=f"methods, {DEFAULT} for the default; all by default")
    arguments = parser.parse_args()
    make_units(arguments.dataset_dir, arguments.only)


if __name__ == "__main__":
    main()
