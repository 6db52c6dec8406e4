# SPDX-License-Identifier: Apache-2.0
"""Retinal scans that the tests draw and write themselves, in the formats that cameras and programs write."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from bundle.synthesis.retinas import paint_retina

UM = (11.5, 3.87)


def bscan(seed: int = 0, tilt: float = 0.0, curve: float = 0.0, width: int = 400, height: int = 496, at: float = 0.6):
    """A healthy B-scan as a camera gives it, (rows, columns) bytes, and the row of the curve under its retina.

    Args:
        seed: of everything random.
        tilt: rows from the left edge to the right one.
        curve: rows that the middle lies below the edges.
        width, height: pixels of `UM`.
        at: where the middle of the retina's outer border lies, of the height.
    """
    rng = np.random.RandomState(seed)
    columns = int(np.ceil(width * UM[0] / 24))
    flat, _ = paint_retina(rng, columns)
    x = np.linspace(-1, 1, width)
    base = at * height + tilt * x / 2 - curve * (x**2 - 1 / 3)
    depth = (np.arange(height)[:, None] - base) * UM[1] / 6 + 660 / 6
    across = np.broadcast_to((np.arange(width) + 0.5) * UM[0] / 24 - 0.5, depth.shape)
    light = ndimage.map_coordinates(flat, [across, depth], order=1, mode="nearest")
    light *= np.exp(-np.maximum((depth - len(flat[0])) * 6, 0) / 120)  # the choroid ends
    light = 0.08 + 0.8 * light * (1 + 0.25 * rng.standard_normal(light.shape)) + 0.03 * rng.rand(*light.shape)
    return np.clip(light * 255, 0, 255).astype(np.uint8), base


def save_picture(path: Path, picture: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
    return path


def save_vol(path: Path, bscans: np.ndarray, scale_mm: tuple[float, float, float]) -> Path:
    """Heidelberg's .vol by the format that eyepy reads; ``bscans``: (Z, Y, X) in [0, 1], stored as its raw values."""
    from eyepy.io.he.vol_reader import vol_format

    count, height, width = bscans.shape
    header = 256
    one = {
        "version": "HSF-OCT-103", "bscan_hdr_size": header, "start_x": 0.0, "start_y": 0.0,
        "end_x": width * scale_mm[0], "end_y": 0.0, "num_seg": 0, "seg_offset": 256, "quality": 30.0, "shift": 0,
        "iv_transformation": [0.0] * 6, "layer_segmentations": np.zeros((0, width), np.float32),
    }  # fmt: skip
    stored = (bscans.astype(np.float32) ** 4).astype(np.float32)
    frames = [{**one, "start_y": z * scale_mm[2], "end_y": z * scale_mm[2], "data": stored[z]} for z in range(count)]
    day = "2000-01-01T00:00:00"
    whole = {
        "version": "HSF-OCT-103", "size_x": width, "n_bscans": count, "size_y": height, "scale_x": scale_mm[0],
        "distance": scale_mm[2], "scale_y": scale_mm[1], "size_x_slo": 64, "size_y_slo": 64, "scale_x_slo": 0.1,
        "scale_y_slo": 0.1, "bscan_hdr_size": header, "scan_pattern": 3, "scan_position": "OD", "exam_time": day,
        "id": "1", "reference_id": "", "dob": day, "visit_date": day, "grid_type": 0, "grid_offset": 0,
        "grid_type1": 0, "grid_offset1": 0, "prog_id": "", "localizer": np.zeros((64, 64), np.uint8), "bscans": frames,
    }  # fmt: skip
    path.write_bytes(_built(vol_format, whole))
    return path


def save_fda(path: Path, bscans: np.ndarray, scale_mm: tuple[float, float, float], compressed: bool = True) -> Path:
    """Topcon's .fda by the uocte project's description; ``bscans``: (Z, Y, X), bytes, or whole numbers in 16 bits."""
    count, height, width = bscans.shape
    size = (scale_mm[0] * width, scale_mm[2] * count, 1000 * scale_mm[1])
    if compressed:
        name, chunk = b"@IMG_JPEG", struct.pack("<B6I", 2, 0, 0, width, height, count, 0)
        for bscan in bscans:
            page = io.BytesIO()
            Image.fromarray(bscan).save(page, format="JPEG2000", irreversible=False)
            chunk += struct.pack("<I", len(page.getvalue())) + page.getvalue()
    else:
        name, pixels = b"@IMG_MOT_COMP_03", bscans.astype("<u2").tobytes()
        chunk = struct.pack("<B4IBI", 2, width, height, 16, count, 0, len(pixels)) + pixels
    scanned = struct.pack("<3I5d2B", 0, 0, 0, *size, 0, 0, 0, 0)
    content = b"FOCTFDA" + struct.pack("<2I", 2, 1)
    for title, part in ((b"@FDA_FILE_INFO", bytes(40)), (b"@PARAM_SCAN_04", scanned), (name, chunk)):
        content += bytes([len(title)]) + title + struct.pack("<I", len(part)) + part
    path.write_bytes(content + b"\0")
    return path


def _built(vol_format, whole: dict) -> bytes:
    """What eyepy's own description of the format makes of it; its dates come out as fractions, which none takes."""
    from eyepy.io import utils

    adapter = type(utils.IntDate)
    encode, adapter._encode = adapter._encode, lambda self, obj, context, path: int(encode(self, obj, context, path))
    try:
        return vol_format.build(whole)
    finally:
        adapter._encode = encode


def save_opt(path: Path, bscans: np.ndarray, spacing_mm: tuple[float, float, float]) -> Path:
    """Ophthalmic Tomography in DICOM; ``bscans``: (Z, Y, X) bytes; spacing along X, Y and Z."""
    import pydicom
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.77.1.5.4", generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    image.SOPClassUID, image.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    image.SeriesInstanceUID, image.StudyInstanceUID, image.Modality = generate_uid(), generate_uid(), "OPT"
    image.NumberOfFrames, image.Rows, image.Columns = bscans.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 8, 8, 7, 0
    shared, measures = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [spacing_mm[1], spacing_mm[0]], spacing_mm[2]
    shared.PixelMeasuresSequence = [measures]
    image.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for z in range(len(bscans)):
        frame, position = Dataset(), Dataset()
        position.ImagePositionPatient = [0.0, 0.0, z * spacing_mm[2]]
        frame.PlanePositionSequence = [position]
        frames.append(frame)
    image.PerFrameFunctionalGroupsSequence = frames
    image.PixelData = bscans.astype(np.uint8).tobytes()
    image.save_as(path, enforce_file_format=True)
    assert pydicom.dcmread(path).Modality == "OPT"
    return path
