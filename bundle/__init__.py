# SPDX-License-Identifier: Apache-2.0
"""flipmap: anomaly maps of medical images, learned from healthy scans alone."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from .paths import __version__, bundle_root, default_config

if TYPE_CHECKING:
    import numpy as np

    from .pipeline.job import Job

__all__ = ["__version__", "bundle_root", "default_config", "predict"]


def predict(
    array: np.ndarray,
    affine: np.ndarray | None = None,
    spacing: tuple[float, float, float] | None = None,
    **settings: Any,
) -> np.ndarray:
    """The anomaly map of a scan in memory: no file is read but the weights, none is written.

    Args:
        array: the scan (X, Y, Z), any real numbers.
        affine: voxel → world (RAS+), 4 x 4, mm. Without it the axes are taken to run to the right, the front and the
            top, as in NIfTI.
        spacing: voxel size, mm, where there is no affine; 1 mm by default.
        settings: ids of ``configs/inference.json`` and their values, as JSON has them (``device="cpu"``,
            ``precision="float32"``, ``threads=1`` …).

    Returns:
        float32 (X, Y, Z): −log10 of the healthy tail probability, or raw scores with ``calibration="none"``; zero
        outside the brain.

    Raises:
        ScanError: when the array is no scan.
        FlipmapError: on a setting that there is not.
        WeightsError: when the weights cannot be used, or were calibrated with other settings.
    """
    import json

    import numpy as np

    from .io.nifti import scan_from_array
    from .pipeline.dataset import explain
    from .threads import limit_threads

    if affine is None:
        affine = np.diag([*(spacing or (1.0, 1.0, 1.0)), 1.0])
    case = {"image": scan_from_array(array, affine), "name": "array"}
    limit_threads(settings.get("threads"))
    try:
        return np.asarray(_job(json.dumps(settings, sort_keys=True))(case)["pred"][0].cpu(), dtype=np.float32)
    except Exception as error:
        raise explain(error, {"image": "array"}) from error


@lru_cache(maxsize=2)
def _job(settings: str) -> Job:
    """Loaded once for the same settings, given as JSON."""
    import json

    from .pipeline.contrasts import job_of_any_contrast

    return job_of_any_contrast(**json.loads(settings))
