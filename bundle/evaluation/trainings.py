# SPDX-License-Identifier: Apache-2.0
"""Evaluate alternative weights: the default and its flips, each with a calibration for those weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.bundle import ConfigParser

from ..errors import WeightsError
from ..io.files import whole_file
from ..methods.intensity import Intensity
from ..modalities import DEFAULT, modality_of
from ..paths import bundle_root
from ..scoring.calibration import read_calibration
from .calibrate import calibrate
from .metrics import Pooled
from .protocol import RATES, RAW, RAW_SMOOTHED, dice, run_methods

__all__ = ["BASELINE", "FLIPS", "Patient", "ensure_calibration", "figures", "maps_of"]

BASELINE = "intensity, smoothed"
FLIPS, FUSED = "structured_flips", "fused"
LESIONS = "lesions."  # begins the weights of the UNet of synthetic lesions


class Patient(NamedTuple):
    """A patient's map as it is saved, flat: head voxels, and those of the brain in tumour-free slices."""

    name: str
    scores: np.ndarray
    lesion: np.ndarray
    healthy: np.ndarray


def ensure_calibration(
    weights: str | Path, folder: str | Path, dataset_dir: str | Path, split: str | Path | None
) -> ConfigParser:
    """Calibrate the default, its parts and its flips for these weights, unless that is done.

    Weights without a UNet of synthetic lesions, as the recipe of the denoiser leaves them, get that of the bundle.

    Args:
        weights: of autoencoder and denoiser.
        folder: where the calibrations are kept.
        dataset_dir: of the scans.
        split: whose validation and training patients they are made of; None for a hash of names.

    Returns:
        the config of the main job with these weights.
    """
    ids: dict[str, Any] = {
        "weights": str(_with_lesions(Path(weights), Path(folder))),
        "tables": str(Path(folder) / "calibration.json"),
        "network_def#restoration": "$None",  # None itself would be taken for no override
    }
    parser = ConfigParser()
    parser.read_config(Path(bundle_root()) / "configs" / "inference.json")
    parser.update({"bundle_root": bundle_root(), **ids})
    try:
        read_calibration(ids["tables"], parser["method"], parser.get_parsed_content("calibrated_weights"))
    except WeightsError:
        calibrate(dataset_dir, only=(FLIPS, DEFAULT), split=split, **ids)
    return parser


def _with_lesions(weights: Path, folder: Path) -> Path:
    """The weights, or a file beside the calibrations that has what they lack."""
    joined = folder / "model.pt"
    if joined.exists() and joined.stat().st_mtime_ns > weights.stat().st_mtime_ns:
        return joined
    state = torch.load(weights, map_location="cpu", weights_only=True)
    if any(key.startswith(LESIONS) for key in state):
        return weights
    shipped = torch.load(Path(bundle_root()) / "models" / "model.pt", map_location="cpu", weights_only=True)
    with whole_file(joined) as temporary:
        torch.save(state | {key: value for key, value in shipped.items() if key.startswith(LESIONS)}, temporary)
    return joined


def maps_of(cases: Sequence[dict], parser: ConfigParser) -> dict[str, list[Patient]]:
    """Maps of patients by the default and by the flips, calibrated; and the smoothed intensity as it is.

    Args:
        cases: patients with labels.
        parser: the main job, from `ensure_calibration`.
    """
    network, preprocessing, device = (parser.get_parsed_content(key) for key in ("network", "preprocessing", "device"))
    default = parser.get_parsed_content("inferer")
    flips = ConfigParser()
    flips.read_config([str(path) for path in modality_of("flair").configs(FLIPS)])
    methods = {
        FUSED: default,
        FLIPS: flips.get_parsed_content("inferer"),
        BASELINE: Intensity(smoothing=2.0, across=0.7),
    }
    patients = {}
    for name, kept in run_methods(cases, methods, network, preprocessing, device).items():
        if name in (RAW, RAW_SMOOTHED):
            continue
        known = np.asarray if name == BASELINE else read_calibration(parser.get_parsed_content("calibration"), name)
        columns = zip(kept.names, kept.masked(), kept.lesions, kept.healthy, strict=True)
        patients[name] = [Patient(one, known(s), lesion, known(h)) for one, s, lesion, h in columns]
    return patients


def figures(patients: Sequence[Patient], calibrated: bool) -> Mapping[str, object]:
    """Pooled AUPRC and best Dice; and, of a calibrated map, Dice at the threshold that 1 % of healthy voxels exceed,
    and how many of these patients do.
    """
    _, scores, lesions, healthy = zip(*patients, strict=True)
    threshold = -np.log10(RATES[0])
    found, high = np.concatenate(scores) >= threshold, np.concatenate(healthy) >= threshold
    return {
        "patients": len(patients),
        **Pooled.of(scores, lesions).figures(),
        "dice_at_0.01": dice(found, np.concatenate(lesions)) if calibrated else "",
        "reached_rate_0.01": float(high.mean()) if calibrated else "",
    }
