"""Make the units of the maps anew, after a training: every method of the bundle, the parts of the default before it.

    python scripts/calibrate.py --dataset_dir DATASET

Patients who trained nothing calibrate (`validation` of the split). Those who trained stand beside them where that is no
matter: the intensity asks no network, and the default takes their structured flips, which the denoiser remembers, in
units of their own (`structured_flips_seen`).
"""

import argparse
from pathlib import Path
from typing import NamedTuple

from monai.bundle import run

from bundle import bundle_root


class Step(NamedTuple):
    """A run of ``configs/calibrate.json``: override of the method, further configs, and ids that are set."""

    method: str | None
    configs: tuple[str, ...] = ()
    settings: dict = {}  # noqa: RUF012 - read only


STEPS = (
    Step("structured_flips"),
    Step("structured_flips", settings={"parts": ["training"], "entry": "structured_flips_seen"}),
    Step("intensity", settings={"parts": ["training", "validation"], "by_depth": True}),
    Step(None, ("calibrate_seen.json",)),
    Step("reconstruction"),
    Step("masked_bernoulli"),
    Step("disyre"),
    Step("mdps"),
)
DEFAULT = "fused"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--only", nargs="*", help=f"methods, {DEFAULT} for the default; all by default")
    arguments = parser.parse_args()
    configs = Path(bundle_root()) / "configs"
    for step in STEPS:
        if arguments.only and (step.method or DEFAULT) not in arguments.only:
            continue
        override = [f"methods/{step.method}.json"] if step.method else []
        files = ["inference.json", *override, "calibrate.json", *step.configs]
        settings = {"bundle_root": bundle_root(), "dataset_dir": arguments.dataset_dir, **step.settings}
        run(config_file=[str(configs / name) for name in files], **settings)


if __name__ == "__main__":
    main()
