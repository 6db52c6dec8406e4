"""flipmap: anomaly maps of medical images, learned from healthy scans alone."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from .batch.job import Job

__all__ = ["__version__", "bundle_root", "predict"]

__version__ = "0.8.0"


def bundle_root() -> str:
    """Folder of the MONAI bundle: it holds configs/ and models/."""
    from pathlib import Path

    return str(Path(__file__).resolve().parent.parent)


def predict(
    array: np.ndarray,
    affine: np.ndarray | None = None,
    spacing: tuple[float, float, float] | None = None,
    **settings,
) -> np.ndarray:
    """The anomaly map of a scan in memory: no file is read but the weights, none is written.

    Args:
        array: the scan (X, Y, Z), any real numbers.
        affine: voxel → world (RAS+), 4 x 4, mm. Without it the axes are taken to run to the right, the front and the
            top, as in NIfTI.
        spacing: voxel size, mm, where there is no affine; 1 mm by default.
        settings: ids of ``configs/inference.json`` and their values (``device="cpu"``, ``precision="float32"`` …).

    Returns:
        float32 (X, Y, Z): −log10 of the healthy tail probability, zero outside the brain.

    Raises:
        ScanError: when the array is no scan.
        WeightsError: when the weights cannot be used.
    """
    import numpy as np

    from .batch.dataset import explain
    from .io.nifti import scan_from_array

    if affine is None:
        affine = np.diag([*(spacing or (1.0, 1.0, 1.0)), 1.0])
    case = {"image": scan_from_array(array, affine), "name": "array"}
    try:
        return np.asarray(_job(tuple(sorted(settings.items())))(case)["pred"][0].cpu(), dtype=np.float32)
    except Exception as error:
        raise explain(error, {"image": "array"}) from error


@lru_cache(maxsize=2)
def _job(settings: tuple) -> Job:
    """Loaded once for the same settings."""
    from .batch.job import Job

    return Job(**dict(settings))
