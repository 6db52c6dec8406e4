# SPDX-License-Identifier: Apache-2.0
"""The modalities that flipmap knows, a row each: what a scan is, how it is found, what comes with weights for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .cases import find_scans
from .errors import FlipmapError
from .oct_cases import find_oct
from .paths import bundle_root

__all__ = ["DEFAULT", "FLAIR", "MODALITIES", "OCT", "Modality", "method_names", "modality_of"]

DEFAULT = "default"


@dataclass(frozen=True)
class Modality:
    """A row of the table.

    Attributes:
        name: as on the command line, and the id ``modality`` of a config.
        config: over configs/inference.json; None for the main job itself.
        layout: of the data set that calibrates, see `bundle.datasets.LAYOUTS`.
        split: file in configs/splits, of that data set.
        healthy_split: the same, of healthy people who calibrate beside them; None where there are none.
        suffix: of BIDS, of the contrast; None where it is no contrast of brain MRI.
        find: root → scans below it; takes the settings of ``found_by``, too.
        found_by: ids of the config that say which scans are meant.
        axial: whether a scan is a volume that is looked at in axial slices; otherwise its slices are pictures by
            themselves.
        brain_network: whether the brain is found by a network, whose weights belong to the calibration.
        training_calibrates: whether patients who trained count for the rates of the fusion, by tables of their own;
            the others, held out one by one, say whether these make up for what the networks remember
            (docs/decisions/0006-oct-rates.md).
        series: regular expression of DICOM series' descriptions; None where DICOM is read as a file.
        described: what differs from configs/metadata.json in an exported bundle.
        image_format: the same, of the network's input.
    """

    name: str
    config: str | None
    layout: str
    split: str
    healthy_split: str | None = None
    suffix: str | None = None
    find: Callable[..., list[dict]] = find_scans
    found_by: tuple[str, ...] = ("suffix",)
    axial: bool = True
    brain_network: bool = True
    series: str | None = None
    training_calibrates: bool = True
    described: Mapping[str, object] = field(default_factory=dict)
    image_format: Mapping[str, object] = field(default_factory=dict)

    def configs(self, method: str = DEFAULT) -> list[Path]:
        """Config files of a method, later ones over earlier ones.

        Raises:
            FlipmapError: on a method that configs/methods has not.
        """
        known = (DEFAULT, *method_names())
        if method not in known:
            raise FlipmapError(method, "no method of that name", f"Choose from {', '.join(known)}")
        names = ["inference.json", self.config, None if method == DEFAULT else f"methods/{method}.json"]
        return [Path(bundle_root()) / "configs" / name for name in names if name]

    @property
    def entries(self) -> tuple[str, ...]:
        """Of the calibration file that its config names; none where it has no weights yet."""
        from monai.bundle import ConfigParser

        parser = ConfigParser()
        parser.read_config([str(path) for path in self.configs()])
        parser.update({"bundle_root": bundle_root()})
        tables = Path(parser.get_parsed_content("tables"))
        return tuple(json.loads(tables.read_text())) if tables.exists() else ()

    @property
    def methods(self) -> tuple[str, ...]:
        """Those of `method_names` that ship with a calibration for this modality."""
        entries = self.entries
        return tuple(name for name in method_names() if name in entries)

    def calibrates(self, method: str) -> bool:
        """Whether a method ships with a calibration for this modality."""
        return bool(self.entries) if method == DEFAULT else method in self.methods

    @property
    def split_path(self) -> Path:
        """Of the split file."""
        return Path(bundle_root()) / "configs" / "splits" / self.split

    @property
    def healthy_split_path(self) -> Path | None:
        """Of the split file of healthy people."""
        return Path(bundle_root()) / "configs" / "splits" / self.healthy_split if self.healthy_split else None


FLAIR = Modality(
    name="flair",
    config=None,
    layout="bids_lesion",
    split="lgg_flair.json",
    suffix="FLAIR",
    series="flair|dark.?fluid|tirm",  # what descriptions of FLAIR series hold, at most vendors
)
T1W = Modality(
    name="t1w",
    config="t1w.json",
    layout="bids_lesion",
    split="lgg_flair.json",
    healthy_split="healthy_t1w.json",
    suffix="T1w",
    series=r"^(?!.*(gad|\bgd\b|\+c\b|post|contrast|\bce\b)).*(t1|mprage|bravo|tfl)",  # none with contrast agent
    described={
        "task": "Unsupervised anomaly mapping of brain MRI, T1w",
        "description": "Finds what is not normal in a T1w scan of the brain, learned from healthy scans alone.",
        "data_source": "TCGA-LGG (Buda et al. 2019), ds002748, IXI, see docs/data_license.txt",
        "image_classes": "T1w scans of the brain, without contrast agent",
    },
)
T2W = Modality(
    name="t2w",
    config="t2w.json",
    layout="bids",
    split="healthy_t2w.json",
    suffix="T2w",
    series=r"^(?!.*(flair|dark.?fluid|tirm|stir|map|diff|dwi|dti|trace|adc|star|\*)).*t2",  # neither FLAIR nor T2*
    described={
        "task": "Unsupervised anomaly mapping of brain MRI, T2w",
        "description": "Finds what is not normal in a T2w scan of the brain, learned from healthy scans alone.",
        "data_source": "SIAT, CBICA, TCGA-LGG (Buda et al. 2019), ds002748, IXI, see docs/data_license.txt",
        "image_classes": "T2w scans of the brain",
    },
)
OCT = Modality(
    name="oct",
    config="oct.json",
    layout="oct",
    split="oct.json",
    find=find_oct,
    found_by=("stacks",),
    axial=False,
    brain_network=False,
    training_calibrates=False,
    described={
        "task": "Unsupervised anomaly mapping of retinal OCT",
        "description": "Finds what is not normal in a B-scan of the retina.",
        "data_source": "Duke (Fang et al. 2012) and OCT2017 (Kermany et al. 2018), see docs/data_license.txt",
        "image_classes": "B-scans of the retina, vitreous at the top",
    },
    image_format={"modality": "OCT", "channel_def": {"0": "B-scan"}},
)
MODALITIES = {modality.name: modality for modality in (FLAIR, T1W, T2W, OCT)}


def method_names() -> tuple[str, ...]:
    """The methods beside the default: the files of configs/methods."""
    return tuple(sorted(path.stem for path in (Path(bundle_root()) / "configs" / "methods").glob("*.json")))


def modality_of(name: str) -> Modality:
    """The modality of a name.

    Raises:
        FlipmapError: when there is none.
    """
    if name not in MODALITIES:
        raise FlipmapError(name, "not a known modality", f"Choose from {', '.join(MODALITIES)}")
    return MODALITIES[name]
