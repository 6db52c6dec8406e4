# SPDX-License-Identifier: Apache-2.0
"""Seconds and peak memory: the main job on a scan of 24 slices, read to written; ways to score, a slice each; and how
far maps in bfloat16 (and on a GPU, where there is one) are from those in float32.

    flipmap lab benchmark [--threads 2]
    flipmap lab benchmark --load docs/evaluation/load.csv --before ../flipmap-0.8.0
    flipmap lab benchmark --methods docs/evaluation/cost.csv

The second form runs the main job on twelve scans, alone and beside processes that keep the cores busy; with --before,
by turns with another version (0.8.0: `git worktree add ../flipmap-0.8.0 a68f754`). The third runs the main job
with every method of configs/methods, and counts what each asks of its networks.

The last way is the chain of 200 steps, one slice at a time, as the paper's reference runs it, with the same network in
the same run: so the gain is a ratio. Every way runs in a process of its own.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from ..io.nifti import write_map
from ..modalities import method_names
from ..paths import bundle_root
from ..synthesis.sample import synthetic_head

__all__ = ["add_arguments", "run"]

SLICES = 24
#: This command, in a process of its own.
SELF = [sys.executable, "-m", "bundle.cli", "benchmark"]
#: Name → module and class of the method, its arguments, and how many slices are timed.
WAYS: dict[str, tuple[str, str, dict, int]] = {
    "structured flips, one pass": ("structured_flips", "StructuredFlips", {"smoothing": 1.0}, SLICES),
    "masked chain, 10 steps": ("masked_bernoulli", "MaskedBernoulli", {"num_steps": 10}, SLICES),
    "masked chain, 200 steps, one slice at a time": (
        "masked_bernoulli",
        "MaskedBernoulli",
        {"num_steps": 200, "slices_per_pass": 1},
        2,
    ),
}


BUSY = "while True: pass"
ROUNDS, SCANS = 3, 12


def measure(command: list[str], threads: int, root: Path | None = None) -> tuple[str, float, float]:
    """Output, wall seconds and peak MiB of a command; of the package in ``root``, started there, if it is given."""
    start = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), **({"PYTHONPATH": str(root)} if root else {})}
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=root
    )
    output = child.stdout.read() if child.stdout else ""
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(output)
    return output, time.perf_counter() - start, usage.ru_maxrss / 1024


def config_files(method: str | None) -> list[str]:
    """Of the main job, with a method from configs/methods over it."""
    folder = Path(bundle_root()) / "configs"
    return [str(folder / "inference.json")] + ([str(folder / "methods" / f"{method}.json")] if method else [])


def main_job(threads: int, method: str | None = None) -> tuple[float, float]:
    """Wall seconds and peak MiB of the whole command on a synthetic scan."""
    with tempfile.TemporaryDirectory() as folder:
        scan, _, affine = synthetic_head((256, 256, SLICES))
        write_map(Path(folder) / "in" / "scan.nii.gz", scan, affine, np.int16)
        command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(config_files(method)),
                   "--dataset_dir", f"{folder}/in", "--output_dir", f"{folder}/out"]  # fmt: skip
        return measure(command, threads)[1:]


def under_load(path: Path, threads: int, before: Path | None) -> None:
    """Seconds of the main job on twelve scans, alone and beside busy processes, of this version and of another one."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(SCANS):
            scan, _, affine = synthetic_head((256, 256, SLICES), seed=number)
            write_map(Path(folder) / "in" / f"{number}.nii.gz", scan, affine, np.int16)
        for busy in (0, threads):
            seconds: dict[str, list[float]] = {}
            for _ in range(ROUNDS):
                for root in (Path(bundle_root()), *([before.resolve()] if before else [])):
                    seconds.setdefault(version_of(root), []).append(run_beside(busy, root, Path(folder), threads))
            for version, all_rounds in seconds.items():
                figures = (f"{of(all_rounds):.1f}" for of in (min, np.median, max))
                rows.append([version, busy, *figures])
                print(*rows[-1], flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["version", "busy_processes", "least_seconds", "median_seconds", "most_seconds"])
        writer.writerows(rows)


def version_of(root: Path) -> str:
    """Of a checkout, as its configs/metadata.json says."""
    return json.loads((root / "configs" / "metadata.json").read_text())["version"]


def run_beside(busy: int, root: Path, folder: Path, threads: int) -> float:
    """Seconds of the main job of a checkout on the scans in ``folder``/in, beside so many busy processes."""
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json"]
    command += ["--dataset_dir", str(folder / "in"), "--output_dir", str(folder / "out")]
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(busy)]
    try:
        return measure(command, threads, root)[1]
    finally:
        for other in others:
            other.kill()
            other.wait()


