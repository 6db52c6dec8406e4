"""What other weights than the bundle's come to: the default and its flips, in units made for those weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from monai.bundle import ConfigParser

from .. import bundle_root
from ..errors import WeightsError
from ..methods.intensity import Intensity
from ..scoring.calibration import read_calibration
from .metrics import Pooled
from .protocol import RATES, RAW, RAW_SMOOTHED, dice, run_methods
from .units import DEFAULT, make_units

__all__ = ["BASELINE", "FLIPS", "Patient", "ensure_units", "figures", "maps_of"]

BASELINE = "intensity, smoothed"
FLIPS = "structured_flips"


class Patient(NamedTuple):
    """A patient's map as it is saved, flat: head voxels, and those of the brain in tumour-free slices."""

    name: str
    scores: np.ndarray
    lesion: np.ndarray
    healthy: np.ndarray


def ensure_units(weights: str | Path, folder: str | Path, dataset_dir: str | Path, split: str | Path) -> ConfigParser:
    """Make the units of the default and its parts for these weights, unless they are there.

    Args:
        weights: of autoencoder and denoiser.
        folder: where the units are kept.
        dataset_dir: of the scans.
        split: whose validation and training patients they are made of.

    Returns:
        the config of the main job with these weights.
    """
    ids = {
        "bundle_root": bundle_root(),
        "dataset_dir": str(dataset_dir),
        "weights": str(weights),
        "calibration": str(Path(folder) / "calibration.json"),
        "network_def#restoration": "$None",  # None itself would be taken for no override
    }
    parser = ConfigParser()
    parser.read_config(Path(bundle_root()) / "configs" / "inference.json")
    parser.update(ids)
    try:
        read_calibration(ids["calibration"], DEFAULT, parser.get_parsed_content("calibrated_weights"))
    except WeightsError:
        make_units(only=(FLIPS, "intensity", DEFAULT), split=str(split), **ids)
    return parser


def maps_of(cases: Sequence[dict], parser: ConfigParser) -> dict[str, list[Patient]]:
    """Maps of patients by the default and by its flips, in units; and the smoothed intensity as it is.

    Args:
        cases: patients with labels.
        parser: the main job, from `ensure_units`.
    """
    network, preprocessing, device = (parser.get_parsed_content(key) for key in ("network", "preprocessing", "device"))
    default = parser.get_parsed_content("inferer")
    methods = {DEFAULT: default, FLIPS: default.methods[FLIPS], BASELINE: Intensity(smoothing=2.0, across=0.7)}
    patients = {}
    for name, kept in run_methods(cases, methods, network, preprocessing, device).items():
        if name in (RAW, RAW_SMOOTHED):
            continue
        units = np.asarray if name == BASELINE else read_calibration(parser.get_parsed_content("calibration"), name)
        columns = zip(kept.names, kept.masked(), kept.lesions, kept.healthy, strict=True)
        patients[name] = [Patient(one, units(s), lesion, units(h)) for one, s, lesion, h in columns]
    return patients


def figures(patients: Sequence[Patient], calibrated: bool) -> Mapping[str, object]:
    """Pooled AUPRC and best Dice; and, of a map in units, Dice at the threshold that 1 % of healthy voxels exceed, and
    how many of these patients do."""
    _, scores, lesions, healthy = zip(*patients, strict=True)
    threshold = -np.log10(RATES[0])
    found, high = np.concatenate(scores) >= threshold, np.concatenate(healthy) >= threshold
    return {
        "patients": len(patients),
        **Pooled.of(scores, lesions).figures(),
        "dice_at_0.01": dice(found, np.concatenate(lesions)) if calibrated else "",
        "reached_rate_0.01": float(high.mean()) if calibrated else "",
    }
