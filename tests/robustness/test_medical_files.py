"""Odd and hostile DICOM and NIfTI files through `phnet infer`."""

from __future__ import annotations

import gzip
import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest

from phnet_monai.data import DecodeError
from phnet_monai.data.scan import read_scan

REFUSED = {
    "truncated.dcm": "missing",
    "nothing.dcm": "is empty (0 bytes)",
    "text.dcm": "cannot be read as DICOM",
    "report.dcm": "holds no picture",
    "many_frames.dcm": "3000000 frames of 20 x 12 pixels, together more than the 500 million that are read",
    "large.dcm": "65000 x 65000 pixels, more than the 100 million that are read",
    "inflated.dcm": "frame 1 is compressed with 900 x 800 pixels, its header states 20 x 12",
    "short.dcm": "cannot be decoded",
    "four_samples.dcm": "has 4 samples per pixel",
    "deep.dcm": "stores 32 bits per value",
    "no_size.dcm": "Rows missing",
    "truncated.nii.gz": "cannot be read as NIfTI",
    "nothing.nii": "is empty (0 bytes)",
    "text.nii": "cannot be read as NIfTI",
    "large.nii": "30000 x 30000 pixels, more than the 100 million that are read",
    "large.nii.gz": "30000 frames of 1000 x 1000 pixels, together more than the 500 million that are read",
    "nan.nii": "NaN or infinite values",
    "four_axes.nii": "has the shape 8 x 9 x 2 x 2, expected width x height",
    "negative.nii": "1 frames of -4 x 20 pixels: it holds no picture",
}

TAKEN = {
    "plain.dcm": 1,
    "inverted.dcm": 1,
    "clip.dcm": 3,
    "signed.dcm": 1,
    "no_ending": 1,
    "bad_spacing.dcm": 1,
    "zero_window.dcm": 1,
    "constant.dcm": 1,
    "jpeg.dcm": 1,
    "stack.nii.gz": 3,
    "constant.nii": 1,
}


