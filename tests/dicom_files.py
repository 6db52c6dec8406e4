# SPDX-License-Identifier: Apache-2.0
"""DICOM series that the tests write themselves, from arrays, with any geometry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless, generate_uid

MR, ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"


def write_series(folder: Path, array: np.ndarray, affine: np.ndarray, change=None, **tags) -> list[Path]:
    """Write (X, Y, Z) with a NIfTI affine (RAS+) as single-frame MR images, slices along Z, in shuffled files.

    Args:
        folder: of the files.
        array: not negative; scaled to 12 bits.
        affine: 4 x 4, mm, its columns orthogonal.
        change: called with each dataset and its slice number before it is written; returns False to leave it out.
        tags: of every image.

    Returns:
        paths, in the order of the files' names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    slope = float(array.max()) / 4000
    stored = np.round(array / slope).astype(np.uint16)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    sizes = np.linalg.norm(lps[:3, :3], axis=0)
    axes = lps[:3, :3] / sizes
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    names = np.random.RandomState(0).permutation(array.shape[2])
    paths = []
    for z in range(array.shape[2]):
        image = _dataset(series, study, frame, z)
        image.ImagePositionPatient = [float(f"{v:.8f}") for v in (lps @ [0, 0, z, 1])[:3]]
        image.ImageOrientationPatient = [float(f"{v:.10f}") for v in [*axes[:, 0], *axes[:, 1]]]
        image.PixelSpacing = [float(f"{sizes[1]:.10g}"), float(f"{sizes[0]:.10g}")]
        image.SliceThickness = float(f"{sizes[2]:.10g}")
        image.RescaleIntercept, image.RescaleSlope = 0, float(f"{slope:.10g}")
        image.Rows, image.Columns = array.shape[1], array.shape[0]
        image.PixelData = stored[..., z].T.tobytes()  # rows run along Y
        for tag, value in tags.items():
            setattr(image, tag, value)
        if change is None or change(image, z) is not False:
            paths.append(folder / f"IM{names[z]:04d}")
            image.save_as(paths[-1], enforce_file_format=True)
    return sorted(paths)


def _dataset(series: str, study: str, frame: str, z: int) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MR, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    image.SOPClassUID, image.SOPInstanceUID = MR, meta.MediaStorageSOPInstanceUID
    image.SeriesInstanceUID, image.StudyInstanceUID, image.FrameOfReferenceUID = series, study, frame
    image.Modality, image.ImageType = "MR", ["ORIGINAL", "PRIMARY", "M", "ND"]
    image.SeriesDescription, image.ProtocolName, image.SeriesNumber = "t2 FLAIR tra", "head", 4
    image.PatientName, image.PatientID, image.PatientBirthDate, image.PatientSex = "Doe^Jane", "4711", "19700101", "F"
    image.StudyDate, image.StudyTime, image.StudyID, image.AccessionNumber = "20200101", "120000", "1", "1"
    image.InstanceNumber, image.Manufacturer, image.PositionReferenceIndicator = z + 1, "flipmap tests", ""
    image.ReferringPhysicianName, image.ScanningSequence, image.SequenceVariant = "", "SE", "SK"
    image.ScanOptions, image.MRAcquisitionType, image.EchoTime, image.EchoTrainLength = "", "2D", 100, 1
    image.RepetitionTime, image.InversionTime = 9000, 2500
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    return image


def write_enhanced(path: Path, array: np.ndarray, affine: np.ndarray, **tags) -> Path:
    """The same volume as one enhanced multi-frame MR image, its frames in shuffled order."""
    folder = path.parent / f".{path.name}"
    singles = [pydicom.dcmread(p) for p in write_series(folder, array, affine)]  # by file name: shuffled
    for single in folder.iterdir():
        single.unlink()
    folder.rmdir()
    image = singles[0]
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = ENHANCED_MR
    image.NumberOfFrames = len(singles)
    image.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    shared, measures, transformation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = image.PixelSpacing, image.SliceThickness
    orientation = Dataset()
    orientation.ImageOrientationPatient = image.ImageOrientationPatient
    transformation.RescaleIntercept, transformation.RescaleSlope = image.RescaleIntercept, image.RescaleSlope
    transformation.RescaleType = "US"
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    shared.PixelValueTransformationSequence = [transformation]
    image.SharedFunctionalGroupsSequence = [shared]
    image.PerFrameFunctionalGroupsSequence = [_frame(single) for single in singles]
    organization = Dataset()
    organization.DimensionOrganizationUID = generate_uid()
    index = Dataset()
    index.DimensionOrganizationUID = organization.DimensionOrganizationUID
    index.DimensionIndexPointer, index.FunctionalGroupPointer = 0x00209057, 0x00209111  # in-stack position
    image.DimensionOrganizationSequence, image.DimensionIndexSequence = [organization], [index]
    image.PixelData = b"".join(single.PixelData for single in singles)
    for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(image, tag)
    for tag in ("RescaleIntercept", "RescaleSlope"):
        delattr(image, tag)
    for tag, value in tags.items():
        setattr(image, tag, value)
    image.save_as(path, enforce_file_format=True)
    return path


def _frame(single: FileDataset) -> Dataset:
    group, position, content = Dataset(), Dataset(), Dataset()
    position.ImagePositionPatient = single.ImagePositionPatient
    content.StackID, content.InStackPositionNumber = "1", single.InstanceNumber
    content.DimensionIndexValues = [single.InstanceNumber]
    group.PlanePositionSequence, group.FrameContentSequence = [position], [content]
    return group


def recompressed(path: Path, syntax: str) -> None:
    """Rewrite a file in another transfer syntax, by GDCM, or by pydicom where that can."""
    image = pydicom.dcmread(path)
    if syntax == DeflatedExplicitVRLittleEndian:
        image.file_meta.TransferSyntaxUID = syntax
        image.save_as(path, enforce_file_format=True)
    elif syntax == RLELossless:
        image.compress(syntax)
        image.save_as(path, enforce_file_format=True)
    else:
        _by_gdcm(path, syntax)
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == syntax


def _by_gdcm(path: Path, syntax: str) -> None:
    gdcm = pytest.importorskip("gdcm")
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()  # which makes an image with a slope an enhanced one: only the pixels are its
    written = path.with_suffix(".gdcm")
    writer.SetFileName(str(written))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    image = pydicom.dcmread(path)
    image.PixelData, image.file_meta.TransferSyntaxUID = pydicom.dcmread(written).PixelData, syntax
    image["PixelData"].VR = "OB"
    image.save_as(path, enforce_file_format=True)
    written.unlink()
