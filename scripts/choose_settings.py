"""Choose the settings of the methods on synthetic anomalies in healthy slices of the validation patients.

No label of a lesion takes part. The anomalies are of another family than those that the denoiser was trained on.

    python scripts/choose_settings.py --dataset_dir DATASET --weights models/model.pt --output docs/settings.csv
"""

import argparse
import csv
import itertools
from pathlib import Path

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.utils import set_determinism
from scipy import ndimage
from sklearn.metrics import average_precision_score
from tqdm import tqdm

from bundle import bundle_root
from bundle.methods.intensity import Intensity
from bundle.methods.masked_bernoulli import MaskedBernoulli
from bundle.methods.reconstruction import Reconstruction
from bundle.methods.structured_flips import StructuredFlips
from bundle.networks.weights import load_weights
from bundle.precision import autocast

SMOOTHING = (0.0, 1.0, 2.0)


def candidates() -> dict:
    """Name → method; smoothing is tried on each afterwards."""
    chains = [(*c, 10, "code") for c in itertools.product((25, 50, 100, 200, 400), (0.1, 0.2, 0.3, 0.5))]
    chains += [(level, 0.2, steps, "code") for level in (50, 100) for steps in (5, 25)]
    chains += [(level, threshold, 10, "image") for level, threshold in ((50, 0.2), (100, 0.2), (200, 0.5))]
    methods = {"intensity": Intensity(), "autoencoder residual": Reconstruction()}
    for level, threshold, steps, compare in chains:
        name = f"masked chain L={level} P={threshold} steps={steps} against {compare}"
        methods[name] = MaskedBernoulli(level, threshold, steps, compare, "absolute")
    for score, mirrored in itertools.product(("flips", "absolute", "brighter", "both"), (False, True)):
        methods[f"structured flips {score}{' mirrored' if mirrored else ''}"] = StructuredFlips(score, mirrored)
    return methods


def validation(dataset_dir: str, every: int):
    """Network, and the anomalous validation slices with their masks, as the training recipe makes them."""
    parser = ConfigParser()
    parser.read_config(Path(bundle_root()) / "configs" / "train_denoiser.json")
    parser.update({"bundle_root": bundle_root(), "dataset_dir": dataset_dir})
    dataset = parser.get_parsed_content("validate#dataset")
    items = [dataset[i] for i in range(0, len(dataset), every)]
    return parser.get_parsed_content("network_def"), [
        torch.stack([i[key] for i in items]) for key in ("anomalous", "mask")
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--weights", default=str(Path(bundle_root()) / "models" / "model.pt"))
    parser.add_argument("--output", type=Path, default=Path("settings.csv"))
    parser.add_argument("--every", type=int, default=2, help="take every n-th slice")
    parser.add_argument("--only", default="", help="candidates whose name holds this")
    arguments = parser.parse_args()

    set_determinism(0)
    network, (slices, masks) = validation(arguments.dataset_dir, arguments.every)
    load_weights(network, arguments.weights).eval()
    rows = []
    for name, method in tqdm([c for c in candidates().items() if arguments.only in c[0]], disable=None):
        with torch.no_grad(), autocast(slices.device):
            batches = zip(slices.split(16), torch.arange(len(slices)).split(16), strict=True)
            scores = torch.cat([method.score(batch, numbers, network).float() for batch, numbers in batches]).numpy()
        for sigma in SMOOTHING:
            smooth = ndimage.gaussian_filter(scores, (0, 0, sigma, sigma))
            inside = slices.numpy() > 0
            rows.append((name, sigma, average_precision_score(masks.numpy()[inside] > 0, smooth[inside])))
            print(f"{name}, smoothing {sigma}: AUPRC {rows[-1][2]:.4f}", flush=True)
    with arguments.output.open("w", newline="") as file:
        csv.writer(file).writerows(
            [
                ("method", "smoothing", "AUPRC on synthetic anomalies"),
                *((a, b, np.round(c, 4)) for a, b, c in sorted(rows, key=lambda r: -r[2])),
            ]
        )


if __name__ == "__main__":
    main()
