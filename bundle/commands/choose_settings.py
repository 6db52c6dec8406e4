# SPDX-License-Identifier: Apache-2.0
"""Choose the settings of the methods on synthetic anomalies in healthy slices of the validation patients.

No label of a lesion takes part. The anomalies are of another family than those that the denoiser was trained on.
Synthetic anomalies are not tumours, though: ``--on tumours`` holds the fusions against the labels of the validation
patients.

    flipmap lab choose-settings --dataset_dir DATASET --output_dir docs/evaluation

Writes ``settings.csv``, and ``sweep.png``: the masked chain over noise level L and threshold P, with the P that a given
share of healthy bits exceeds, so that P follows from healthy data instead of from a hand. With ``--on small``
many small anomalies take the place of those of every size, and ``settings_small.csv`` leaves the sweep out.
"""

from __future__ import annotations

import argparse
import copy
import csv
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.utils import set_determinism
from scipy import ndimage
from sklearn.metrics import average_precision_score
from tqdm import tqdm

from ..diffusion.bernoulli import BernoulliScheduler
from ..methods.base import SliceMethod
from ..methods.disyre import Disyre
from ..methods.intensity import Intensity
from ..methods.likelihood import BitLikelihood
from ..methods.masked_bernoulli import MaskedBernoulli, SliceNoise
from ..methods.mdps import Mdps
from ..methods.reconstruction import Reconstruction
from ..methods.structured_flips import StructuredFlips
from ..networks.anomaly_network import AnomalyNetwork
from ..networks.fused_network import FusedNetwork
from ..networks.slice_unet import SliceUNet
from ..networks.weights import load_weights
from ..paths import bundle_root
from ..precision import autocast
from ..report.figures import save_sweep
from ..scoring.calibration import Calibration
from ..transforms.brain_depth import depth_in_slices
from ..transforms.head import free_slices

__all__ = ["add_arguments", "run"]

#: What is tried on the scores of every method, in plane: name → smoothing and sharpening, see `SliceMethod`.
FINISHES = {
    "": (0.0, 0),
    **{f"smoothed by {sigma:g}": (sigma, 0) for sigma in (1.0, 2.0, 3.0)},
    **{f"sharpened within {radius}": (0.0, radius) for radius in (2, 4, 6)},
}
ACROSS = (0.0, 0.4, 0.5, 0.7)  # tried on whole volumes
SPACING = 1.875  # of the model's grid, mm
LEVELS = (25, 50, 100, 200, 400)
THRESHOLDS = (0.1, 0.2, 0.3, 0.5)
RATES = (0.01, 0.001)  # of healthy bits that may exceed P
MDPS, DISYRE = "MDPS", "DISYRE"
FLIPS, ONCE, SMEARED = "structured flips", "structured flips, not mirrored", "structured flips smoothed, not sharpened"
PLAIN, SMOOTH, SHARP = "intensity", "intensity smoothed", "intensity sharpened by itself"
BY_DEPTH = "intensity by depth"
#: What can be fused.
PARTS: dict[str, SliceMethod] = {
    FLIPS: StructuredFlips("both", mirrored=True, sharpening=4),
    ONCE: StructuredFlips("both", sharpening=4),
    SMEARED: StructuredFlips("both", mirrored=True, smoothing=1.0),
    DISYRE: Disyre(smoothing=1.0),
    PLAIN: Intensity(),
    SMOOTH: Intensity(smoothing=2.0),
    SHARP: Intensity(sharpening=4),
    BY_DEPTH: Intensity(),
}
#: Shares of the parts that are tried.
FUSIONS = (
    *({part: 1} for part in PARTS),
    {FLIPS: 0.5, SMOOTH: 0.5},
    {FLIPS: 0.5, PLAIN: 0.5},
    {FLIPS: 0.65, BY_DEPTH: 0.35},
    {FLIPS: 0.5, BY_DEPTH: 0.5},
    {FLIPS: 0.35, BY_DEPTH: 0.65},
    {ONCE: 0.5, BY_DEPTH: 0.5},
    {SMEARED: 0.5, BY_DEPTH: 0.5},
    {FLIPS: 0.4, DISYRE: 0.2, BY_DEPTH: 0.4},
)
#: Many anomalies of 3 to 10 mm across in a slice.
SMALL = {"scattered": 1.0}


