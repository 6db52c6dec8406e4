"""Write the maps of a case next to each other, on the scan's own grid."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform

from ..cases import stem
from ..errors import ScanError
from ..io.nifti import write_map

__all__ = ["SaveMapsd"]

logger = logging.getLogger(__name__)


class SaveMapsd(MapTransform):
    """Save maps as ``<output_dir>/<name>_<suffix>.nii.gz``, with the shape and the very affine of the scan.

    Args:
        keys: keys of maps (1, X, Y, Z), inverted to the scan's grid.
        output_dir: folder of the results; made when missing.
        suffixes: one a key, without underscore.
        dtypes: NumPy type names on disk, one a key.
        source_key: the scan, for its name and geometry.

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
    ) -> None:
        super().__init__(keys)
        self.output_dir, self.suffixes, self.dtypes, self.source_key = Path(output_dir), suffixes, dtypes, source_key

    def __call__(self, data: Mapping[Hashable, object]) -> dict:
        d = dict(data)
        meta = d[self.source_key].meta
        name = d.get("name") or stem(meta["filename_or_obj"])
        for key, suffix, dtype in self.key_iterator(d, self.suffixes, self.dtypes):
            values = np.asarray(d[key].cpu())[0]
            if values.shape != tuple(meta["spatial_shape"]):
                raise ScanError(meta["filename_or_obj"], f"its map has shape {values.shape}", "Report it")
            path = self.output_dir / f"{name}_{suffix}.nii.gz"
            write_map(path, values, np.asarray(meta["original_affine"]), np.dtype(dtype))
            logger.debug("wrote %s", path)
        return d
