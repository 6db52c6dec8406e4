# SPDX-License-Identifier: Apache-2.0
"""A real MONAI Label server with our bundles in it: minutes, and an environment of its own (`make acceptance-label`).

FLIPMAP_LABEL_ENVIRONMENT names the environment that scripts/monai_label.py makes; it is made when missing. What is
measured is printed; the figures in docs/monai_label.md are from it.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from bundle.cases import find_scans
from bundle.export import export
from bundle.scoring.display import BANDS
from tests.conftest import ROOT, data_folder
from tests.oct_files import bscan

PORT, ORTHANC = 8750, 8751
SLICES, REQUESTS = 24, 200
ENVIRONMENT = Path(os.environ.get("FLIPMAP_LABEL_ENVIRONMENT", ROOT / ".venv-monailabel"))
#: What 3D Slicer and OHIF send: they hold labels.
SLICER = {"result_extension": ".nrrd", "result_dtype": "uint16", "result_compress": False}


def answer_to(request, timeout=60):
    """What a server answers, the connection closed; an error's, too."""
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        error.close()
        raise


class Server:
    """MONAI Label by our script, and its REST interface."""

    def __init__(self, studies, app, port, *bundles):
        self.url, self.log = f"http://127.0.0.1:{port}", app.with_suffix(".log")
        command = [sys.executable, ROOT / "scripts" / "monai_label.py", str(studies), "--port", str(port)]
        command += ["--app", app, "--environment", ENVIRONMENT]
        for bundle in bundles:
            command += ["--bundle", bundle]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [str(c) for c in command], stdout=log, stderr=log, cwd=app.parent, start_new_session=True
            )
        deadline = time.time() + 900
        while time.time() < deadline:
            try:
                self.info = json.loads(self.get("/info/"))
                return
            except (urllib.error.URLError, ConnectionError):
                assert self.process.poll() is None, self.log.read_text()[-3000:]
                time.sleep(1)
        raise AssertionError("the server did not come up")

    def get(self, path):
        return answer_to(self.url + path, 300)

    def infer(self, model, image, output="image", **params):
        query = urllib.parse.urlencode({"image": image, "output": output})
        body = urllib.parse.urlencode({"params": json.dumps(params)}).encode()
        return answer_to(urllib.request.Request(f"{self.url}/infer/{model}?{query}", body), 300)

    def upload(self, path, name):
        mark = uuid.uuid4().hex
        head = f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="{path.name}"\r\n'
        body = (
            f"{head}Content-Type: application/gzip\r\n\r\n".encode()
            + path.read_bytes()
            + f"\r\n--{mark}--\r\n".encode()
        )
        kind = {"Content-Type": f"multipart/form-data; boundary={mark}"}
        request = urllib.request.Request(f"{self.url}/datastore/?image={name}", body, kind, method="PUT")
        return json.loads(answer_to(request))

    def resident(self):
        """MiB of the server's process."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024

    def stop(self):
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(30)


@pytest.fixture(scope="module")
def scans():
    """Real FLAIR scans, one of them with 24 slices; and that one's T1w."""
    found = {case["name"]: Path(case["image"]) for case in find_scans(data_folder("brain_lgg"))}
    chosen = next(name for name, path in found.items() if nib.load(path).shape[2] == SLICES)
    other = next(name for name, path in found.items() if nib.load(path).shape[2] == 20)
    return {name: found[name] for name in (chosen, other)}