def candidates(healthy: dict, small: bool) -> dict[str, SliceMethod]:
    """Name → method, each of which is finished in several ways afterwards.

    ``healthy``: (L, rate) → P; ``small``: no sweep.
    """
    methods: dict[str, SliceMethod] = {
        "intensity": Intensity(),
        "autoencoder residual": Reconstruction(),
        "likelihood of the bits": BitLikelihood(),
        "DISYRE, ensembled": Disyre(),
        "DISYRE, step-wise": Disyre(stepwise=True),
        "masked chain L=200 P=0.5 against image": MaskedBernoulli(200, 0.5, 10, "image", "squared"),
        f"{MDPS} t=200, features and pixels": Mdps(200, 40),
        **{
            f"{MDPS} t={t} w={weight} samples={samples}, brighter": Mdps(
                t, t // 4, weight, samples=samples, score_with="brighter", feature_weight=0
            )
            for t, weight, samples in ((300, 0, 2), (500, 0, 2), (500, 1, 2), (500, 30, 2))
        },
    }
    for level, threshold in itertools.product(() if small else LEVELS, THRESHOLDS):
        methods[f"masked chain L={level} P={threshold}"] = MaskedBernoulli(level, threshold, 10, "code", "absolute")
    for (level, rate), threshold in healthy.items():
        name = f"masked chain L={level} P={threshold:.3f}, exceeded by {rate:.1%} of healthy bits"
        methods[name] = MaskedBernoulli(level, threshold, 10, "code", "absolute")
    for score in ("flips", "absolute", "brighter", "both"):
        methods[f"structured flips {score}"] = StructuredFlips(score)
    methods["structured flips both mirrored"] = StructuredFlips("both", mirrored=True)
    methods["structured flips both shifted"] = StructuredFlips("both", shifts=(0, 2))
    return methods


def network_of(weights: str) -> AnomalyNetwork:
    """The network of the main job."""
    parser = ConfigParser()
    parser.read_config(Path(bundle_root()) / "configs" / "inference.json")
    return load_weights(parser.get_parsed_content("network_def"), weights).eval()


def recipe(dataset_dir: str) -> ConfigParser:
    """Of the denoiser, for its data."""
    parser = ConfigParser()
    parser.read_config(Path(bundle_root()) / "configs" / "train_denoiser.json")
    parser.update({"bundle_root": bundle_root(), "dataset_dir": dataset_dir})
    return parser


def validation(dataset_dir: str, every: int, small: bool) -> list[torch.Tensor]:
    """The validation slices: anomalous, mask, healthy, brain, as the training recipe makes them."""
    parser = recipe(dataset_dir)
    if small:
        parser["validate"]["preprocessing"].update(SMALL)
    dataset = parser.get_parsed_content("validate#dataset")
    items = [dataset[i] for i in range(0, len(dataset), every)]
    return [torch.stack([i[key] for i in items]) for key in ("anomalous", "mask", "image", "brain")]


def tumours(dataset_dir: str) -> tuple[torch.Tensor, np.ndarray, np.ndarray, np.ndarray, list[int]]:
    """Slices of the validation patients as they are, their tumour, their brain, which are free of tumour, and how many
    each patient has.
    """
    parser = recipe(dataset_dir)
    preprocessing = parser.get_parsed_content("preprocessing")
    parts: list[list] = [[], [], [], []]
    for case in parser.get_parsed_content("validate#dataset#data"):
        item = preprocessing(dict(case))
        image, label, brain = (np.moveaxis(np.asarray(item[key]), -1, 0) for key in ("image", "label", "brain"))
        free = free_slices(np.moveaxis(label[:, 0] > 0, 0, -1))
        for part, values in zip(parts, (image, label > 0.5, brain > 0.5, free), strict=True):
            part.append(values)
    label, brain, free = (np.concatenate(part) for part in parts[1:])
    return torch.from_numpy(np.concatenate(parts[0])), label, brain, free, [len(p) for p in parts[0]]


def depths(brain: np.ndarray) -> np.ndarray:
    """Below the surface of the brain masks of slices (N, 1, H, W), mm, same shape."""
    return np.moveaxis(depth_in_slices(np.moveaxis(brain[:, 0], 0, -1), (SPACING, SPACING)), -1, 0)[:, None]


def in_batches(slices: torch.Tensor, function: Callable) -> torch.Tensor:
    """``function`` of slices and their numbers, 16 at a time."""
    with torch.no_grad(), autocast(slices.device):
        batches = zip(slices.split(16), torch.arange(len(slices)).split(16), strict=True)
        return torch.cat([function(batch, numbers).float() for batch, numbers in batches])


def healthy_thresholds(network: AnomalyNetwork, healthy: torch.Tensor) -> dict[tuple[int, float], float]:
    """(L, rate) → the P that this share of the bits of healthy codes, noised to L, exceeds."""
    scheduler, found = BernoulliScheduler(), {}
    for level in LEVELS:

        def flips(slices: torch.Tensor, numbers: torch.Tensor, level: int = level) -> torch.Tensor:
            code = SliceMethod.encode(slices, network)
            noisy = scheduler.add_noise(code, SliceNoise(0, numbers)(code), torch.full((len(code),), level))
            kept = noisy == code  # bits that the noise flipped should be found: they are not what P is to spare
            return torch.where(kept, network.flip_probability(noisy, level), torch.nan)

        probability = in_batches(healthy, flips)
        for rate in RATES:
            found[level, rate] = float(np.nanquantile(probability.numpy(), 1 - rate))
    return found


