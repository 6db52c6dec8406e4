# SPDX-License-Identifier: Apache-2.0
"""What a label viewer gets instead of the map: it casts to integers, which would turn the map into zeros.

Only MONAI Label asks for it; in `monai.bundle run` the map stays.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

__all__ = ["BANDS", "SHOWN", "ShowAsd", "in_bands"]

#: What may be asked for: ``auto`` is the map where floats are wanted, bands where integers or labels are.
SHOWN = ("auto", "map", "mask", "bands")
#: Labels of the bands from 1 on: each begins so far above the threshold, a decade of the healthy tail apart.
BANDS = {"mild": 0.0, "moderate": 1.0, "strong": 2.0}


def in_bands(anomaly: np.ndarray, threshold: float) -> np.ndarray:
    """Label map of a calibrated map of any shape: 0 below the threshold, then one label a band (`BANDS`); uint8."""
    return np.digitize(anomaly, [threshold + above for above in BANDS.values()]).astype(np.uint8)


class ShowAsd(MapTransform):
    """Replace the map by what is to be shown.

    Args:
        keys: the one key of the map (1, X, Y, Z), calibrated.
        show: one of `SHOWN`, or a sequence of which the first counts (an options panel's list of choices).
        threshold: of mask and bands.
        mask_key: the mask at that threshold.
        findings_key: findings, which go to ``result`` as well, where MONAI Label passes them on as JSON.
        dtype_key: where a request says the type that it casts to.
        label_key: where a request says that the result becomes a label of the data store.

    Raises:
        ValueError: when ``show`` is none of `SHOWN`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        show: str | Sequence[str] = SHOWN,
        threshold: float = 2.0,
        mask_key: str = "mask",
        findings_key: str = "findings",
        dtype_key: str = "result_dtype",
        label_key: str = "save_label",
    ) -> None:
        super().__init__(keys)
        self.show = show if isinstance(show, str) else next(iter(show))
        if self.show not in SHOWN:
            raise ValueError(f"show {self.show!r} is not one of {', '.join(SHOWN)}")
        self.threshold, self.mask_key = float(threshold), mask_key
        self.findings_key, self.dtype_key, self.label_key = findings_key, dtype_key, label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict:
        d = dict(data)
        show = self.show
        if show == "auto":
            whole = np.issubdtype(np.dtype(d.get(self.dtype_key) or "float32"), np.integer)
            show = "bands" if whole or d.get(self.label_key) else "map"
        for key in self.key_iterator(d):
            if show == "mask":
                d[key] = d[self.mask_key]
            elif show == "bands":
                shown = np.where(d[self.mask_key].cpu().numpy() > 0, d[key].cpu().numpy(), 0)
                bands = torch.from_numpy(in_bands(shown, self.threshold))
                d[key] = MetaTensor(bands, meta=d[key].meta)
        if self.findings_key in d:
            d["result"] = d[self.findings_key]
        return d
