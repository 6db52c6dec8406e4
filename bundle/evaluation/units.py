"""The units of the maps, made anew after a training: which methods, one after the other, on whose healthy slices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from monai.bundle import run

from .. import bundle_root

__all__ = ["DEFAULT", "UNITS", "Units", "make_units"]


class Units(NamedTuple):
    """A run of ``configs/calibrate.json``: override of the method, further configs, and ids that are set."""

    method: str | None
    configs: tuple[str, ...] = ()
    settings: dict = {}  # noqa: RUF012 - read only


#: Patients who trained nothing calibrate (``validation`` of the split). Those who trained stand beside them where that
#: is no matter: the intensity asks no network, and the default takes their structured flips, which the denoiser
#: remembers, in units of their own. The parts of the default come before it.
UNITS = (
    Units("structured_flips"),
    Units("structured_flips", settings={"parts": ["training"], "entry": "structured_flips_seen"}),
    Units("intensity", settings={"parts": ["training", "validation"], "by_depth": True}),
    Units(None, ("calibrate_seen.json",)),
    Units("reconstruction"),
    Units("masked_bernoulli"),
    Units("disyre"),
    Units("mdps"),
)
DEFAULT = "fused"


def make_units(dataset_dir: str | Path, only: Sequence[str] = (), **settings) -> None:
    """Calibrate methods on healthy slices.

    Args:
        dataset_dir: of the scans.
        only: methods, `DEFAULT` for the default; all by default.
        settings: ids of the configs to set, ``weights`` and ``calibration`` for instance.
    """
    configs = Path(bundle_root()) / "configs"
    for units in UNITS:
        if only and (units.method or DEFAULT) not in only:
            continue
        override = [f"methods/{units.method}.json"] if units.method else []
        files = ["inference.json", *override, "calibrate.json", *units.configs]
        ids = {"bundle_root": bundle_root(), "dataset_dir": str(dataset_dir), **units.settings, **settings}
        run(config_file=[str(configs / name) for name in files], **ids)
