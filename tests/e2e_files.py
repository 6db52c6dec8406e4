# SPDX-License-Identifier: Apache-2.0
"""Write small Heidelberg e2e files for tests."""

from pathlib import Path

import numpy as np

DEGREE_MM = 0.2896  # mm on the retina per degree of scan angle, the constant eyepy uses
IMAGE = 1073741824
NO_ID = -1


def grey_codes() -> np.ndarray:
    """Return the stored 16 bit value for each of the 256 grey values.

    Grey value g is stored as the reflectivity r with (log(r + 2.44e-4) + 8.3) / 8.285 = g / 255, the inverse of
    eyepy's 'e2e' intensity transform, rounded to the nearest number the 16 bit unsigned float can hold.
    """
    from eyepy.io.he.e2e_format import Bscan

    reflectivity = np.exp(8.285 * np.arange(256) / 255 - 8.3) - 2.44e-4
    order = np.argsort(Bscan.LUT)  # the codes are not in the order of the values they stand for
    values = Bscan.LUT[order].astype(float)
    above = np.searchsorted(values, reflectivity)
    nearest = above - (reflectivity - values[above - 1] < values[above] - reflectivity)
    return order[nearest].astype("<u2")


def image_bytes(kind: int, pixels: np.ndarray) -> bytes:
    """Return an image item: size in bytes, kind, number of values, height, width, values."""
    return np.array([pixels.nbytes, kind, pixels.size, *pixels.shape], "<u4").tobytes() + pixels.tobytes()


def text_bytes(*texts: str) -> bytes:
    """Return a text item: number of texts, bytes per text, texts padded with zeros."""
    padded = [text.encode("utf-16-le").ljust(256, b"\0") for text in texts]
    return np.array([len(texts), 256], "<u4").tobytes() + b"".join(padded)


def bscan_meta_bytes(index: int, shape: tuple[int, int, int], scale_mm: tuple[float, float, float]) -> bytes:
    """Return the 428 bytes that describe one B-scan; the first B-scan lies lowest on the fundus (largest y)."""
    from eyepy.io.he.e2e_format import Type10004, type10004_format

    depth, height, width = shape
    half = width * scale_mm[0] / DEGREE_MM / 2
    y = ((depth - 1) / 2 - index) * scale_mm[2] / DEGREE_MM
    meta = Type10004(
        unknown0=0,
        size_y=height,
        size_x=width,
        start_x=-half,
        start_y=y,
        end_x=half,
        end_y=y,
        zero1=0,
        unknown1=0.0,
        scale_y=scale_mm[1],
        unknown2=0.0,
        zero2=0,
        unknown3=[0.0, 0.0],
        zero3=0,
        imgSizeWidth=width,
        n_bscans=depth,
        aktImage=index,
        scan_pattern=3 if depth > 1 else 1,
        center_x=0.0,
        center_y=y,
        unknown4=0,
        acquisitionTime="2020-01-02T03:04:05",
        numAve=1,
        quality=0.0,
        unknown5=0.0,
        unknown6=bytes(12),
        art_mode=1,
        oct_controller_fw_raw=bytes(4),
        oct_camera_fw_raw=bytes(4),
        oct_camera_fpga_raw=bytes(4),
        unknown7=bytes(4),
        focus_candidate_raw=0.0,
        unknown8=bytes(12),
        quality_ui=30.0,
        rest=bytes(268),
    )
    return type10004_format.build(meta)


