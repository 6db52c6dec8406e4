"""flipmap: anomaly maps of medical images, learned from healthy scans alone."""

__all__ = ["__version__", "bundle_root"]

__version__ = "0.1.0"


def bundle_root() -> str:
    """Folder of the MONAI bundle: it holds configs/ and models/."""
    from pathlib import Path

    return str(Path(__file__).resolve().parent.parent)
