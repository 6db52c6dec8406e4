# SPDX-License-Identifier: Apache-2.0
"""Count how often the contrast of a brain scan is told right, on people who trained nothing.

    flipmap lab check-contrast DATA docs/evaluation/contrasts.csv

DATA holds the sets of `bundle.evaluation.untrained`; those that are missing are left out. Every scan is looked at as it
is, in three other orientations, and without its skull.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
from monai.bundle import ConfigParser
from monai.transforms import Compose

from ..evaluation.untrained import SETS, Scans
from ..io.files import whole_file
from ..io.nifti import read_scan, scan_from_array
from ..paths import bundle_root, default_config
from ..transforms.recognise import CONTRASTS, contrast_of

__all__ = ["add_arguments", "run"]


ORIENTATIONS = ("RAS", "PSR", "AIL")  # beside that of the file
SURE = 0.9  # from which on a job refuses another contrast


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, help="folder of the sets")
    parser.add_argument("output", type=Path, help="table to write, CSV")


def run(options: argparse.Namespace) -> None:
    parser = ConfigParser()
    parser.read_config(default_config())
    parser.update({"bundle_root": bundle_root(), "check_contrast": False})
    steps = [parser.get_parsed_content(f"steps#{name}") for name in ("orient", "background", "brain", "contrast")]
    rows = []
    for one in SETS:
        if not (options.data / one.folder).is_dir():
            print(f"{one.folder}: not there, left out")
            continue
        told = [look for case in one.cases(options.data) for look in _looks(Path(case["image"]), steps)]
        rows.append(_row(one, told))
        print(rows[-1], flush=True)
    rows.append({"set": "all", "contrast": "", **_sums(rows)})
    with whole_file(options.output) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[-1]))
        writer.writeheader()
        writer.writerows(rows)


def _looks(path: Path, steps: list) -> Iterator[tuple[str, float]]:
    """What the network says of a scan, and how sure it is: as it is, turned, and without a skull."""
    scan, look = read_scan(path), Compose(steps)
    array, affine = scan[0].numpy(), scan.affine.numpy()
    item = look({"image": scan_from_array(array, affine)})
    yield _told(item)
    image = nib.Nifti1Image(array, affine)
    for axes in ORIENTATIONS:
        ours, theirs = nib.io_orientation(affine), nib.orientations.axcodes2ornt(axes)
        turned = image.as_reoriented(nib.orientations.ornt_transform(ours, theirs))
        yield _told(look({"image": scan_from_array(np.asarray(turned.dataobj), turned.affine)}))
    stripped = np.where(np.asarray(item["brain"][0]) > 0, np.asarray(item["image"][0]), 0)
    yield _told(look({"image": scan_from_array(stripped, item["image"].affine.numpy())}))


def _told(item: dict) -> tuple[str, float]:
    told = contrast_of(item["image"])
    assert told is not None, "a network looked"
    return told


def _row(one: Scans, told: list[tuple[str, float]]) -> dict[str, object]:
    assert one.suffix in CONTRASTS
    return {
        "set": one.folder,
        "contrast": one.suffix,
        "looks": len(told),
        "right": sum(contrast == one.suffix for contrast, _ in told),
        "wrong_and_sure": sum(contrast != one.suffix and sure >= SURE for contrast, sure in told),
    }


def _sums(rows: list[dict]) -> dict[str, int]:
    return {key: sum(row[key] for row in rows) for key in ("looks", "right", "wrong_and_sure")}
