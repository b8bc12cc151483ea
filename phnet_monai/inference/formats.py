"""Results in the kind of their source: PNG for pictures, NIfTI for NIfTI, DICOM SEG for DICOM.

Each file is there completely or not at all.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from phnet_monai import __version__
from phnet_monai.data.nifti import open_nifti
from phnet_monai.data.scan import Kind, Scan
from phnet_monai.files import atomic_writer
from phnet_monai.inference.dicom_seg import write_seg
from phnet_monai.inference.writers import write_mask, write_probabilities

_SUFFIXES: dict[Kind, str] = {"picture": ".png", "nifti": ".nii.gz", "dicom": ".dcm"}

_COMPRESSION = 6
"""gzip's level: at 9, its default in Python, masks take six times as long for a quarter of a small size."""


def mask_suffix(kind: Kind) -> str:
    """File name ending of the results (masks and probabilities) of a kind of scan."""
    return _SUFFIXES[kind]


def write_scan_masks(
    path: str | Path, scan: Scan, masks: np.ndarray, *, model: str = "unnamed", version: str = __version__
) -> None:
    """Write the masks of all frames of a scan as one file.

    Args:
        path: file to write; its ending is not looked at (see `mask_suffix`).
        scan: what the masks were made of. For NIfTI and DICOM its file is opened again for its header.
        masks: bool (N, H, W).
        model: name of the model, kept in a DICOM SEG.
        version: version of phnet-monai, kept in a DICOM SEG.

    Writes:
        picture: PNG of 0 and 255.
        NIfTI: uint8 of 0 and 1, gzipped; shape, index order, affine and codes of the source.
        DICOM: BINARY SEG with the patient and study of the source (see `dicom_seg.write_seg`).

    Raises:
        ValueError: another type or shape, or a DICOM source that no SEG can refer to.
        OSError: a file cannot be read or written.
        MissingExtraError: DICOM without the extra `dicom`.
    """
    if masks.dtype != np.bool_:
        raise ValueError(f"{path}: expected bool masks, found {masks.dtype}; compare with a threshold first")
    _check_shape(path, scan, masks)
    if scan.kind == "picture":
        write_mask(path, masks[0])
    elif scan.kind == "nifti":
        _write_nifti(path, scan, masks.astype(np.uint8))
    else:
        write_seg(path, scan.path, masks, model=model, version=version)


def write_scan_probabilities(
    path: str | Path, scan: Scan, probs: np.ndarray, *, model: str = "unnamed", version: str = __version__
) -> None:
    """Write the lesion probabilities of all frames of a scan as one file.

    Args:
        probs: float32 (N, H, W) in [0, 1].
        path, scan, model, version: as in `write_scan_masks`.

    Writes:
        picture: 8-bit PNG, round(255 * p).
        NIfTI: float32, gzipped; shape, index order, affine and codes of the source.
        DICOM: FRACTIONAL SEG, round(255 * p), with the patient and study of the source.

    Raises:
        ValueError, OSError, MissingExtraError: as in `write_scan_masks`.
    """
    _check_shape(path, scan, probs)
    if not (np.isfinite(probs).all() and probs.min() >= 0 and probs.max() <= 1):
        raise ValueError(f"{path}: expected probabilities in [0, 1]")
    if scan.kind == "picture":
        write_probabilities(path, probs[0])
    elif scan.kind == "nifti":
        _write_nifti(path, scan, probs.astype(np.float32))
    else:
        probs = probs.astype(np.float32)
        write_seg(path, scan.path, probs, model=model, version=version)


def _check_shape(path: str | Path, scan: Scan, values: np.ndarray) -> None:
    if values.shape != scan.frames.shape:
        raise ValueError(f"{path}: expected results of shape {scan.frames.shape} (N, H, W), found {values.shape}")


def _write_nifti(path: str | Path, scan: Scan, values: np.ndarray) -> None:
    """Write (N, H, W) with the header of the scan's file."""
    with open_nifti(scan.path) as source:
        header = source.header.copy()
        # extensions can hold whole DICOM headers, the texts a name: a mask needs neither
        header.extensions.clear()
        for field in ("descrip", "aux_file", "db_name", "intent_name", "data_type"):
            if field in header:
                header[field] = b""
        header.set_intent("none")
        header.set_data_dtype(values.dtype)
        header.set_data_offset(0)
        header["cal_min"], header["cal_max"] = 0, 0
        result = type(source)(values.transpose(2, 1, 0).reshape(source.shape), source.affine, header)
    with atomic_writer(path) as stream, gzip.GzipFile("", "wb", _COMPRESSION, stream, mtime=0) as packed:
        result.to_stream(packed)
