"""GDCM apart: what ends it fails alone."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")
gdcm = pytest.importorskip("gdcm")

from phnet_monai.data import DecodeError, gdcm_process  # noqa: E402
from phnet_monai.data.dicom import read_dicom  # noqa: E402
from phnet_monai.data.gdcm_process import decoded_apart  # noqa: E402


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (56, 68), dtype=np.uint8)


@pytest.fixture(scope="module")
def lossless(pixels: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in lossless JPEG, as many hospitals keep them."""
    folder = tmp_path_factory.mktemp("dicom")
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.UltrasoundImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = *pixels.shape, 1
    dataset.PhotometricInterpretation, dataset.PixelRepresentation = "MONOCHROME2", 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(folder / "plain.dcm", enforce_file_format=True)
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(folder / "plain.dcm"))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(folder / "lossless.dcm"))
    assert writer.Write()
    return folder / "lossless.dcm"


def test_lossless_jpeg_is_read_by_a_process_that_is_kept(lossless: Path, pixels: np.ndarray) -> None:
    for _ in range(2):
        frames, _, _ = read_dicom(lossless)
        np.testing.assert_array_equal(frames[0], pixels)
    ((_, kept),) = gdcm_process._idle
    read_dicom(lossless)
    assert gdcm_process._idle[0][1] is kept


def test_damage_anywhere_fails_alone(lossless: Path, pixels: np.ndarray, tmp_path: Path) -> None:
    """In this process GDCM would end it: by markers within the scan, by a precision of 137 bits."""
    content, draws, failed = lossless.read_bytes(), random.Random(0), 0
    scan = content.rindex(b"\xff\xd8\xff")
    for _ in range(25):
        damaged = bytearray(content)
        damaged[draws.randrange(scan, len(content))] = 0xFF
        (tmp_path / "damaged.dcm").write_bytes(damaged)
        try:
            read_dicom(tmp_path / "damaged.dcm")
        except DecodeError:
            failed += 1
    assert failed
    np.testing.assert_array_equal(read_dicom(lossless)[0][0], pixels)


def test_a_process_that_has_ended_is_told_and_replaced(
    lossless: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed() -> object:
        process = take()
        process.kill()
        process.wait()
        return process

    take = gdcm_process._take
    with monkeypatch.context() as patched:
        patched.setattr(gdcm_process, "_take", killed)
        with pytest.raises(DecodeError, match=r"lossless\.dcm.*GDCM"):
            list(decoded_apart(lossless))
    np.testing.assert_array_equal(next(decoded_apart(lossless)), pixels)


def test_what_gdcm_says_is_told(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match=r"gone\.dcm: GDCM cannot decode it \(FileNotFoundError"):
        list(decoded_apart(tmp_path / "gone.dcm"))