@pytest.fixture(scope="module")
def server(scans, tmp_path_factory):
    """Three of our bundles in one server: the repository itself, an exported method, and an exported modality."""
    folder = tmp_path_factory.mktemp("label")
    (folder / "studies").mkdir()
    second = export("flair", "intensity", folder / "flipmap_flair_intensity.zip")
    third = export("oct", "default", folder / "flipmap_oct.zip")
    running = Server(folder / "studies", folder / "app", PORT, second, third)
    for name, path in scans.items():
        running.upload(path, name)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def expected(scans, tmp_path_factory):
    """What the main job writes, by the server's own Python and packages."""
    folder = tmp_path_factory.mktemp("main")
    for path in scans.values():
        shutil.copy(path, folder / path.name)
    command = [ENVIRONMENT / "bin" / "python", "-m", "monai.bundle", "run", "--config_file", "configs/inference.json"]
    command += ["--dataset_dir", folder, "--output_dir", folder / "out"]
    subprocess.run([str(c) for c in command], check=True, cwd=ROOT, capture_output=True)
    return folder / "out"


def volume(answer, folder, name="answer.nii.gz"):
    (folder / name).write_bytes(answer)
    return nib.load(folder / name)


def test_what_the_panel_says(server):
    assert {"flipmap_flair", "flipmap_flair_intensity", "flipmap_oct"} <= set(server.info["models"])
    model = server.info["models"]["flipmap_flair"]
    assert model["labels"] == {"mild": 1, "moderate": 2, "strong": 3}
    assert model["config"]["show"] == ["auto", "map", "mask", "bands"]
    assert model["config"]["threshold"] == 2.0
    assert "cannot be trained from MONAI Label" in model["description"]
    assert not server.info["trainers"]


def test_the_map_is_the_main_jobs_bit_for_bit(server, scans, expected, tmp_path):
    for name, path in scans.items():
        image = volume(server.infer("flipmap_flair", name), tmp_path)
        reference = nib.load(expected / f"{name}_anomaly.nii.gz")
        assert image.get_data_dtype() == np.float32
        np.testing.assert_array_equal(np.asarray(image.dataobj), np.asarray(reference.dataobj))
        assert image.shape == nib.load(path).shape
        np.testing.assert_allclose(image.affine, nib.load(path).affine, atol=1e-5)
        mask = volume(server.infer("flipmap_flair", name, show="mask", result_dtype="uint8"), tmp_path)
        reference = nib.load(expected / f"{name}_anomaly_mask.nii.gz")
        np.testing.assert_array_equal(np.asarray(mask.dataobj), np.asarray(reference.dataobj))


def bands_of(anomaly, mask, threshold):
    """Of the findings that are kept, as the mask is."""
    return np.digitize(np.where(mask > 0, anomaly, 0), [threshold, threshold + 1, threshold + 2])


def test_slicer_gets_bands_as_nrrd(server, scans, expected, tmp_path):
    name, path = next(iter(scans.items()))
    for threshold in (2.0, 3.0):
        (tmp_path / "answer.nrrd").write_bytes(server.infer("flipmap_flair", name, threshold=threshold, **SLICER))
        image, source = sitk.ReadImage(str(tmp_path / "answer.nrrd")), sitk.ReadImage(str(path))
        bands = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
        anomaly = np.asarray(nib.load(expected / f"{name}_anomaly.nii.gz").dataobj)
        answer = server.infer("flipmap_flair", name, threshold=threshold, show="mask", result_dtype="uint8")
        mask = np.asarray(volume(answer, tmp_path).dataobj)
        assert 0 < mask.sum() < (anomaly >= threshold).sum(), "findings that healthy people have are left out"
        np.testing.assert_array_equal(bands, bands_of(anomaly, mask, threshold))
        assert image.GetSize() == source.GetSize()
        np.testing.assert_allclose(image.GetSpacing(), source.GetSpacing(), rtol=1e-5)
        np.testing.assert_allclose(image.GetDirection(), source.GetDirection(), atol=1e-5)
        np.testing.assert_allclose(image.GetOrigin(), source.GetOrigin(), atol=1e-3)
    said = json.loads(server.infer("flipmap_flair", name, output="json", **SLICER))
    assert said["findings"]
    assert said["label_names"] == {"mild": 1, "moderate": 2, "strong": 3}


