"""Small DICOM files of known pixels, as ultrasound machines and archives write them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, generate_uid

US_IMAGE = "1.2.840.10008.5.1.4.1.1.6.1"
US_MULTIFRAME = "1.2.840.10008.5.1.4.1.1.3.1"

PATIENT = {
    "PatientName": "Roe^Jane",
    "PatientID": "MRN4711",
    "PatientBirthDate": "19560701",
    "PatientSex": "F",
    "ReferringPhysicianName": "Doe^John",
    "InstitutionName": "Saint Elsewhere",
    "StudyDescription": "BREAST LEFT",
    "AccessionNumber": "ACC0815",
    "StudyID": "S1234",
    "StudyDate": "20240229",
    "StudyTime": "101500",
}
"""What must not appear in any message."""


def picture(height: int = 12, width: int = 20) -> np.ndarray:
    """uint8 (H, W) without any symmetry, of 0 to 255, and not square."""
    rows, columns = np.mgrid[:height, :width]
    values = (7 * rows * columns + 5 * columns + 3 * rows) % 256
    values[0, :2] = 0, 255
    return values.astype(np.uint8)


def make_dicom(
    path: Path, pixels: np.ndarray, *, photometric: str = "MONOCHROME2", frames: bool = False, **tags: Any
) -> Path:
    """Write a DICOM file and return its path.

    Args:
        pixels: (H, W) or (H, W, 3), with `frames` one axis more in front; uint8, int16 or uint16. For `YBR_FULL` they
            are taken as Y, Cb and Cr.
        tags: elements that are added or replaced; None removes one.
    """
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = US_MULTIFRAME if frames else US_IMAGE
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(dataset, keyword, generate_uid())
    dataset.Modality = "US"
    for keyword, value in PATIENT.items():
        setattr(dataset, keyword, value)
    shape = pixels.shape[1:] if frames else pixels.shape
    if frames:
        dataset.NumberOfFrames = len(pixels)
    dataset.Rows, dataset.Columns = shape[:2]
    dataset.SamplesPerPixel = 3 if len(shape) == 3 else 1
    if len(shape) == 3:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = photometric
    bits = pixels.dtype.itemsize * 8
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    for keyword, value in tags.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    save(dataset, path)
    return path


def save(dataset: Any, path: Path) -> None:
    dataset["PixelData"].VR = "OB" if dataset.BitsAllocated == 8 else "OW"
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)


def as_jpeg(path: Path, frames: list[np.ndarray], photometric: str, **options: Any) -> None:
    """Replace the pixels of a DICOM file by JPEG frames, each of uint8 (H, W) or (H, W, 3) RGB; `options` of Pillow."""
    dataset = pydicom.dcmread(path)
    encoded = []
    for frame in frames:
        stream = io.BytesIO()
        Image.fromarray(frame).save(stream, "JPEG", quality=95, **options)
        encoded.append(stream.getvalue())
    dataset.PixelData = encapsulate(encoded)
    dataset["PixelData"].is_undefined_length = True
    dataset.PhotometricInterpretation = photometric
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.save_as(path)


def us_region(box: tuple[int, int, int, int], delta: tuple[float, float], *, units: int = 3, form: int = 1) -> Any:
    """Ultrasound region: box (x0, y0, x1, y1), distances (x, y), by default in cm and two-dimensional."""
    region = pydicom.Dataset()
    region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = form, 1, 0
    names = ("RegionLocationMinX0", "RegionLocationMinY0", "RegionLocationMaxX1", "RegionLocationMaxY1")
    for name, value in zip(names, box, strict=True):
        setattr(region, name, value)
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = units
    region.PhysicalDeltaX, region.PhysicalDeltaY = delta
    return region