def nifti_header(path: Path, shape: tuple[int, ...], *, packed: bool = False) -> None:
    """A NIfTI-1 file that states a shape and has no values."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.uint8)
    raw = bytearray(header.binaryblock)
    raw[40:56] = struct.pack("<8h", len(shape), *shape, *(1,) * (7 - len(shape)))
    raw[108:112], raw[344:348] = struct.pack("<f", 352), b"n+1\0"
    content = bytes(raw) + bytes(4)
    path.write_bytes(gzip.compress(content) if packed else content)


def write_dicom(folder: Path, made: SimpleNamespace) -> None:
    pixels, make = made.picture(), made.make_dicom
    make(folder / "plain.dcm", pixels)
    content = (folder / "plain.dcm").read_bytes()
    (folder / "truncated.dcm").write_bytes(content[:400])
    (folder / "nothing.dcm").touch()
    (folder / "text.dcm").write_text("no DICOM at all\n" * 40)
    (folder / "no_ending").write_bytes(content)
    make(folder / "many_frames.dcm", pixels, NumberOfFrames=3_000_000)
    make(folder / "large.dcm", pixels, Rows=65_000, Columns=65_000)
    make(folder / "short.dcm", pixels, Rows=200)
    make(folder / "four_samples.dcm", pixels, SamplesPerPixel=4)
    make(folder / "deep.dcm", pixels, BitsAllocated=32, BitsStored=32, HighBit=31)
    make(folder / "no_size.dcm", pixels, Rows=None)
    make(folder / "inflated.dcm", pixels)
    made.as_jpeg(folder / "inflated.dcm", [np.zeros((800, 900), np.uint8)], "MONOCHROME2")
    make(folder / "jpeg.dcm", pixels)
    made.as_jpeg(folder / "jpeg.dcm", [pixels], "MONOCHROME2")
    make(folder / "report.dcm", pixels)
    report = made.pydicom.dcmread(folder / "report.dcm")
    del report.PixelData
    report.save_as(folder / "report.dcm")
    make(folder / "inverted.dcm", 255 - pixels, photometric="MONOCHROME1")
    make(folder / "clip.dcm", np.stack([pixels] * 3), frames=True)
    make(folder / "signed.dcm", (pixels.astype(np.int16) - 128) * 256)
    make(folder / "bad_spacing.dcm", pixels, PixelSpacing=["0", "0"])
    make(folder / "zero_window.dcm", pixels, WindowCenter="10", WindowWidth="0")
    make(folder / "constant.dcm", np.full((12, 20), 7, np.uint8))


def write_nifti(folder: Path, pixels: np.ndarray) -> None:
    volume = np.stack([pixels.T] * 3, axis=-1)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), folder / "stack.nii.gz")
    content = (folder / "stack.nii.gz").read_bytes()
    (folder / "truncated.nii.gz").write_bytes(content[: len(content) // 2])
    (folder / "nothing.nii").touch()
    (folder / "text.nii").write_text("no NIfTI at all\n" * 40)
    nifti_header(folder / "large.nii", (30_000, 30_000))
    nifti_header(folder / "large.nii.gz", (1_000, 1_000, 30_000), packed=True)
    nifti_header(folder / "negative.nii", (-4, 20))
    bad = pixels.T.astype(np.float32)
    bad[3, 4] = np.nan
    nibabel.save(nibabel.Nifti1Image(bad, np.eye(4)), folder / "nan.nii")
    nibabel.save(nibabel.Nifti1Image(np.zeros((8, 9, 2, 2), np.uint8), np.eye(4)), folder / "four_axes.nii")
    nibabel.save(nibabel.Nifti1Image(np.full((20, 12), 7, np.int16), np.eye(4)), folder / "constant.nii")


@pytest.fixture(scope="module")
def done(
    tmp_path_factory: pytest.TempPathFactory,
    infer: Callable[..., Any],
    scan_files: SimpleNamespace,
    run_file: Callable[[Path], dict[str, Any]],
) -> tuple[Any, Path, dict[str, dict[str, Any]]]:
    pytest.importorskip("highdicom")
    folder = tmp_path_factory.mktemp("medical")
    (folder / "in").mkdir()
    write_dicom(folder / "in", scan_files)
    write_nifti(folder / "in", scan_files.picture())
    outcome = infer(folder / "in", folder / "out", "--quiet")
    return outcome, folder, {entry["image"]: entry for entry in run_file(folder / "out")["files"]}


def test_the_run_goes_to_its_end(done: Any) -> None:
    outcome, _, files = done
    assert outcome.code == 3
    assert set(files) == {*REFUSED, *TAKEN}
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_a_reason(done: Any, name: str) -> None:
    _, _, files = done
    assert files[name]["status"] == "failed"
    assert REFUSED[name] in files[name]["reason"]


@pytest.mark.parametrize("name", TAKEN)
def test_segmented_frame_by_frame(done: Any, name: str) -> None:
    _, folder, files = done
    assert files[name]["status"] == "done"
    assert files[name]["frames"] == TAKEN[name]
    assert (folder / "out" / files[name]["mask"]).is_file()


def test_nothing_says_who_the_patient_is(done: Any, scan_files: SimpleNamespace) -> None:
    outcome, folder, _ = done
    texts = [outcome.out, outcome.err]
    texts += [path.read_text(encoding="utf-8") for name in ("*.json", "*.csv", "*.html") for path in folder.rglob(name)]
    assert len(texts) > 5
    for value in scan_files.PATIENT.values():
        if len(value) > 2:
            assert not any(value in text for text in texts)


@pytest.mark.parametrize("name", ["large.dcm", "many_frames.dcm", "inflated.dcm", "large.nii", "large.nii.gz"])
def test_bombs_are_refused_before_any_pixel_is_allocated(done: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, folder, _ = done

    def unpack(*_: Any, **__: Any) -> None:
        raise AssertionError("a decoder was started")

    monkeypatch.setattr("pydicom.pixels.iter_pixels", unpack)
    monkeypatch.setattr("phnet_monai.data.nifti._fill", unpack)
    with pytest.raises(DecodeError, match="pixels"):
        read_scan(folder / "in" / name)


def test_the_codecs_that_state_a_size(scan_files: SimpleNamespace) -> None:
    from phnet_monai.data.jpeg_frames import stated_size

    jpeg_2000 = b"\xff\x4f\xff\x51\0\x29\0\0" + struct.pack(">4I", 70_005, 60_007, 5, 7)
    assert stated_size(jpeg_2000) == (60_000, 70_000)
    assert stated_size(b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(60) + jpeg_2000) == (60_000, 70_000)
    for marker in (0xC0, 0xC3, 0xF7):  # baseline, lossless, JPEG-LS
        stream = b"\xff\xd8\xff\xe0\0\x04ab\xff\xff" + bytes([marker]) + b"\0\x0b\x08" + struct.pack(">2H", 300, 400)
        assert stated_size(stream + bytes(4)) == (300, 400)
        assert stated_size(stream[:-2]) is None  # cut short: the decoder will say so
    assert stated_size(b"") is None
    assert stated_size(bytes(64)) is None


def test_without_the_extra_a_folder_of_dicom_is_refused_at_once(
    infer: Callable[..., Any], scan_files: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    scan_files.make_dicom(tmp_path / "in" / "a.dcm", scan_files.picture())
    for library in ("pydicom", "highdicom"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, library, None)
            outcome = infer(tmp_path / "in", tmp_path / "out")
        assert outcome.code == 2
        assert f"needs {library}, which is not installed. Run: pip install 'phnet-monai[dicom]'" in outcome.line
        assert not (tmp_path / "out").exists()


def test_without_the_extra_dicom_among_others_fails_alone(
    infer: Callable[..., Any], scan_files: SimpleNamespace, pictures: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    scan_files.make_dicom(pictures / "x.dcm", scan_files.picture())
    monkeypatch.setitem(sys.modules, "pydicom", None)
    outcome = infer(pictures, tmp_path / "out", "--quiet")
    assert outcome.code == 3
    assert outcome.err == (
        "failed: x.dcm: reading DICOM needs pydicom, which is not installed. Run: pip install 'phnet-monai[dicom]'\n"
    )
    assert len(list((tmp_path / "out" / "masks").rglob("*.png"))) == 4


def test_reports_beside_images_are_no_failures(
    infer: Callable[..., Any], scan_files: SimpleNamespace, tmp_path: Path
) -> None:
    """An export of a hospital holds reports and presentation states: the daily run must not end in failure by them."""
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name, kind in (("sr.dcm", "88.33"), ("state", "11.1")):
        dataset = scan_files.pydicom.dcmread(scan_files.make_dicom(folder / name, scan_files.picture()))
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = f"1.2.840.10008.5.1.4.1.1.{kind}"
        dataset.save_as(folder / name)
    assert infer(folder, out).code == 4  # nothing but these
    scan_files.make_dicom(folder / "scan.dcm", scan_files.picture())
    assert "1 segmented" in infer(folder, out, "--limit", "1").out  # they come last
    outcome = infer(folder, out)
    assert outcome.code == 0
    assert "1 finished earlier" in outcome.out
    assert "2 without an image passed over (run.json tells why)" in outcome.out
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    found = {file["image"]: (file["status"], file.get("reason")) for file in run["files"]}
    assert found["sr.dcm"] == ("no image", "sr.dcm is a report in DICOM and holds no image")
    assert found["state"][0] == "no image"
    assert (run["finished"], run["counts"]["failed"]) == (True, 0)
    assert "sr.dcm" not in (out / "report.html").read_text(encoding="utf-8")