def test_the_other_bundle_is_another_map(server, scans, tmp_path):
    name = next(iter(scans))
    one, other = (np.asarray(volume(server.infer(model, name), tmp_path, f"{model}.nii.gz").dataobj)
                  for model in ("flipmap_flair", "flipmap_flair_intensity"))  # fmt: skip
    assert one.shape == other.shape
    assert np.abs(one - other).max() > 0.5


def test_another_modality_beside_them(server, tmp_path):
    """A retinal volume through the exported OCT bundle, on its own grid."""
    retina = np.stack([bscan(n)[0].T for n in (1, 2)], axis=-1)
    image = nib.Nifti1Image(retina, np.diag([0.0115, -0.00387, 0.12, 1.0]))
    nib.save(image, tmp_path / "retina.nii.gz")
    server.upload(tmp_path / "retina.nii.gz", "retina")
    try:
        answer = volume(server.infer("flipmap_oct", "retina"), tmp_path)
        assert answer.shape == retina.shape
        np.testing.assert_allclose(answer.affine, image.affine, atol=1e-6)
        assert 0 < np.asarray(answer.dataobj).max() < 100
    finally:
        request = urllib.request.Request(f"{server.url}/datastore/?id=retina", method="DELETE")
        answer_to(request)


def test_four_at_once(server, scans, expected, tmp_path):
    names = list(scans) * 2
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda name: server.infer("flipmap_flair", name), names))
    for number, (name, answer) in enumerate(zip(names, answers, strict=True)):
        image = volume(answer, tmp_path, f"{number}.nii.gz")
        reference = nib.load(expected / f"{name}_anomaly.nii.gz")
        np.testing.assert_array_equal(np.asarray(image.dataobj), np.asarray(reference.dataobj))


def test_a_corrupt_scan_and_a_wrong_modality_are_refused_and_the_server_lives(server, scans, tmp_path):
    (tmp_path / "corrupt.nii.gz").write_bytes(b"this is no scan")
    server.upload(tmp_path / "corrupt.nii.gz", "corrupt")
    path = next(iter(scans.values()))
    t1w = tmp_path / "sub-x_T1w.nii.gz"
    shutil.copy(path, t1w)
    server.upload(t1w, "sub-x_T1w")
    ct = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(ct.dataobj, dtype=np.float32) * 8 - 1000, ct.affine), tmp_path / "scan.nii.gz")
    server.upload(tmp_path / "scan.nii.gz", "hounsfield")
    reasons = {"corrupt": "not readable", "sub-x_T1w": "T1w by its name", "hounsfield": "look like a CT"}
    try:
        for name, reason in reasons.items():
            with pytest.raises(urllib.error.HTTPError) as caught:
                server.infer("flipmap_flair", name)
            assert caught.value.code == 500
            deadline = time.time() + 10  # the log comes after the answer
            while reason not in server.log.read_text() and time.time() < deadline:
                time.sleep(0.2)
            assert reason in server.log.read_text()
        assert len(server.infer("flipmap_flair", next(iter(scans)))) > 1000
    finally:
        for name in reasons:
            request = urllib.request.Request(f"{server.url}/datastore/?id={name}", method="DELETE")
            answer_to(request)


def test_batch_inference_leaves_labels_in_the_data_store(server, scans, expected, tmp_path):
    body = json.dumps({"device": "cpu", "multi_gpu": False, "max_workers": 1}).encode()
    request = urllib.request.Request(
        f"{server.url}/batch/infer/flipmap_flair?images=all&run_sync=true",
        body,
        {"Content-Type": "application/json"},
        method="POST",
    )
    answer_to(request, 600)
    for name in scans:
        label = volume(server.get(f"/datastore/label?label={name}&tag=original"), tmp_path, f"{name}.nii.gz")
        anomaly = np.asarray(nib.load(expected / f"{name}_anomaly.nii.gz").dataobj)
        mask = np.asarray(nib.load(expected / f"{name}_anomaly_mask.nii.gz").dataobj)
        np.testing.assert_array_equal(np.asarray(label.dataobj), bands_of(anomaly, mask, 2.0))


