# SPDX-License-Identifier: Apache-2.0
"""The main job of a config, loaded once and asked many times: a scan in, its map, mask, brain and findings out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, apply_transform

from ..arguments import check_settings
from ..errors import cause_of
from ..modalities import Modality, modality_of
from ..paths import __version__, bundle_root
from ..scoring.calibration import RAW_UNITS, UNITS, Calibrated, is_uncalibrated, read_calibration
from ..scoring.findings import FindFindingsd
from ..scoring.odds import FindingOdds, odds_beside
from ..threads import ARITHMETIC, limit_threads

__all__ = ["Job"]

SETTINGS = (
    "modality",
    "region",
    "method",
    "suffix",
    "threshold",
    "smoothing_mm",
    "min_finding_ml",
    "false_findings",
    "precision",
)
RATES = (0.1, 0.01, 0.001, 0.0001)  # of healthy voxels: what the values 1 to 4 of a map stand for
#: Ids of the config that say where and how, not what.
BESIDE_THE_POINT = {
    *("imports", "bundle_root", "models_dir", "dataset_dir", "output_dir", "brain_masks"),
    *("device", "num_workers", "threads"),
    *("dataset", "dataloader", "handlers", "evaluator", "initialize", "run"),
    *("weights", "brain_weights", "calibrated_weights", "calibration", "tables", "odds"),
}
WRITERS = "bundle.pipeline.save."  # transforms that write files; a job leaves that to who asks it


class Job:
    """What ``python -m monai.bundle run --config_file configs/inference.json`` does to one scan, without files.

    Its three steps may run in different threads at once, each on another scan. For that what can be inverted in the
    preprocessing allows missing keys: MONAI's Invertd would set it to while it inverts, in all threads.

    Args:
        config_files: as for ``--config_file``; later ones override earlier ones.
        settings: ids of the config and their values, as on the command line.

    Raises:
        FlipmapError: on a setting that the config has not.
        WeightsError: when weights or calibration are missing or do not belong together.
    """

    def __init__(self, config_files: Sequence[str | Path] = (), **settings: Any) -> None:
        self.config = ConfigParser()
        files = list(config_files) or [Path(bundle_root()) / "configs" / "inference.json"]
        self.config.read_config([str(path) for path in files])
        check_settings(settings, self.config.get())
        self.config.update({"bundle_root": bundle_root(), **settings})
        # Through the parser, which forgets what it has resolved: a list changed in place would not be seen again.
        transforms = self.config["postprocessing#transforms"]
        self.config["postprocessing#transforms"] = [t for t in transforms if not _writes(t)]
        try:
            self._load()
        except Exception as error:  # MONAI wraps what its components raise
            if (cause := cause_of(error)) is None:
                raise
            raise cause from error

    def _load(self) -> None:
        if (threads := self.config.get_parsed_content("threads")) is not None:
            limit_threads(threads)
        self.network = self.config.get_parsed_content("network").eval()
        self.device = torch.device(self.config.get_parsed_content("device"))
        self.preprocessing = self.config.get_parsed_content("preprocessing")
        self.inferer = self.config.get_parsed_content("inferer")
        self.postprocessing = self.config.get_parsed_content("postprocessing")

    @cached_property
    def modality(self) -> Modality:
        """What its scans are."""
        return modality_of(self.config.get_parsed_content("modality"))

    @property
    def search(self) -> dict[str, Any]:
        """Settings of the finder of its scans, see `bundle.datasets.find_modality`."""
        return {key: self.config.get_parsed_content(key) for key in self.modality.found_by}

    @property
    def series(self) -> str | None:
        """Regular expression of the descriptions of DICOM series that it is for; None where it reads none."""
        return self.modality.series

    @property
    def region(self) -> str:
        """The organ that a map is about, and the key of its mask."""
        return self.config.get_parsed_content("region")

    def read(self, case: Mapping[str, object]) -> MetaTensor:
        """The scan of a case as it is, (C, X, Y, Z): what the first transform of the preprocessing gives."""
        return self.preprocessing.transforms[0]({k: v for k, v in case.items() if k != self.region})["image"]

    @property
    def settings(self) -> dict:
        """What the map depends on and a user can set, plain values."""
        return {key: self.config.get_parsed_content(key) for key in SETTINGS}

    @property
    def uncalibrated(self) -> bool:
        """Whether its maps are raw scores."""
        return is_uncalibrated(self.config.get_parsed_content("calibration"))

    @property
    def units(self) -> str:
        """Of its maps, in words."""
        return RAW_UNITS if self.uncalibrated else UNITS

    @property
    def calibration_points(self) -> dict[str, object] | None:
        """What the values of its maps mean: contrast, healthy voxels and patients behind them, the bootstrap
        percentile, where the table ends, and the raw score at which each rate is reached; None where the maps are raw
        scores.
        """
        if self.uncalibrated:
            return None
        path, method = (self.config.get_parsed_content(key) for key in ("calibration", "method"))
        known = read_calibration(path, method)
        points = [(value, rate, known.threshold(rate)) for value, rate in enumerate(RATES, start=1)]
        return {
            "contrast": self.modality.suffix,
            "voxels": known.voxels,
            "patients": known.patients,
            "percentile": known.percentile,
            "end": known.end,
            "points": [point for point in points if point[0] <= known.end],
        }

    @cached_property
    def odds(self) -> FindingOdds | None:
        """Of the findings of its maps; None where there are none for its calibration and threshold."""
        return next(one.odds for one in self.postprocessing.transforms if isinstance(one, FindFindingsd))

    @property
    def healthy_case_scores(self) -> dict | None:
        """Case scores of healthy tissue: ``scores``, a number a scan, and ``what`` in words; None without odds."""
        if self.odds is None:
            return None
        what = f"people who trained nothing, from {len(self.odds.tissue)} places; of ill ones the tissue without lesion"
        return {"scores": list(self.odds.healthy_scores), "what": what}

    @property
    def calibration_hash(self) -> str:
        """Of the calibration of its method."""
        path, method = (self.config.get_parsed_content(key) for key in ("calibration", "method"))
        return read_calibration(path, method).hash

    def calibrated(self, scores: np.ndarray) -> np.ndarray:
        """Raw scores of its method, of any shape, as its maps have them."""
        if self.uncalibrated:
            return scores
        path, method = (self.config.get_parsed_content(key) for key in ("calibration", "method"))
        return read_calibration(path, method)(scores)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything but the scan that the outputs depend on: config, weights, calibration, version."""
        raw = {key: value for key, value in self.config.get().items() if key not in BESIDE_THE_POINT}
        digest = hashlib.sha256(json.dumps([raw, str(self.device), __version__], sort_keys=True, default=str).encode())
        digest.update(self.units.encode())
        weights, tables = (self.config.get_parsed_content(key) for key in ("calibrated_weights", "tables"))
        used = tables if self.uncalibrated else self.config.get_parsed_content("calibration")
        own = [self.config.get_parsed_content("contrast_weights")] if self.config.get("models_dir") else []
        odds = [path for path in [odds_beside(tables)] if path.exists()]
        for path in dict.fromkeys((*weights, tables, used, *own, *odds)):
            digest.update(Path(path).read_bytes())
        return digest.hexdigest()

    def __call__(self, case: Mapping[str, object]) -> dict:
        """Map one scan.

        Args:
            case: ``image``, a path or a tensor from `bundle.io.nifti.scan_from_array`; ``brain``, a mask, if there is
                one.

        Returns:
            the case with ``pred`` (calibrated map), ``mask`` and the mask of the organ, each (1, X, Y, Z) on the
            scan's own grid, and ``findings``.
        """
        return self.finish(self.infer(self.prepare(case)))

    def prepare(self, case: Mapping[str, object]) -> dict:
        """Read and bring to the model's grid: work of the CPU and the disk."""
        loading, *rest = self.preprocessing.transforms
        # A file that cannot be read to its end keeps no thread from computing.
        item = apply_transform(loading, dict(case))
        with ARITHMETIC.turn():
            return Compose(rest)(item)

    def infer(self, item: dict) -> dict:
        """Score: work of the device."""
        with torch.no_grad():
            return {**item, "pred": self.inferer(item["image"][None].to(self.device), self.network)[0].cpu()}

    def conclude(self, item: dict, end: float) -> dict:
        """Mask and findings of a calibrated map that is on the scan's own grid already.

        Args:
            item: ``pred`` and the mask of the organ, (1, X, Y, Z).
            end: the highest value that the calibration of the map knows.
        """
        transforms = self.postprocessing.transforms
        after = next(n for n, one in enumerate(transforms, 1) if isinstance(one, Calibrated))
        with ARITHMETIC.turn():
            return Compose(transforms[after:])({**item, "units": UNITS, "table_end": end})

    def finish(self, item: dict) -> dict:
        """Back to the scan's own grid, calibrated, with mask and findings: work of the CPU."""
        with ARITHMETIC.turn():
            return self.postprocessing(item)


def _writes(transform: object) -> bool:
    return isinstance(transform, Mapping) and str(transform.get("_target_", "")).startswith(WRITERS)
