# SPDX-License-Identifier: Apache-2.0
"""Write what a case gives: maps on the scan's own grid, and findings beside them."""

from __future__ import annotations

import json
import logging
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform, SaveImaged

from ..cases import stem
from ..errors import ScanError
from ..io.files import whole_file
from ..io.nifti import geometry_of, write_map
from ..outputs import MAP, RAW
from ..scoring.calibration import RAW_UNITS

__all__ = ["MAP", "RAW", "SaveFindingsd", "SaveMapsd", "Saver", "named", "write_json"]

logger = logging.getLogger(__name__)


def named(suffix: str, units: object) -> str:
    """A suffix with the word for what is in the file."""
    return suffix.replace(MAP, RAW) if units == RAW_UNITS else suffix


class Saver(SaveImaged):
    """A transform that writes files. Whoever hands results on instead of saving them (MONAI Label) leaves out what is a
    SaveImaged; that is all that it has in common with one.
    """

    def __init__(self, keys: KeysCollection) -> None:
        MapTransform.__init__(self, keys)


class SaveMapsd(Saver):
    """Save maps as ``<output_dir>/<name>_<suffix>.nii.gz``, with the shape and the very affine of the scan.

    Args:
        keys: keys of maps (1, X, Y, Z), inverted to the scan's grid.
        output_dir: folder of the results; made when missing.
        suffixes: one a key, without underscore.
        dtypes: NumPy type names on disk, one a key.
        source_key: the scan, for its name and geometry.
        units_key: where the units of the maps stand; raw scores are named so in file and header.

    Raises:
        ScanError: when a map is not on the grid of its scan: better none than one in the wrong place.
        OutputError: when a file cannot be written.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | Path,
        suffixes: Sequence[str],
        dtypes: Sequence[str],
        source_key: str = "image",
        units_key: str = "units",
    ) -> None:
        super().__init__(keys)
        self.units_key = units_key
        self.output_dir, self.suffixes, self.dtypes, self.source_key = Path(output_dir), suffixes, dtypes, source_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        d = dict(data)
        meta = d[self.source_key].meta
        name = _name(d, self.source_key)
        for key, suffix, dtype in self.key_iterator(d, self.suffixes, self.dtypes):
            values = np.asarray(d[key].cpu())[0]
            if values.shape != tuple(meta["spatial_shape"]):
                raise ScanError(meta["filename_or_obj"], f"its map has shape {values.shape}", "Report it")
            path = self.output_dir / f"{name}_{named(suffix, d.get(self.units_key))}.nii.gz"
            said = d.get(self.units_key, "") if key == self.keys[0] else ""
            write_map(path, values, dtype=np.dtype(dtype), description=said, **geometry_of(meta))
            logger.debug("wrote %s", path)
        return d


class SaveFindingsd(Saver):
    """Save dictionaries as ``<output_dir>/<name>_<suffix>.json``.

    Args:
        keys: keys of dictionaries that JSON takes.
        output_dir: folder of the results; made when missing.
        suffix: without underscore.
        source_key: the scan, for its name.
        units_key: as in `SaveMapsd`.

    Raises:
        OutputError: when a file cannot be written.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | Path,
        suffix: str = "findings",
        source_key: str = "image",
        units_key: str = "units",
    ) -> None:
        super().__init__(keys)
        self.output_dir, self.suffix, self.source_key = Path(output_dir), suffix, source_key
        self.units_key = units_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        d = dict(data)
        name = _name(d, self.source_key)
        for key in self.key_iterator(d):
            raw = f"{RAW}_" if d.get(self.units_key) == RAW_UNITS else ""
            write_json(self.output_dir / f"{name}_{raw}{self.suffix}.json", {"scan": name, **d[key]})
        return d


def _name(data: Mapping[Hashable, Any], source_key: str) -> str:
    return str(data.get("name") or stem(data[source_key].meta["filename_or_obj"]))


def write_json(path: Path, content: Mapping) -> None:
    """A JSON file, whole or not at all.

    Raises:
        OutputError: when it cannot be written.
    """
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
