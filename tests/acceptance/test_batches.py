# SPDX-License-Identifier: Apache-2.0
"""A night in a hospital, with real scans: minutes, so it is asked for by name (`make acceptance`) and not part of the
quick suite. What it measures it prints; the figures in docs/batches.md are from it.
"""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from bundle.batch.plan import DICOM_OUTPUTS, OUTPUTS, SIDECAR, plan_cases
from bundle.batch.run import run_batch
from bundle.cases import find_scans
from bundle.pipeline.job import Job
from bundle.transforms.brain import BrainMaskd
from tests.conftest import ROOT, data_folder
from tests.test_batch import files, rows, shown_in
from tests.test_dicom import REFUSED
from tests.test_mri import oblique
from tests.test_nifti import BROKEN, nan_affine

dicom_files = pytest.importorskip("tests.dicom_files", reason="the extra `hospital` is not installed")

NIFTI, SINGLE, MULTI = 30, 10, 2
KILLS = 20
SKIPPED = {"a localizer", "a mosaic", "a derived series", "CT objects"}
MOMENTS = ("InstanceCreationDate", "InstanceCreationTime", "ContentDate", "ContentTime", "ContributionDateTime")
COMMAND = [sys.executable, "-m", "bundle.cli", "run"]


@pytest.fixture(scope="module")
def flair():
    """Real FLAIR scans, the ones with fewest slices first: a night is about cases, not about slices."""
    found = find_scans(data_folder("brain_lgg"))
    return sorted(found, key=lambda case: (Path(case["image"]).stat().st_size, case["name"]))[: NIFTI + SINGLE + MULTI]


@pytest.fixture(scope="module")
def night(flair, tmp_path_factory):
    """The mixed folder: real scans as NIfTI and DICOM, and every kind of broken input."""
    root = tmp_path_factory.mktemp("night") / "in"
    root.mkdir()
    for case in flair[:NIFTI]:
        shutil.copy(case["image"], root)
    for number, case in enumerate(flair[NIFTI:]):
        image = nib.load(case["image"])
        array, affine = np.asarray(image.dataobj, dtype=np.float32), oblique(image.affine, 3 + 2 * number)
        if number < SINGLE:
            dicom_files.write_series(root / "dicom" / f"p{number}" / "s", array, affine, SeriesNumber=number)
        else:
            dicom_files.write_enhanced(root / "dicom" / f"multi{number}.dcm", array, affine, SeriesNumber=number)
    return root, _broken(root / "broken", nib.load(flair[0]["image"]))


def _broken(folder: Path, image) -> list[str]:
    """Write one input of every broken kind; returns the kinds."""
    folder.mkdir()
    array, affine = np.asarray(image.dataobj, dtype=np.float32), image.affine
    kinds = sorted(set(BROKEN) - {"absent"})
    for kind in kinds:
        BROKEN[kind][0](folder / f"{kind.replace(' ', '-')}.nii.gz")
    nan_affine(folder / "broken-affine.nii.gz", array)
    nib.save(nib.Nifti1Image(array * 8 - 1000, affine), folder / "ct.nii.gz")
    nib.save(nib.Nifti1Image(array, affine), folder / "sub-x_T1w.nii.gz")
    kinds += ["broken affine", "CT by its values", "another contrast by its name"]
    for number, reason in enumerate(REFUSED):
        dicom_files.write_series(folder / f"d{number}", array, affine, REFUSED[reason], SeriesNumber=900 + number)
    cut = dicom_files.write_series(folder / "cut", array, affine, SeriesNumber=950)[3]
    cut.write_bytes(cut.read_bytes()[:-900])
    return [*kinds, *REFUSED, "truncated pixels"]


@pytest.fixture(scope="module")
def undisturbed(night, tmp_path_factory):
    root, _ = night
    output = tmp_path_factory.mktemp("whole") / "out"
    started = time.perf_counter()
    done = subprocess.run([*COMMAND, root, output, "-q"], cwd=ROOT, capture_output=True, text=True, check=False)
    print(f"\n{NIFTI + SINGLE + MULTI} scans and the broken ones: {time.perf_counter() - started:.0f} s")
    return done, output


def test_every_good_case_is_whole_and_every_bad_one_is_named(night, undisturbed):
    _, kinds = night
    done, output = undisturbed
    assert len(kinds) >= 25
    assert done.returncode == 1
    said = rows(output)
    counted = {s: sum(row["status"] == s for row in said.values()) for s in ("done", "failed", "skipped")}
    print(f"\n{len(kinds)} broken kinds; {counted}")
    assert counted["done"] == NIFTI + SINGLE + MULTI
    assert counted["skipped"] == len(SKIPPED)
    assert counted["failed"] == len(kinds) - len(SKIPPED)
    page = (output / "report.html").read_text()
    for name, row in said.items():
        assert name in page
        if row["status"] == "failed":
            assert row["reason"]
            assert row["remedy"]
        elif row["status"] == "done":
            endings = [ending.format(region="brain") for ending, _ in OUTPUTS.values()] + [SIDECAR]
            endings += DICOM_OUTPUTS.values() if name.startswith("series-") else ()
            assert all((output / f"{name}_{ending}").stat().st_size for ending in endings), name
    assert sum(row["state"] == "done" for row in shown_in(output)) == counted["done"]


