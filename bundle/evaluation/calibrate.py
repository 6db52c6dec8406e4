# SPDX-License-Identifier: Apache-2.0
"""Calibrations made anew, after a training or a change of settings: every method of a modality, the parts of the fusion
before it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.inferers import Inferer

from ..arguments import check_settings
from ..datasets import cropped_cases, shipped_split, training_cases
from ..errors import DatasetError, FlipmapError
from ..methods.base import SliceMethod
from ..methods.fused import Fused, part_entry, remembers_training
from ..modalities import DEFAULT, Modality, modality_of
from ..model_files import made_models_dir, own_file, refuse_shipped
from ..paths import bundle_root
from ..scoring.calibration import Calibration, weights_hash, write_calibration
from ..scoring.description import describe
from ..threads import limit_threads
from .images import healthy_images
from .protocol import RATES, run_methods

__all__ = ["PERCENTILE", "calibrate", "rates_left_out"]

logger = logging.getLogger(__name__)

PERCENTILE = 0.8  # of the bootstrap over patients
LEAST_PATIENTS, FEW_PATIENTS = 2, 10  # that calibrate: fewer are refused, and remarked
PARTS = ("training", "validation")  # of a split, that calibrate


@dataclass(frozen=True)
class Healthy:
    """Healthy voxels of patients: raw scores and, for a brain, depths below its surface in mm, an array a patient."""

    scores: Sequence[np.ndarray]
    depths: Sequence[np.ndarray] | None = None

    def __add__(self, more: Healthy) -> Healthy:
        depths = None if self.depths is None or more.depths is None else [*self.depths, *more.depths]
        return Healthy([*self.scores, *more.scores], depths)


def calibrate(
    dataset_dir: str | Path,
    modality: str = "flair",
    only: Sequence[str] = (),
    split: str | Path | None = None,
    percentile: float | None = PERCENTILE,
    cropped_dirs: Sequence[str | Path] = (),
    healthy_dirs: Sequence[str | Path] = (),
    models_dir: str | Path | None = None,
    overwrite_shipped: bool = False,
    **settings: Any,
) -> None:
    """Make calibrations on healthy slices, and write them into the calibration file of the config.

    Patients who trained nothing calibrate (``validation`` of the split). Those who trained stand beside them where
    that is no matter: where the method does not remember them (`SliceMethod.remembers_training`), and in the fusion,
    which takes the scores of its networks on patients that these remember in calibrations of their own.

    Args:
        dataset_dir: of the scans.
        modality: of `bundle.modalities.MODALITIES`.
        only: methods, `DEFAULT` for the default; by default all that have a calibration.
        split: split file; by default that of the modality, or a hash of names where it knows nobody
            (`bundle.datasets.shipped_split`).
        percentile: see `Calibration.fit`.
        cropped_dirs: folders of further normal B-scans (`bundle.datasets.cropped_cases`), each counted as a patient.
            They bring the parts of the fusion to one scale; for the rates of its map they do not count, since nobody
            runs scans of which the size was lost.
        healthy_dirs: BIDS roots of healthy people's scans of the same contrast, of whom the ``healthy_split`` of the
            modality says who calibrates; they count as patients.
        models_dir: folder of weights and calibrations of one's own, which gets them (`bundle.model_files`); made as
            needed.
        overwrite_shipped: replace calibrations that ship with flipmap.
        settings: ids of the configs to set, ``weights`` and ``tables`` for instance.

    Raises:
        FlipmapError: on an unknown modality or method.
        OutputError: when they would replace those that ship, and were not to.
        DatasetError: when the split does not fit the data set, or leaves a single patient to calibrate on.
    """
    known = modality_of(modality)
    if percentile is not None and not 0 < percentile < 1:
        raise FlipmapError(f"percentile {percentile:g}", "not between 0 and 1", "Give 0.8, for instance")
    for method in only or (DEFAULT, *known.methods):
        parser = ConfigParser()
        parser.read_config([str(path) for path in known.configs(method)])
        check_settings(settings, parser.get())
        parser.update({"bundle_root": bundle_root(), "precision": "float32", **settings})
        _write_to(parser, models_dir, overwrite_shipped)
        if (threads := parser.get_parsed_content("threads")) is not None:
            limit_threads(threads)
        split_path = split or shipped_split(dataset_dir, known.layout, known.suffix, known.split_path)
        cases = {part: _cases(known, dataset_dir, part, split_path, healthy_dirs) for part in PARTS}
        further = {part: cropped_cases(cropped_dirs, part) for part in PARTS}
        ours = _Calibration(parser, known, cases, further, percentile)
        if "methods" in parser["inferer"]:
            ours.fusion()
        else:
            ours.single(parser.get_parsed_content("inferer"))


def _write_to(parser: ConfigParser, models_dir: str | Path | None, overwrite: bool) -> None:
    """Set where calibrations are read and written."""
    if models_dir is not None:
        parser.update({"models_dir": made_models_dir(models_dir)})
        parser.update({"tables": str(own_file(models_dir, parser.get_parsed_content("tables")))})
    refuse_shipped(parser.get_parsed_content("tables"), overwrite)


def _cases(
    modality: Modality, root: str | Path, part: str, split: str | Path | None, healthy_dirs: Sequence[str | Path]
) -> list[dict]:
    cases = training_cases(root, part, modality.layout, split, modality.suffix)
    for folder in healthy_dirs:
        dealt = shipped_split(folder, "bids", modality.suffix, modality.healthy_split_path)
        cases += training_cases(folder, part, "bids", dealt, modality.suffix)
    return cases


class _Calibration:
    """One method's, from its config."""

    def __init__(
        self,
        parser: ConfigParser,
        modality: Modality,
        cases: Mapping[str, Sequence[dict]],
        further: Mapping[str, Sequence[dict]],
        percentile: float | None,
    ) -> None:
        self.parser, self.modality, self.percentile = parser, modality, percentile
        self.cases, self.further = cases, further
        self.network, self.preprocessing, self.device = (
            parser.get_parsed_content(key) for key in ("network", "preprocessing", "device")
        )

    def healthy(self, part: str, methods: Mapping[str, Inferer], all_of_it: bool = False) -> dict[str, Healthy]:
        """What each method gives in the healthy voxels of the patients of a part of the split; with the further ones
        if ``all_of_it``.
        """
        cases = [*self.cases[part], *(self.further[part] if all_of_it else ())]
        asked = (self.network, self.preprocessing, self.device)
        if not self.modality.axial:
            region = self.parser["region"]
            return {name: Healthy(healthy_images(cases, method, *asked, region)) for name, method in methods.items()}
        kept = run_methods(cases, methods, *asked)
        return {name: Healthy(kept[name].healthy, kept[name].depths) for name in methods}

    def single(self, method: SliceMethod) -> None:
        """A method that stands alone."""
        voxels = self.healthy("validation", {"": method})[""]
        if not method.remembers_training:
            voxels = self.healthy("training", {"": method})[""] + voxels
        self.write(self.parser["method"], method, voxels, alike=not self.modality.axial)

    def write(self, entry: str, method: Inferer, voxels: Healthy, by_depth: bool = False, alike: bool = False) -> None:
        """Fit and write an entry. How many pictures there are of a patient is chance: ``alike`` lets each patient count
        as one.
        """
        path = self.parser.get_parsed_content("tables")
        count = sum(np.size(one) > 0 for one in voxels.scores)
        if count < LEAST_PATIENTS:
            reason = f"{entry} would be calibrated on {count} patient{'s' * (count != 1)} with healthy tissue"
            remedy = f"Give {LEAST_PATIENTS} or more: rates of one say nothing of others (--split, or more scans)"
            raise DatasetError("the calibration", reason, remedy)
        if count < FEW_PATIENTS:
            logger.warning("%s: only %d patients calibrate it; on others its rates may be far off", entry, count)
        calibration = Calibration.fit(
            voxels.scores,
            weights_hash(*self.parser.get_parsed_content("calibrated_weights")),
            describe(preprocessing=self.preprocessing, inferer=method),
            self.percentile,
            voxels.depths if by_depth else None,
            alike,
        )
        write_calibration(path, entry, calibration)
        for number, rates in enumerate(rates_left_out(voxels.scores, self.percentile, alike), 1):
            said = ", ".join(f"{rate:g} became {reached:.5f}" for rate, reached in rates.items())
            logger.info("  %s without patient %d: there %s", entry, number, said)
        logger.info(
            "%s calibrated on %d voxels of %d patients → %s", entry, calibration.voxels, calibration.patients, path
        )

    def fusion(self) -> None:
        """The parts, then the whole."""
        parts, seen = {name: _Remembering(part) for name, part in self._parts()}, {}
        others, trained = (self.healthy(part, parts, all_of_it=True) for part in ("validation", "training"))
        for name, part in parts.items():
            if not remembers_training(part.method):
                self.write(part_entry(name), part.method, trained[name] + others[name], by_depth=True)
                continue
            self.write(part_entry(name), part.method, others[name])
            if self.modality.training_calibrates:
                seen[name] = part_entry(name, seen=True)
                self.write(seen[name], part.method, trained[name])
        fused: Fused = self.parser.get_parsed_content("inferer")
        voxels = self.healthy("validation", {"": fused.asking(parts)})[""]
        if self.modality.training_calibrates:
            remembered = fused.with_entries(seen).asking(parts)
            voxels = voxels + self.healthy("training", {"": remembered})[""]
        self.write(self.parser["method"], fused, voxels, alike=not self.modality.axial)

    def _parts(self) -> Iterator[tuple[str, Inferer]]:
        methods: Mapping[str, object] = self.parser["inferer"]["methods"]
        for name in methods:
            yield name, self.parser.get_parsed_content(f"inferer#methods#{name}")


