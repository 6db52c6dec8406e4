"""flipmap: anomaly maps of medical images, learned from healthy scans alone."""

__version__ = "0.1.0"