def test_killed_twenty_times_it_ends_the_same(night, undisturbed, tmp_path):
    root, _ = night
    _, whole = undisturbed
    output, moments, kills = tmp_path / "out", random.Random(1), 0
    while kills < KILLS:
        process = subprocess.Popen([*COMMAND, root, output, "-q"], cwd=ROOT, stderr=subprocess.DEVNULL)
        try:
            # From the start of Python to the middle of the work.
            process.wait(moments.uniform(2, 16))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait(30)
            kills += 1
        else:
            shutil.rmtree(output)  # it was through: again from the beginning
        for path in output.rglob("*.nii.gz"):
            if not path.name.startswith("."):
                np.asarray(nib.load(path).dataobj)
    again = subprocess.run([*COMMAND, root, output, "-q"], cwd=ROOT, capture_output=True, check=False)
    assert again.returncode == 1
    one, other = files(output), files(whole)
    assert one.keys() == other.keys()
    assert {name for name in one if one[name] != other[name]} <= {name for name in one if name.endswith(".dcm")}
    for path in output.rglob("*.dcm"):
        assert _timeless(path) == _timeless(whole / path.relative_to(output)), path.name
    for path in output.rglob(f"*{SIDECAR}"):
        assert _provenance(path) == _provenance(whole / path.relative_to(output))
    statuses = {name: row["status"].removesuffix(" before") for name, row in rows(output).items()}
    assert statuses == {name: row["status"] for name, row in rows(whole).items()}


def _timeless(path: Path):
    """A DICOM result without the moments of its making."""
    image = pydicom.dcmread(path)
    for item in (image, *image.get("ContributingEquipmentSequence", [])):
        for keyword in MOMENTS:
            if keyword in item:
                delattr(item, keyword)
    return image


def _provenance(path: Path) -> dict:
    """A sidecar without seconds, and without hashes of files that hold their moment."""
    said = json.loads(path.read_text())
    kept = {name: known for name, known in said["outputs_sha256"].items() if not name.endswith(".dcm")}
    return {**said, "seconds": 0, "outputs_sha256": kept}


def test_memory_does_not_grow_with_the_number_of_cases(flair, tmp_path):
    """100 cases; after the first quarter, which fills every pool, the resident memory stays."""
    (tmp_path / "in").mkdir()
    for number in range(100):
        os.link(
            shutil.copy(flair[number % 5]["image"], tmp_path / f"{number}.tmp"),
            tmp_path / "in" / f"c{number:03d}.nii.gz",
        )
    resident = []

    def told(record):
        assert record.status == "done", record
        with open("/proc/self/statm") as file:
            resident.append(int(file.read().split()[1]) * resource.getpagesize() / 2**20)

    run_batch(plan_cases(find_scans(tmp_path / "in"), tmp_path / "in"), Job(), tmp_path / "out", told=told)
    quarters = [float(np.median(resident[i : i + 25])) for i in (0, 25, 50, 75)]
    print(f"\nresident memory, MiB, medians of quarters: {[round(q) for q in quarters]}; most {max(resident):.0f}")
    assert quarters[3] < 1.05 * quarters[1]


def test_overhead_over_the_networks(flair, tmp_path):
    """Seconds of the batch beside what its two networks alone take on the same scans, one after the other."""
    (tmp_path / "in").mkdir()
    for case in flair[:12]:
        shutil.copy(case["image"], tmp_path / "in")
    job, planned = Job(), plan_cases(find_scans(tmp_path / "in"), tmp_path / "in")
    finder = next(t for t in job.preprocessing.transforms if isinstance(t, BrainMaskd))
    began, brain = [], []
    hooks = [
        finder.network.register_forward_pre_hook(lambda *_: began.append(time.perf_counter())),
        finder.network.register_forward_hook(lambda *_: brain.append(time.perf_counter() - began[-1])),
    ]
    job.infer(job.prepare(planned[0].case))  # warm
    brain.clear()
    items = [job.prepare(case.case) for case in planned]
    started = time.perf_counter()
    for item in items:
        job.infer(item)
    networks = time.perf_counter() - started + sum(brain)
    for hook in hooks:
        hook.remove()
    del items
    started = time.perf_counter()
    run_batch(planned, job, tmp_path / "out")
    whole = time.perf_counter() - started
    print(
        f"\n{len(planned)} scans: batch {whole:.1f} s, networks alone {networks:.1f} s (of which the brain's "
        f"{sum(brain):.1f} s): {whole / networks - 1:.0%} over them"
    )
    assert whole < 1.25 * networks