def rates_left_out(
    healthy: Sequence[np.ndarray], percentile: float | None, alike: bool = False
) -> list[dict[float, float]]:
    """What the rates become on each patient where the others alone calibrate: what to expect on a new one.

    Args:
        healthy: raw scores of healthy voxels, an array a patient.
        percentile, alike: see `Calibration.fit`.

    Returns:
        promised rate → the one reached, a mapping a patient; empty where there are fewer than three.
    """
    patients = [one for one in healthy if np.size(one)]
    if len(patients) < 3:
        return []
    rates = []
    for number, one in enumerate(patients):
        others = Calibration.fit([*patients[:number], *patients[number + 1 :]], percentile=percentile, alike=alike)
        rates.append({rate: float((one >= others.threshold(rate)).mean()) for rate in RATES})
    return rates


class _Remembering(Inferer):
    """A method that scores no volume twice: the fusion asks for what its parts have been asked for."""

    def __init__(self, method: Inferer) -> None:
        self.method = method
        self.known: dict[bytes, torch.Tensor] = {}

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """See `bundle.methods.base.SliceMethod`."""
        key = hashlib.sha256(np.ascontiguousarray(inputs.cpu().numpy()).tobytes()).digest()
        if key not in self.known:
            self.known[key] = self.method(inputs, network)
        return self.known[key]