def save_e2e(path: Path, bscans: np.ndarray, scale_mm: tuple[float, float, float]) -> Path:
    """Write B-scans (Z, Y, X) in [0, 1] as an e2e file with one patient, one study and one series.

    scale_mm is the voxel size along X, Y (into depth) and Z (between B-scans). Reading the file with
    eyepy.import_heyex_e2e gives volume.data == np.rint(255 * bscans). eyepy leaves volume.scale at 1 px; the file
    holds the voxel size as scale_y in mm and as B-scan start and end positions in degrees of DEGREE_MM each.
    """
    from eyepy.io.he import e2e_format as e2e

    pixels = grey_codes()[np.rint(255 * np.asarray(bscans)).astype(int)]
    first = 0 if len(pixels) > 1 else 2  # a lone B-scan has slice id 2
    side = bytes(14) + b"R" + bytes(12)
    patient = b"Test".ljust(31, b"\0") + b"Person".ljust(66, b"\0") + bytes(4) + b"F" + b"T1".ljust(29, b"\0")
    items = [  # study, series, slice, ind, type, content
        (NO_ID, NO_ID, NO_ID, NO_ID, 9, patient),
        (1, NO_ID, NO_ID, NO_ID, 9001, text_bytes("Heidelberg Retina Angiograph", "HRA", "")),
        (1, 1, NO_ID, NO_ID, 11, side),
        (1, 1, NO_ID, NO_ID, 9005, text_bytes("Retina")),
        (1, 1, NO_ID, NO_ID, 9006, text_bytes("OCT ART Volume", "")),
        (1, 1, NO_ID, NO_ID, 9007, text_bytes("Infra-Red", "IR")),
        (1, 1, NO_ID, NO_ID, 9008, text_bytes("OCT", "OCT")),
        (1, 1, NO_ID, 0, IMAGE, image_bytes(33620481, np.full((96, 96), 128, np.uint8))),
    ]
    for index, bscan in enumerate(pixels):
        # eyepy needs a layer in each slice: here one (id 0, ILM) that is nowhere, stored as the largest float
        layer = np.array([0, 0, 0, bscan.shape[1], 0], "<u4").tobytes()
        layer += np.full(bscan.shape[1], np.finfo(np.float32).max, "<f4").tobytes()
        for ind, kind, content in (
            (NO_ID, 10004, bscan_meta_bytes(index, pixels.shape, scale_mm)),
            (NO_ID, 10019, layer),
            (1, IMAGE, image_bytes(35652097, bscan)),
        ):
            items.append((1, 1, first + 2 * index, ind, kind, content))

    ids = [65535] * 9 + [0]
    chunk_at = e2e.version_format.sizeof() + e2e.header_format.sizeof()
    data_at = chunk_at + e2e.header_format.sizeof() + len(items) * e2e.folderheader_format.sizeof()
    folders, data = b"", b""
    for number, (study, series, slice_id, ind, kind, content) in enumerate(items):
        pos = chunk_at + e2e.header_format.sizeof() + number * e2e.folderheader_format.sizeof()
        start = data_at + len(data)
        same = {
            "size": len(content),
            "patient_id": 1,
            "study_id": study,
            "series_id": series,
            "slice_id": slice_id,
            "ind": ind % 2**16,
            "type": e2e.TypesEnum(kind),
            "unknown1": 0,
        }
        check = 0x87654321 + pos + start + len(content) + 1 + study + series + slice_id + ind + kind
        folders += e2e.folderheader_format.build(
            e2e.FolderHeader(pos=pos, start=start, unknown0=0, unknown3=check % 2**32, **same)
        )
        data += (
            e2e.containerheader_format.build(
                e2e.ContainerHeader(
                    magic3="MDbData",
                    unknown0=0x12435687 + sum(content),
                    header_pos=pos,
                    pos=start,
                    unknown2=0,
                    unknown3=0x8765431C + pos,
                    **same,
                )
            )
            + content
        )
    head = e2e.version_format.build(e2e.Version(name="CMDb", version=100, unknown0=ids))
    for magic, entries, current in (("MDbMDir", 0, chunk_at), ("MDbDir", len(items), chunk_at)):
        head += e2e.header_format.build(
            e2e.Header(
                magic2=magic, version=100, unknown0=ids, num_entries=entries, current=current, prev=0, unknown1=0
            )
        )
    Path(path).write_bytes(head + folders + data)
    return Path(path)
