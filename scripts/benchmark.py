"""Seconds and peak memory: the main job on a scan of 24 slices, read to written, and methods a slice.

    python scripts/benchmark.py [--threads 2]

The last rows are the chain of 200 steps, one slice at a time, as the paper's reference runs it, with the same network
in the same run: so the gain is a ratio.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bundle import bundle_root
from bundle.io.nifti import write_map
from bundle.sample import synthetic_head

MIB = 1024  # ru_maxrss is in KiB


def main_job(threads: int) -> tuple[float, float]:
    """Wall seconds and peak MiB of the whole command in its own process."""
    with tempfile.TemporaryDirectory() as folder:
        scan, _, affine = synthetic_head((256, 256, 24))
        write_map(Path(folder) / "in" / "scan.nii.gz", scan, affine, np.int16)
        config = Path(bundle_root()) / "configs" / "inference.json"
        command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(config),
                   "--dataset_dir", f"{folder}/in", "--output_dir", f"{folder}/out"]  # fmt: skip
        start = time.perf_counter()
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        seconds = time.perf_counter() - start
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / MIB


def methods(threads: int) -> None:
    """Seconds a slice of each way to score, on the same slices of the model's grid."""
    import torch
    from monai.bundle import ConfigParser

    from bundle.methods.masked_bernoulli import MaskedBernoulli
    from bundle.methods.structured_flips import StructuredFlips

    torch.set_num_threads(threads)
    parser = ConfigParser()
    parser.read_config(Path(bundle_root()) / "configs" / "inference.json")
    parser.update({"bundle_root": bundle_root()})
    network, device = parser.get_parsed_content("network").eval(), parser.get_parsed_content("device")
    scan, _, _ = synthetic_head((128, 128, 24), (1.875, 1.875, 5.0))
    volume = (torch.from_numpy(scan.astype("float32"))[None, None] / 200).clamp(0, 1).to(device)
    ways = (
        ("structured flips, one pass, 8 slices at once (the default)", StructuredFlips(), 24),
        ("masked chain, 10 steps, 8 slices at once", MaskedBernoulli(num_steps=10), 24),
        ("masked chain, 200 steps, one slice at a time", MaskedBernoulli(num_steps=200, slices_per_pass=1), 2),
    )
    rates = []
    for name, method, count in ways:
        part = volume[..., 8 : 8 + count] if count < 24 else volume
        method(part[..., :1], network)
        start = time.perf_counter()
        method(part, network)
        rates.append((time.perf_counter() - start) / count)
        print(f"{name}: {rates[-1]:.4f} s a slice", flush=True)
    print(f"one pass is {rates[-1] / rates[0]:.0f} times as fast as 200 steps one slice at a time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    seconds, peak = main_job(arguments.threads)
    print(f"main job, 24 slices of 256 x 256, read to written, model loading included: {seconds:.1f} s, {peak:.0f} MiB")
    methods(arguments.threads)


if __name__ == "__main__":
    main()
