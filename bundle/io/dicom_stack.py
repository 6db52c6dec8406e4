# SPDX-License-Identifier: Apache-2.0
"""Whether slices make one straight, even stack, and how a series that holds several stacks comes apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .dicom_frames import Frame

__all__ = ["LEAST_SLICES", "NO_PROBLEM", "SHIFT", "TILT", "UNEVEN", "Part", "Problem", "parts_of", "problem_of"]

LEAST_SLICES = 5  # fewer are a localizer or a fragment
ANGLE = 1e-3  # cosine's distance from 1 at which two orientations differ
SAME_SIZE = 1e-3  # of a pixel's size: more is no rounding
TILT = 0.5  # degrees between the stack and the normal of its slices
UNEVEN = 0.05  # of the slice distance: more is no rounding
SHIFT = 0.1  # mm between a slice and its place in a straight stack from which on its own place counts
#: What volumes of one series differ in, as dcm2niix asks it → how their parts are called. In this order.
APART = {
    "echo": "echo",
    "echo number": "echo",
    "type": "type",
    "phase": "phase",
    "inversion": "inversion",
    "acquisition": "acquisition",
    "trigger": "time",
}


class Problem(NamedTuple):
    """Why slices cannot be read as one volume, and the remedy; both empty where they can.

    Attributes:
        reason: in words.
        remedy: in words.
        several: whether there are several volumes, so that taking them apart may help.
    """

    reason: str = ""
    remedy: str = ""
    several: bool = False


NO_PROBLEM = Problem()


class Part(NamedTuple):
    """A volume of a series that holds several.

    Attributes:
        name: what it is called after the series; empty where it is the whole series.
        frames: its slices.
        problem: of its stack.
    """

    name: str
    frames: Sequence[Frame]
    problem: Problem


def parts_of(frames: Sequence[Frame]) -> list[Part]:
    """The volumes of a series: itself, or parts by echo, image type, phase, … where that makes regular stacks."""
    return _apart("", frames, list(APART))


def _apart(name: str, frames: Sequence[Frame], keys: Sequence[str]) -> list[Part]:
    problem = problem_of(frames)
    whole = [Part(name, frames, problem)]
    if not problem.several or not keys:
        return whole
    first, *rest = keys
    values = sorted({frame.kinds.get(first, "") for frame in frames}, key=lambda value: (str(type(value)), value))
    if len(values) < 2:
        return _apart(name, frames, rest)
    parts = []
    for rank, value in enumerate(values, start=1):
        called = f"{name}_{APART[first]}-{rank}" if name else f"{APART[first]}-{rank}"
        parts += _apart(called, [frame for frame in frames if frame.kinds.get(first, "") == value], rest)
    helps = any(not part.problem.reason for part in parts) and not any(part.problem.several for part in parts)
    return parts if helps else _apart(name, frames, rest)


def problem_of(frames: Sequence[Frame]) -> Problem:
    """Why slices, each once, are no volume that can be read right."""
    again = "Send the series again, whole"
    if len(frames) < LEAST_SLICES:
        return Problem(f"{len(frames)} slices, at least {LEAST_SLICES} needed", again)
    first = frames[0]
    if any(f.shape != first.shape or not np.allclose(f.spacing, first.spacing, rtol=SAME_SIZE) for f in frames):
        return Problem("slices of different sizes", "Split the series")
    axes = np.array([frame.axes for frame in frames])
    normals = np.cross(axes[:, 0], axes[:, 1])
    if (np.abs(1 - normals @ normals[0]) > ANGLE).any() or (np.abs(1 - axes[:, 0] @ axes[0, 0]) > ANGLE).any():
        return Problem("slices of different orientations", "Split the series")
    positions = np.array([frame.position for frame in frames])
    return _problem_of_positions(positions, normals[0], len({frame.path for frame in frames}) == 1)


def _problem_of_positions(positions: np.ndarray, normal: np.ndarray, one_file: bool) -> Problem:
    """The same for slices of one size and orientation."""
    positions = positions[np.argsort(positions @ normal)]
    depth = positions @ normal
    steps = np.diff(depth)
    typical = float(np.median(steps))
    if typical < 1e-3 or (steps < 0.5 * typical).any():
        most = max(Counter(np.round(depth, 2)).most_common(1)[0][1], 2)
        remedy = "Split the object into volumes" if one_file else "Split the series: one contrast and time each"
        return Problem(f"up to {most} images at one position", remedy, several=True)
    gaps = steps / typical
    missing = int(np.round(gaps[gaps > 1.5] - 1).sum())
    if missing and np.allclose(gaps, np.round(gaps), atol=UNEVEN):
        return Problem(f"{missing} slices are missing", "Send the series again, whole")
    if (np.abs(gaps - 1) > UNEVEN).any():
        return Problem(
            f"uneven slice distances ({steps.min():.2f} to {steps.max():.2f} mm)", "Give an evenly spaced series"
        )
    course = positions[-1] - positions[0]
    tilt = float(np.degrees(np.arccos(np.clip(course @ normal / np.linalg.norm(course), -1, 1))))
    if tilt > TILT:
        return Problem(f"slices are stacked at a tilt of {tilt:.1f} degrees", "Resample it to a straight stack")
    return NO_PROBLEM
