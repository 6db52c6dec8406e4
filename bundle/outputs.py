# SPDX-License-Identifier: Apache-2.0
"""The files that this project writes, one list: by it batches and comparisons name them, and finders leave them out."""

from __future__ import annotations

from pathlib import PurePath

__all__ = [
    "CHANGE",
    "CHANGE_FINDINGS",
    "CHANGE_PICTURE",
    "DICOM_OUTPUTS",
    "EARLIER_MAP",
    "ENFACE",
    "MAP",
    "OUTPUTS",
    "RAW",
    "REGIONS",
    "SIDECAR",
    "is_result",
]

MAP, RAW = "anomaly", "rawscore"  # in the names of files: calibrated, and not
REGIONS = ("brain", "retina")
#: What a case gets: key of the result → ending of its file, BIDS derivatives all, and type on disk. The key of the
#: organ's mask is its name.
OUTPUTS: dict[str, tuple[str, str]] = {
    "pred": ("desc-anomaly_map.nii.gz", "float32"),
    "mask": ("desc-anomaly_mask.nii.gz", "uint8"),
    "{region}": ("desc-{region}_mask.nii.gz", "uint8"),
    "findings": ("desc-anomaly_findings.json", "json"),
    "picture": ("desc-anomaly_picture.png", "png"),
    "sheet": ("desc-anomaly_slices.png", "png"),
}
#: What a volume of pictures gets besides: the pictures seen from the front.
ENFACE = "desc-anomaly_enface.png"
#: What a case that came as DICOM gets besides.
DICOM_OUTPUTS = {
    "pred": "desc-anomaly_map.dcm",
    "mask": "desc-anomaly_seg.dcm",
    "bands": "desc-anomaly_bands.dcm",
    "segments": "desc-anomaly_findings.dcm",
    "report": "desc-anomaly_report.dcm",
}
#: Written last: where it is, and fits, the case is done.
SIDECAR = "desc-anomaly_map.json"
#: What a comparison of two scans writes, on the grid of the later one.
CHANGE = "desc-change_map.nii.gz"
EARLIER_MAP = "desc-earlier_map.nii.gz"
CHANGE_FINDINGS = "desc-change_findings.json"
CHANGE_PICTURE = "desc-change_picture.png"
#: What ``python -m monai.bundle run`` writes: ``suffixes`` of configs/inference.json.
BUNDLE_OUTPUTS = ("anomaly.nii.gz", "anomaly_mask.nii.gz", "{region}_mask.nii.gz")


def _endings() -> tuple[str, ...]:
    files = [
        *(ending for ending, _ in OUTPUTS.values()),
        *(ENFACE, *DICOM_OUTPUTS.values(), SIDECAR, CHANGE, EARLIER_MAP, CHANGE_FINDINGS, CHANGE_PICTURE),
        *BUNDLE_OUTPUTS,
    ]
    named = {PurePath(file).name.partition(".")[0] for file in files}
    regions = {name.format(region=region) for name in named for region in REGIONS}
    return tuple(sorted(f"_{name.replace(MAP, word)}" for name in regions for word in (MAP, RAW)))


_ENDINGS = _endings()


def is_result(stem: str) -> bool:
    """Whether a file is one of these, by its name without the ending."""
    return stem.endswith(_ENDINGS)
