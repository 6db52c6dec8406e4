"""The modalities that come with weights: their configs, and the methods that are calibrated for each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from . import bundle_root
from .errors import FlipmapError

__all__ = ["DEFAULT", "MODALITIES", "Modality", "modality_of"]

DEFAULT = "default"


@dataclass(frozen=True)
class Modality:
    """A row of the table.

    Attributes:
        name: as on the command line.
        config: over configs/inference.json; None for the main job itself.
        methods: names from configs/methods that are calibrated beside the default.
        layout: of the data set that calibrates, see `bundle.datasets.LAYOUTS`.
        split: file in configs/splits, of that data set.
    """

    name: str
    config: str | None
    methods: tuple[str, ...]
    layout: str
    split: str

    def configs(self, method: str = DEFAULT) -> list[Path]:
        """Config files of a method, later ones over earlier ones.

        Raises:
            FlipmapError: on a method that configs/methods has not.
        """
        known = (DEFAULT, *sorted(path.stem for path in (Path(bundle_root()) / "configs" / "methods").glob("*.json")))
        if method not in known:
            raise FlipmapError(method, "no method of that name", f"Choose from {', '.join(known)}")
        names = ["inference.json", self.config, None if method == DEFAULT else f"methods/{method}.json"]
        return [Path(bundle_root()) / "configs" / name for name in names if name]

    def calibrates(self, method: str) -> bool:
        """Whether a method ships with a calibration for this modality."""
        return method in (DEFAULT, *self.methods)

    @property
    def split_path(self) -> Path:
        """Of the split file."""
        return Path(bundle_root()) / "configs" / "splits" / self.split


MODALITIES = {
    modality.name: modality
    for modality in (
        Modality(
            "flair",
            None,
            (
                "brighter",
                "darker",
                "disyre",
                "intensity",
                "masked_bernoulli",
                "mdps",
                "reconstruction",
                "structured_flips",
            ),
            "bids_lesion",
            "lgg_flair.json",
        ),
        Modality("oct", "oct.json", ("masked_bernoulli", "reconstruction"), "oct", "oct.json"),
    )
}


def modality_of(name: str) -> Modality:
    """The modality of a name.

    Raises:
        FlipmapError: when there is none.
    """
    if name not in MODALITIES:
        raise FlipmapError(name, "not a known modality", f"Choose from {', '.join(MODALITIES)}")
    return MODALITIES[name]
