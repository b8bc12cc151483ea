"""DICOM files to frames of grey: single- and multi-frame ultrasound, and whatever else holds pictures.

Only the elements listed in `_TAGS` are taken from a file. What it says about a patient is never looked at, so that it
cannot stand in a message.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from phnet_monai.data.decode import DecodeError, NoImageError, check_not_empty, check_stack_size
from phnet_monai.data.dicom_frames import Storage, decoded_frames, storage_of
from phnet_monai.data.dicom_grey import grey_of_frames
from phnet_monai.data.dicom_groups import lift_shared, of_frames
from phnet_monai.data.dicom_spacing import pixel_spacing
from phnet_monai.extras import extra_module

_TAGS = (
    *("SOPClassUID", "Modality"),
    *("SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    *(
        f"{colour}PaletteColorLookupTable{part}"
        for colour in ("Red", "Green", "Blue")
        for part in ("Descriptor", "Data")
    ),
    *(f"Segmented{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
    *("SequenceOfUltrasoundRegions", "PixelSpacing", "ImagerPixelSpacing"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)

_STORAGE = "1.2.840.10008.5.1.4.1.1."
_NO_IMAGES = {
    "88.": "a report",
    "11.": "a presentation state",
    "104.": "a packed document",
    "66.4": "a segmentation, a result",
    "66.7": "a segmentation, a result",
    "66": "raw data or a registration",
    "67": "a table of values",
    "9.": "a waveform",
    "481.3": "a structure set",
    "481.5": "a plan",
}
"""Classes of DICOM objects that lie beside images in an export, by the beginning of what follows `_STORAGE`."""

_DEFLATED = "1.2.840.10008.1.2.1.99"
_PIXEL_DATA = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")
"""The element's tag in both byte orders."""

_LONG_ELEMENT = 12
"""Bytes before the value of the pixel data: tag, type, two empty ones, length."""

_GREY = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_MAX_BITS = 16

_ONE_AT_A_TIME = threading.Lock()


def has_dicom_magic(path: Path) -> bool:
    """True for a readable file with `DICM` after the 128 bytes of preamble."""
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_dicom(path: Path) -> tuple[np.ndarray, tuple[float, float] | None, str | None]:
    """Read a DICOM file as frames. Needs the extra `dicom`.

    Grey scale: the modality transformation and the first VOI LUT or window where the file has them, as a viewer
    shows it; else the full range of the stored bits becomes 0 to 255 (8 bits: unchanged; 16 bits: divided by 65535
    as `read_image` does; 12 bits: by 4095). MONOCHROME1 is inverted, palettes give their colours, and colour is
    weighted by ITU-R 601.

    Spacing: of the largest two-dimensional ultrasound region measured in cm; without one PixelSpacing, then
    ImagerPixelSpacing. Exactly 1 x 1 mm in the latter two means unknown.

    Args:
        path: MONOCHROME1, MONOCHROME2, PALETTE COLOR, RGB or YBR, at most 16 bits, one frame or many,
            uncompressed or in any still-image compression that pydicom finds a decoder for; not deflated.

    Returns:
        frames: uint8 (N, H, W).
        spacing: distance between rows and between columns in mm, or None.
        other_modality: what the file says it is (`MG`, `CT`), where that is not ultrasound; None also for captures of
            a screen (`OT`, `SC`), which are of anything, and where nothing is said. Text that is no code, which might
            be a name, is not repeated: `another kind`.

    Raises:
        FileNotFoundError: there is no such file.
        NoImageError: a DICOM object of another kind (report, presentation state, segmentation, ...).
        DecodeError: the file is empty, truncated, too large, holds no picture, or is stored in a way that is not
            read; for a compression without decoder the message names what to install.
        MissingExtraError: pydicom is missing.
    """
    require_pydicom()
    with path.open("rb") as stream:
        check_not_empty(path, stream)
        layout = _read_layout(path, stream)
        frames = np.empty(layout.storage.shape, dtype=np.uint8)
        _fill(frames, path, stream, layout)
    return frames, layout.spacing, layout.other_modality