def fusion(
    network: AnomalyNetwork,
    slices: torch.Tensor,
    wanted: np.ndarray,
    inside: np.ndarray,
    healthy: torch.Tensor,
    healthy_inside: np.ndarray,
    counts: Sequence[int] = (),
) -> list[tuple[str, str, float]]:
    """Rows of the fusions, every part calibrated on the healthy slices.

    ``inside``: what of each slice is brain; ``counts``: slices of each patient, to smooth across them.
    """
    values, depth, healthy_depth = {}, depths(inside), depths(healthy_inside)
    for part, method in PARTS.items():

        def finished(batch: torch.Tensor, numbers: torch.Tensor, method: SliceMethod = method) -> torch.Tensor:
            return method.finish(method.score(batch, numbers, network).float(), batch)

        score = [in_batches(x, finished).numpy() for x in (healthy, slices)]
        deep = [healthy_depth[healthy_inside]] if part == BY_DEPTH else None
        values[part] = Calibration.fit([score[0][healthy_inside]], depths=deep)(score[1], depth)
    rows = []
    for shares, across in itertools.product(FUSIONS, ACROSS if counts else ACROSS[:1]):
        fused = sum(share * values[part] for part, share in shares.items())
        if across:
            volumes = np.split(fused, np.cumsum(counts)[:-1])
            fused = np.concatenate([ndimage.gaussian_filter1d(v, across, axis=0, mode="nearest") for v in volumes])
        name = "fusion: " + ", ".join(f"{share:g} {part}" for part, share in shares.items())
        finish = f"across slices by {across:g}" if across else ""
        rows.append((name, finish, average_precision_score(wanted[inside], fused[inside])))
        print(*rows[-1], flush=True)
    return rows


def write(path: Path, rows: list[tuple[str, str, float]], where: str) -> None:
    """The best first."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("method", "finish", f"AUPRC on {where}, in the brain"))
        writer.writerows((a, b, np.round(c, 4)) for a, b, c in sorted(rows, key=lambda r: -r[2]))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset_dir", required=True, help="BIDS root with lesion masks")
    parser.add_argument("--weights", default=str(Path(bundle_root()) / "models" / "model.pt"), help="of the main job")
    parser.add_argument(
        "--prior", default=str(Path(bundle_root()) / "models" / "mdps" / "model.pt"), help="of the prior of MDPS"
    )
    parser.add_argument("--output_dir", type=Path, default=Path(), help="folder of the table (default: this one)")
    parser.add_argument("--on", choices=("all", "small", "tumours"), default="all", help="which anomalies")
    parser.add_argument("--every", type=int, default=4, help="take every n-th slice, except on tumours")


def run(options: argparse.Namespace) -> None:
    set_determinism(0)
    network, small = network_of(options.weights), options.on == "small"
    options.output_dir.mkdir(parents=True, exist_ok=True)
    if options.on == "tumours":
        slices, wanted, inside, free, counts = tumours(options.dataset_dir)
        fused = fusion(network, slices, wanted, inside, slices[free], inside[free], counts)
        write(options.output_dir / "settings_tumours.csv", fused, "tumours of validation patients")
        return
    slices, masks, healthy, brain = validation(options.dataset_dir, options.every, small)
    with_prior = FusedNetwork({"flips": network, "prior": load_weights(SliceUNet(residual=False), options.prior)})
    thresholds = healthy_thresholds(network, healthy)
    inside, wanted = brain.numpy() > 0.5, masks.numpy() > 0
    rows: list[tuple[str, str, float]] = []
    best: dict[str, float] = {}
    for name, method in tqdm(candidates(thresholds, small).items(), disable=None):
        asked = with_prior.eval() if name.startswith(MDPS) else network
        scores = in_batches(slices, lambda *batch, method=method, asked=asked: method.score(*batch, asked))
        variant = copy.copy(method)
        for finish, (variant.smoothing, variant.sharpening) in FINISHES.items():
            done = variant.finish(scores, slices).numpy()
            rows.append((name, finish, average_precision_score(wanted[inside], done[inside])))
            best[name] = max(best.get(name, 0), rows[-1][2])
            print(f"{name}, {finish or 'as it is'}: AUPRC {rows[-1][2]:.4f}", flush=True)
    rows += fusion(network, slices, wanted, inside, healthy, inside)
    write(options.output_dir / f"settings{'_small' * small}.csv", rows, "synthetic anomalies")
    if small:
        return
    grid = np.array([[best[f"masked chain L={level} P={threshold}"] for threshold in THRESHOLDS] for level in LEVELS])
    save_sweep(options.output_dir / "sweep.png", LEVELS, THRESHOLDS, grid, thresholds)