def prepare_scan() -> tuple[Any, Any, Any]:
    """Network, a volume (1, 1, 128, 128, 24) on the model's grid, and the config."""
    import torch
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(Path(bundle_root()) / "configs" / "inference.json")
    parser.update({"bundle_root": bundle_root()})
    network, device = parser.get_parsed_content("network").eval(), parser.get_parsed_content("device")
    scan, _, _ = synthetic_head((128, 128, SLICES), (1.875, 1.875, 5.0))
    return network, (torch.from_numpy(scan.astype("float32"))[None, None] / 200).clamp(0, 1).to(device), parser


def one_way(name: str) -> float:
    """Seconds a slice of one way, warm."""
    import importlib

    module, kind, arguments, count = WAYS[name]
    method = getattr(importlib.import_module(f"bundle.methods.{module}"), kind)(**arguments)
    network, volume, _ = prepare_scan()
    part = volume[..., 8 : 8 + count] if count < SLICES else volume
    method(part[..., :1], network)
    start = time.perf_counter()
    method(part, network)
    return (time.perf_counter() - start) / count


def passes(method: str | None) -> tuple[float, float]:
    """Passes of a slice through networks (encoder, decoder, UNet: one each), and MB of the weights that were asked."""
    import torch
    from monai.networks.nets import DiffusionModelUNet
    from monai.networks.nets.autoencoderkl import Decoder, Encoder

    from ..pipeline.job import Job

    job = Job(config_files(method))
    _, volume, _ = prepare_scan()
    calls: list[tuple[torch.nn.Module, int]] = []
    for module in job.network.modules():
        if isinstance(module, (DiffusionModelUNet, Decoder, Encoder)):
            module.register_forward_hook(lambda m, given, answer: calls.append((m, len(answer))))
    job.inferer(volume.to(job.device), job.network)
    asked = {id(module): module for module, _ in calls}.values()
    size = sum(p.numel() * p.element_size() for module in asked for p in module.parameters()) / 1e6
    return sum(slices for _, slices in calls) / SLICES, size


def costs(path: Path, threads: int) -> None:
    """A row a method: seconds and peak memory of the main job, passes, size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "seconds", "peak_mib", "passes_a_slice", "weights_mb"])
        for method in (None, *method_names()):
            seconds, peak = main_job(threads, method)
            output, _, _ = measure([*SELF, "--passes", method or "default"], threads)
            count, size = (float(v) for v in output.split()[-2:])
            row = [method or "default", f"{seconds:.1f}", f"{peak:.0f}", f"{count:.1f}", f"{size:.1f}"]
            writer.writerow(row)
            print(", ".join(row), flush=True)


def compare_precisions() -> None:
    """Calibrated maps against the one in float32 on the CPU."""
    import torch

    from ..scoring.calibration import read_calibration

    network, volume, parser = prepare_scan()
    calibration = read_calibration(parser.get_parsed_content("calibration"), parser["method"])

    def calibrated(precision: str, device: str) -> np.ndarray:
        parser["precision"] = precision
        parser.parse(reset=True)
        scores = parser.get_parsed_content("inferer")(volume.to(device), network.to(device))
        return calibration(scores.cpu().numpy())

    reference = calibrated("float32", "cpu")
    head = reference > 0
    others = [("bfloat16", "cpu")] + [(p, "cuda") for p in ("float32", "bfloat16") if torch.cuda.is_available()]
    for precision, device in others:
        difference = np.abs(calibrated(precision, device) - reference)[head]
        tipped = ((calibrated(precision, device) >= 2) != (reference >= 2))[head].mean()
        print(
            f"{precision} on {device} against float32 on cpu, in units of the map: mean {difference.mean():.4f}, "
            f"99.9th percentile {np.percentile(difference, 99.9):.3f}; {tipped:.3%} of head voxels change sides at 2"
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=2, help="of arithmetic (default: %(default)s)")
    parser.add_argument("--load", type=Path, metavar="CSV", help="measure the main job under load instead")
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="of another version, for --load")
    parser.add_argument("--methods", type=Path, metavar="CSV", help="compare what the methods cost instead")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--passes", help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> None:
    if options.load:
        under_load(options.load, options.threads, options.before)
        return
    if options.methods:
        costs(options.methods, options.threads)
        return
    if options.passes:
        print(*passes(None if options.passes == "default" else options.passes))
        return
    if options.way:
        print(one_way(options.way))
        return
    seconds, peak = main_job(options.threads)
    print(f"main job, {SLICES} slices of 256 x 256, read to written, model loading included:", end=" ")
    print(f"{seconds:.1f} s, {peak:.0f} MiB", flush=True)
    rates = []
    for name in WAYS:
        output, _, peak = measure([*SELF, "--way", name], options.threads)
        rates.append(float(output.split()[-1]))
        print(f"{name}: {rates[-1]:.4f} s a slice, {peak:.0f} MiB", flush=True)
    print(f"one pass is {rates[-1] / rates[0]:.0f} times as fast as 200 steps one slice at a time")
    compare_precisions()
