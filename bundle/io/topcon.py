# SPDX-License-Identifier: Apache-2.0
"""Topcon's .fda: chunks with names, of which the B-scans and the size of the scan are read.

After the description of the format by the uocte project, and as oct-converter takes it, whose own reader asks NumPy for
what it no longer has.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["read_fda"]

HEADER = 15  # bytes: FOCT, kind of file, version
#: Chunk → where in it the size of the scan stands: x and y in mm, depth of a row in µm.
SIZES = {b"@PARAM_SCAN_04": 12, b"@PARAM_SCAN_02": 21}


def read_fda(path: str | Path) -> tuple[np.ndarray, list[float] | None]:
    """The first volume of a file.

    Returns:
        B-scans (Z, Y, X), and the voxel size along X, Y and Z in µm where the file says it.

    Raises:
        ValueError: when it is no such file, is cut short, or holds no B-scans.
    """
    content = Path(path).read_bytes()
    if not content.startswith(b"FOCT"):
        raise ValueError("it does not begin with FOCT")
    chunks: dict[bytes, bytes] = {}
    for name, chunk in _chunks(content):
        chunks.setdefault(name, chunk)
    if b"@IMG_JPEG" in chunks:
        bscans = _read_compressed(chunks[b"@IMG_JPEG"])
    elif b"@IMG_MOT_COMP_03" in chunks:
        bscans = _plain(chunks[b"@IMG_MOT_COMP_03"])
    else:
        raise ValueError("no B-scans in it")
    return bscans, _voxel_um(chunks, bscans.shape)


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = HEADER
    while at < len(content) and (length := content[at]):
        name = content[at + 1 : at + 1 + length]
        at += 1 + length
        (size,) = _unpack("<I", content, at)
        at += 4
        if at + size > len(content):
            raise ValueError(f"its chunk {name.decode('latin-1')} is cut short")
        yield name, content[at : at + size]
        at += size


def _read_compressed(chunk: bytes) -> np.ndarray:
    """B-scans as JPEG 2000, one after the other."""
    width, height, count = _unpack("<3I", chunk, 9)
    at = 25
    bscans: list[np.ndarray] = []
    while len(bscans) < count:
        (size,) = _unpack("<I", chunk, at)
        bscan = np.asarray(Image.open(io.BytesIO(chunk[at + 4 : at + 4 + size])), dtype=np.float32)
        if bscan.shape != (height, width):
            raise ValueError(f"a B-scan of shape {bscan.shape} where {(height, width)} is announced")
        bscans.append(bscan)
        at += 4 + size
    return np.stack(bscans)


def _plain(chunk: bytes) -> np.ndarray:
    """B-scans as 16-bit numbers, row by row."""
    width, height, _, count = _unpack("<4I", chunk, 1)
    pixels = width * height * count
    if len(chunk) - 22 < 2 * pixels:
        raise ValueError("fewer pixels than are announced")
    return np.frombuffer(chunk, "<u2", pixels, 22).reshape(count, height, width).astype(np.float32)


def _voxel_um(chunks: dict[bytes, bytes], shape: tuple[int, ...]) -> list[float] | None:
    for name, at in SIZES.items():
        if name in chunks:
            along_mm, across_mm, row_um = _unpack("<3d", chunks[name], at)
            return [1000 * along_mm / shape[2], row_um, 1000 * across_mm / shape[0]]
    return None


def _unpack(layout: str, content: bytes, at: int) -> tuple:
    try:
        return struct.unpack_from(layout, content, at)
    except struct.error as error:
        raise ValueError("cut short") from error
