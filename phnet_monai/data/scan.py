"""What a hospital has as frames of grey: pictures, NIfTI and DICOM behind one function."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np

from phnet_monai.data.decode import IMAGE_SUFFIXES, DecodeError, read_image
from phnet_monai.data.dicom import has_dicom_magic, read_dicom
from phnet_monai.data.nifti import read_nifti

Kind = Literal["picture", "nifti", "dicom"]

NIFTI_ENDINGS: tuple[str, ...] = (".nii", ".nii.gz")
DICOM_ENDINGS: tuple[str, ...] = (".dcm", ".dicom")
SCAN_ENDINGS: tuple[str, ...] = (*IMAGE_SUFFIXES, *NIFTI_ENDINGS, *DICOM_ENDINGS)
"""File name endings (lower case) of all that can be read; DICOM files may have none or any other."""


@dataclass(frozen=True)
class Scan:
    """One input file.

    Attributes:
        frames: uint8 (N, H, W), rows first, the grey scale of `decode.read_image`. A picture is one frame.
        spacing_mm: distance between rows and between columns in mm; None where the file does not say.
        kind: what the file is; decides how results are written.
        path: the file.
        other_modality: of a DICOM file that says it is no ultrasound (`dicom.read_dicom`).
    """

    frames: np.ndarray
    spacing_mm: tuple[float, float] | None
    kind: Kind
    path: Path
    other_modality: str | None = None


def read_scan(path: str | PathLike[str]) -> Scan:
    """Read one picture, NIfTI or DICOM file.

    How values become grey and where the spacing comes from is stated in `decode.read_image`, `nifti.read_nifti`
    and `dicom.read_dicom`. Pictures have no spacing: resolutions stated in them are those of a printer.

    Raises:
        FileNotFoundError: there is no such file.
        DecodeError: the file is empty, truncated, too large, of a kind that is not read or holds no picture. The
            message names the file and nothing that stands in its tags about a patient.
        MissingExtraError: a DICOM file without the extra `dicom`; the message names what to install.
    """
    path = Path(path)
    kind = scan_kind(path)
    if kind == "picture":
        return Scan(read_image(path)[None], None, kind, path)
    if kind == "nifti":
        return Scan(*read_nifti(path), kind, path)
    frames, spacing, other_modality = read_dicom(path)
    return Scan(frames, spacing, kind, path, other_modality)


def is_scan(path: str | PathLike[str]) -> bool:
    """True where `read_scan` is worth trying: by the ending (any case), else by DICOM's magic number.

    `DICOMDIR`, the table of contents of a DICOM disc, is none although it has that number.
    """
    return _kind(Path(path)) is not None


def is_dicom(path: str | PathLike[str]) -> bool:
    """True where `read_scan` would take the file for DICOM."""
    return _kind(Path(path)) == "dicom"


def scan_kind(path: str | PathLike[str]) -> Kind:
    """Which reader a file belongs to.

    Raises:
        FileNotFoundError: there is no such file, and its name does not tell.
        DecodeError: neither the name nor the first bytes tell.
    """
    path = Path(path)
    kind = _kind(path)
    if kind is not None:
        return kind
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    raise DecodeError(
        f"{path} is no image by its name or first bytes; expected one ending in {', '.join(SCAN_ENDINGS)}, or a DICOM "
        "file of any name."
    )


def _kind(path: Path) -> Kind | None:
    name = path.name.lower()
    if name.endswith(IMAGE_SUFFIXES):
        return "picture"
    if name.endswith(NIFTI_ENDINGS):
        return "nifti"
    if name.endswith(DICOM_ENDINGS):
        return "dicom"
    # many archives give DICOM no ending, the UID (1.2.840.1), or their own (.IMA, .img)
    return "dicom" if name != "dicomdir" and has_dicom_magic(path) else None