@pytest.mark.parametrize("busy", [0, 1], ids=["alone", "beside a busy process"])
def test_memory_levels_off(server, scans, busy):
    """200 requests of a 24-slice scan: the last fifty take no more than the second fifty did."""
    name, resident, seconds = next(iter(scans)), [], []
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        for _ in range(REQUESTS):
            started = time.perf_counter()
            server.infer("flipmap_flair", name, **SLICER)
            seconds.append(time.perf_counter() - started)
            resident.append(server.resident())
    finally:
        for other in others:
            other.kill()
            other.wait()
    quarters = [round(float(np.median(part))) for part in np.array_split(resident, 4)]
    print(
        f"\n{SLICES} slices, {busy} busy: median {np.median(seconds):.1f} s (most {max(seconds):.1f}), MiB {quarters}"
    )
    assert quarters[3] < 1.03 * quarters[1]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Orthanc with its DICOMweb plug-in, and a FLAIR series in it: what stands behind OHIF."""
    if shutil.which("Orthanc") is None:
        pytest.skip("no Orthanc on this machine")
    from tests import dicom_files
    from tests.test_mri import oblique

    folder = tmp_path_factory.mktemp("archive")
    settings = {
        "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"), "HttpPort": ORTHANC,
        "DicomPort": ORTHANC + 1, "RemoteAccessAllowed": False, "AuthenticationEnabled": False,
        "Plugins": ["/usr/share/orthanc/plugins"], "DicomWeb": {"Enable": True},
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(settings))
    process = subprocess.Popen(
        ["Orthanc", folder / "orthanc.json"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{ORTHANC}"
    for _ in range(60):
        try:
            answer_to(f"{url}/system", 5)
            break
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.5)
    case = next(c for c in find_scans(data_folder("brain_lgg")) if nib.load(c["image"]).shape[2] == 20)
    image = nib.load(case["image"])
    array = np.asarray(image.dataobj, dtype=np.float32)
    paths = dicom_files.write_series(folder / "dicom", array, oblique(image.affine, 12))
    for path in paths:
        answer_to(urllib.request.Request(f"{url}/instances", path.read_bytes()), 30)
    yield url, paths
    process.terminate()
    process.wait(30)


def test_the_dicomweb_path_of_ohif(archive, tmp_path):
    """The server reads the series from the archive by DICOMweb; what OHIF asks for comes back as bands and as SEG."""
    import pydicom

    from bundle.io.dicom import find_series, read_series

    url, paths = archive
    series = find_series(paths[0].parent)[0]
    server = Server(f"{url}/dicom-web", tmp_path / "app", PORT + 10)
    try:
        (tmp_path / "bands.nrrd").write_bytes(server.infer("flipmap_flair", series.uid, **SLICER))
        bands = sitk.ReadImage(str(tmp_path / "bands.nrrd"))
        scan = read_series(series)
        assert bands.GetSize() == tuple(scan.shape[1:])
        affine = np.eye(4)
        affine[:3, :3] = np.array(bands.GetDirection()).reshape(3, 3) @ np.diag(bands.GetSpacing())
        affine[:3, 3] = bands.GetOrigin()
        between = np.linalg.inv(np.diag([-1.0, -1, 1, 1]) @ affine) @ scan.affine.numpy()
        np.testing.assert_allclose(np.abs(between[:3, :3]).sum(0), 1, atol=1e-3)
        assert set(np.unique(sitk.GetArrayFromImage(bands))) <= {0, 1, 2, 3}
        asked = {"label_info": [{"name": name} for name in BANDS], "result_dtype": "uint8"}
        (tmp_path / "seg.dcm").write_bytes(server.infer("flipmap_flair", series.uid, output="dicom_seg", **asked))
        seg = pydicom.dcmread(tmp_path / "seg.dcm")
        assert seg.Modality == "SEG"
        assert seg.StudyInstanceUID == pydicom.dcmread(paths[0]).StudyInstanceUID
    finally:
        server.stop()
