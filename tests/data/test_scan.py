"""One function for all kinds of files, and who belongs to which."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
from PIL import Image

from phnet_monai.data import DecodeError, read_image
from phnet_monai.data.scan import is_scan, read_scan, scan_kind

pytest.importorskip("pydicom", reason="the extra dicom is not installed")

files = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "reference" / "scan_files.py")))


@pytest.fixture
def twins(tmp_path: Path) -> dict[str, Path]:
    """The same picture as a file of each kind."""
    values = files.picture()
    Image.fromarray(values).save(tmp_path / "a.png")
    image = nibabel.Nifti1Image(values.T, None)
    image.header.set_zooms((0.2, 0.1))
    image.to_filename(tmp_path / "a.nii.gz")
    files.make_dicom(tmp_path / "a.dcm", values, PixelSpacing=["0.1", "0.2"])
    return {"picture": tmp_path / "a.png", "nifti": tmp_path / "a.nii.gz", "dicom": tmp_path / "a.dcm"}


def test_all_kinds_hold_the_same_frame(twins: dict[str, Path]) -> None:
    for kind, path in twins.items():
        scan = read_scan(path)
        assert scan.kind == kind
        assert scan.path == path
        assert scan.frames.dtype == np.uint8
        np.testing.assert_array_equal(scan.frames, read_image(twins["picture"])[None])
        assert scan.spacing_mm == (None if kind == "picture" else pytest.approx((0.1, 0.2)))


def test_paths_may_be_texts(twins: dict[str, Path]) -> None:
    assert read_scan(str(twins["nifti"])).path == twins["nifti"]
    assert is_scan(str(twins["dicom"]))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.png", "picture"),
        ("a.JPG", "picture"),
        ("a.b.tiff", "picture"),
        ("a.nii", "nifti"),
        ("a.NII.gz", "nifti"),
        ("a.DCM", "dicom"),
        ("a.dicom", "dicom"),
    ],
)
def test_endings_tell_the_kind_of_any_file(tmp_path: Path, name: str, kind: str) -> None:
    assert is_scan(tmp_path / name)
    assert scan_kind(tmp_path / name) == kind


@pytest.mark.parametrize("name", ["IM_0001", "1.2.840.113619.2.55", "001", "scan.IMA", "a.img"])
def test_dicom_by_its_first_bytes(twins: dict[str, Path], tmp_path: Path, name: str) -> None:
    path = twins["dicom"].rename(tmp_path / name)
    assert is_scan(path)
    assert read_scan(path).kind == "dicom"


@pytest.mark.parametrize("name", ["notes", "a.txt", "a.gz", "1.2.3"])
def test_what_is_no_scan(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("dear reader" * 50)
    assert not is_scan(path)
    with pytest.raises(DecodeError, match=rf"{name} is no image by its name or first bytes"):
        read_scan(path)


def test_table_of_contents_of_a_disc_is_no_scan(twins: dict[str, Path], tmp_path: Path) -> None:
    path = twins["dicom"].rename(tmp_path / "DICOMDIR")
    assert not is_scan(path)
    with pytest.raises(DecodeError, match="DICOMDIR"):
        read_scan(path)


def test_folders_and_missing_files_are_no_scans(tmp_path: Path) -> None:
    assert not is_scan(tmp_path)
    assert not is_scan(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        read_scan(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        read_scan(tmp_path / "none.dcm")


def test_without_the_extra_other_kinds_are_read(twins: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    read_scan(twins["picture"])
    read_scan(twins["nifti"])
    assert is_scan(twins["dicom"])
    with pytest.raises(ImportError, match=r"pip install 'phnet-monai\[dicom\]'"):
        read_scan(twins["dicom"])