def require_pydicom() -> None:
    """Raise MissingExtraError with what to install if the extra `dicom` is missing."""
    extra_module("pydicom", "dicom", purpose="reading DICOM")


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Keep pydicom from quoting values of elements in warnings and logs while the block lasts.

    One thread at a time: pydicom has one switch for all.
    """
    from pydicom.config import disable_value_validation

    with _ONE_AT_A_TIME, disable_value_validation():
        yield


@dataclass(frozen=True)
class _Layout:
    """What a header says.

    Attributes:
        storage: how the pixels are stored.
        to_grey: function of a frame's number and its decoded pixels that gives uint8 (H, W).
        spacing: in mm.
        other_modality: as `read_dicom` returns it.
    """

    storage: Storage
    to_grey: Callable[[int, np.ndarray], np.ndarray]
    spacing: tuple[float, float] | None
    other_modality: str | None


def _read_layout(path: Path, stream: BinaryIO) -> _Layout:
    """Everything but the pixels, once it is clear that they are pictures that can be read."""
    try:
        with quiet_pydicom():
            header, storage = _read_header(path, stream)
            own = of_frames(path, header, storage.shape[0])
            to_grey = grey_of_frames(path, header, own)
            return _Layout(storage, to_grey, pixel_spacing(header), _other_modality(header))
    except DecodeError:
        raise
    except Exception as error:
        # the text of the error may quote the file
        raise DecodeError(
            f"{path} cannot be read as DICOM ({type(error).__name__}). Expected a complete file with the mark DICM at "
            "byte 128; copy or export it again, or take it out of the folder."
        ) from None


def _read_header(path: Path, stream: BinaryIO) -> tuple[Any, Storage]:
    """Dataset of the elements in `_TAGS`, and how the pixels are stored."""
    import pydicom

    syntax = pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID")
    if syntax == _DEFLATED:  # unpacked at once, whatever its size
        raise DecodeError(f"{path} is a deflated DICOM file. Save it as Explicit VR Little Endian.")
    header = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=list(_TAGS))
    pixels_at = stream.tell()
    has_pixels = stream.read(4) in _PIXEL_DATA
    _check_image(path, header, has_pixels)
    lift_shared(header)
    storage = storage_of(path, header, syntax, pixels_at + _LONG_ELEMENT)
    count, height, width = storage.shape
    check_stack_size(path, frames=count, height=height, width=width)
    return header, storage


def _other_modality(header: Any) -> str | None:
    code = str(header.get("Modality") or "").strip()
    if code in ("", "US", "OT", "SC"):
        return None
    return code if re.fullmatch("[A-Z0-9]{2,6}", code) else "another kind"


def _check_image(path: Path, header: Any, has_pixels: bool) -> None:
    kind = str(header.get("SOPClassUID") or "").removeprefix(_STORAGE)
    if what := next((what for start, what in _NO_IMAGES.items() if kind.startswith(start)), None):
        raise NoImageError(f"{path} is {what} in DICOM and holds no image")
    needed = ("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored")
    missing = [keyword for keyword in needed if header.get(keyword) is None] + ["PixelData"] * (not has_pixels)
    if missing:
        raise DecodeError(
            f"{path} holds no picture ({', '.join(missing)} missing). It is a report, a table of contents or another "
            "DICOM object without pixels, or it is incomplete; take it out of the folder or copy it again."
        )
    samples, kind, bits = int(header.SamplesPerPixel), str(header.PhotometricInterpretation), int(header.BitsStored)
    if (samples, kind) not in [*((1, grey) for grey in _GREY), *((3, colour) for colour in _COLOUR)]:
        raise DecodeError(
            f"{path} has {samples} samples per pixel of the kind {kind}, expected one of {', '.join(_GREY)}, or three "
            f"of {', '.join(_COLOUR)}. Export it as grey or RGB."
        )
    if not 1 <= bits <= _MAX_BITS:
        raise DecodeError(f"{path} stores {bits} bits per value, expected at most {_MAX_BITS}. Export it with 8 or 16.")


def _fill(frames: np.ndarray, path: Path, stream: BinaryIO, layout: _Layout) -> None:
    """Write the grey values of all frames into `frames`, uint8 (N, H, W), one decoded frame in memory at a time."""
    done = 0
    try:
        for pixels in decoded_frames(path, stream, layout.storage):
            if done < len(frames):  # else more than stated, which is told below
                frames[done] = layout.to_grey(done, pixels)
            done += 1
    except DecodeError:
        raise
    except Exception as error:
        raise DecodeError(
            f"{path}: the pixels of frame {done + 1} of {len(frames)} cannot be decoded ({type(error).__name__}: "
            f"{error}). The file may be incomplete: copy or export it again. If it is complete and compressed, another "
            f"decoder may read it: pip install 'phnet-monai[dicom]'"
        ) from error
    if done != len(frames):
        raise DecodeError(f"{path} holds {done} frames and states {len(frames)}. Copy or export it again.")
