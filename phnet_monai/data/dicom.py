"""DICOM files to frames of grey: single- and multi-frame ultrasound, and whatever else holds pictures.

Only the elements listed in `_TAGS` are taken from a file. What it says about a patient is never looked at, so that it
cannot stand in a message.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from phnet_monai.data.decode import DecodeError, NoImageError, check_not_empty, check_stack_size, luminance
from phnet_monai.data.gdcm_process import GDCM, INTERLEAVED, decoded_apart
from phnet_monai.data.jpeg_frames import colour_frames, stated_size
from phnet_monai.extras import extra_module

_TAGS = (
    "SOPClassUID",
    *("SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "PixelRepresentation"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    *(
        f"{colour}PaletteColorLookupTable{part}"
        for colour in ("Red", "Green", "Blue")
        for part in ("Descriptor", "Data")
    ),
    *(f"Segmented{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
    *("SequenceOfUltrasoundRegions", "PixelSpacing", "ImagerPixelSpacing", "SharedFunctionalGroupsSequence"),
)

_SHARED_GROUPS = {
    "PixelMeasuresSequence": ("PixelSpacing",),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction"),
}
"""Where enhanced multi-frame objects keep what others have at the top."""

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
}
"""Classes of DICOM objects that lie beside images in an export, by the beginning of what follows `_STORAGE`."""

_DEFLATED = "1.2.840.10008.1.2.1.99"
_LOSSY_JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
"""Baseline and extended."""

_PIXEL_DATA = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")
"""The element's tag in both byte orders."""

_LONG_ELEMENT = 12
"""Bytes before the value of the pixel data: tag, type, two empty ones, length."""

_SAME_SPACING = 0.01
"""Regions whose spacings differ by more than this share are of different scales."""

_VIEW = 0.25
"""A region of at least this share of the largest one's pixels is a view of its own, a smaller one an inset."""

_GREY = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_MAX_BITS = 16

_TWO_DIMENSIONAL, _CENTIMETRE = 1, 3
"""Codes of RegionSpatialFormat and of the physical units of a region."""

_PLACEHOLDER_MM = (1.0, 1.0)
"""Converters write this PixelSpacing where they know nothing; no ultrasound frame has pixels of 1 mm."""

_ONE_AT_A_TIME = threading.Lock()


def has_dicom_magic(path: Path) -> bool:
    """True for a readable file with `DICM` after the 128 bytes of preamble."""
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_dicom(path: Path) -> tuple[np.ndarray, tuple[float, float] | None]:
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
        frames = np.empty(layout.shape, dtype=np.uint8)
        _fill(frames, path, stream, layout)
    return frames, layout.spacing


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
        shape: (N, H, W).
        to_grey: function of one decoded frame that gives uint8 (H, W).
        spacing: in mm.
        compressed_at: where in the file the compressed frames begin; None where they are not compressed.
        plugin: which of pydicom's decoders reads them; empty: none is needed.
        lossy_colour: of lossy JPEG frames in colour the photometric interpretation, else empty.
    """

    shape: tuple[int, int, int]
    to_grey: Callable[[np.ndarray], np.ndarray]
    spacing: tuple[float, float] | None
    compressed_at: int | None
    plugin: str
    lossy_colour: str


def _read_layout(path: Path, stream: BinaryIO) -> _Layout:
    """Everything but the pixels, once it is clear that they are pictures that can be read."""
    try:
        with quiet_pydicom():
            header, compressed_at, plugin, lossy = _read_header(path, stream)
            count, height, width = int(header.get("NumberOfFrames") or 1), int(header.Rows), int(header.Columns)
            check_stack_size(path, frames=count, height=height, width=width)
            coloured = header.SamplesPerPixel == 3
            to_grey = _colour_converter(header) if coloured else _grey_converter(path, header)
            lossy_colour = str(header.PhotometricInterpretation) if lossy and coloured else ""
            return _Layout((count, height, width), to_grey, _spacing(header), compressed_at, plugin, lossy_colour)
    except DecodeError:
        raise
    except Exception as error:
        # the text of the error may quote the file
        raise DecodeError(
            f"{path} cannot be read as DICOM ({type(error).__name__}). Expected a complete file with the mark DICM at "
            "byte 128; copy or export it again, or take it out of the folder."
        ) from None


def _read_header(path: Path, stream: BinaryIO) -> tuple[Any, int | None, str, bool]:
    """Dataset of the elements in `_TAGS`, where compressed frames begin, which plugin decodes them, and whether they
    are lossy JPEG of 8 bits."""
    import pydicom

    syntax = pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID")
    if syntax == _DEFLATED:  # unpacked at once, whatever its size
        raise DecodeError(f"{path} is a deflated DICOM file. Save it as Explicit VR Little Endian.")
    header = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=list(_TAGS))
    pixels_at = stream.tell()
    has_pixels = stream.read(4) in _PIXEL_DATA
    _check_image(path, header, has_pixels)
    _lift_shared_groups(header)
    bits = int(header.BitsStored)
    plugin = _choose_decoder(path, syntax, bits)
    lossy = bits <= 8 and syntax in _LOSSY_JPEG
    return header, pixels_at + _LONG_ELEMENT if syntax.is_encapsulated else None, plugin, lossy


def _lift_shared_groups(header: Any) -> None:
    for group in header.get("SharedFunctionalGroupsSequence") or []:
        for name, keywords in _SHARED_GROUPS.items():
            for item in group.get(name) or []:
                for keyword in keywords:
                    if keyword in item:
                        header.add(item[keyword])


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


def _choose_decoder(path: Path, syntax: Any, bits: int) -> str:
    """One of pydicom's plugins, GDCM (in a process of its own) only where it is the only one.

    Raises:
        DecodeError: there is none.
    """
    from pydicom.pixels import get_decoder
    from pydicom.uid import JPEGExtended12Bit

    if syntax is None:
        raise DecodeError(f"{path} does not say how its pixels are stored (no TransferSyntaxUID). Export it again.")
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise DecodeError(
            f"{path} is compressed as {syntax.name}, which is not read. Export it uncompressed, or as JPEG or "
            "JPEG 2000 frames."
        ) from None
    if not decoder.is_available:
        raise DecodeError(
            f"{path} is compressed as {syntax.name}, for which no decoder is installed. Run: pip install "
            "'phnet-monai[dicom]' (or export it uncompressed)"
        )
    if not syntax.is_encapsulated:
        return ""
    names = [name for name in decoder.available_plugins if name != GDCM]
    if syntax != JPEGExtended12Bit or bits <= 8:
        return names[0] if names else GDCM
    names = [name for name in names if name != "pillow"]  # GDCM and Pillow read this kind of 8 bits only
    if not names:
        raise DecodeError(
            f"{path} is compressed as lossy JPEG of {bits} bits, which is not read. Export it uncompressed, or as JPEG "
            "2000 frames."
        )
    return names[0]


def _fill(frames: np.ndarray, path: Path, stream: BinaryIO, layout: _Layout) -> None:
    """Write the grey values of all frames into `frames`, uint8 (N, H, W), one decoded frame in memory at a time."""
    done = 0
    try:
        if layout.compressed_at is not None:
            stream.seek(layout.compressed_at)
            _check_compressed(path, stream, layout.shape)
        for pixels in _decoded(path, stream, layout):
            if done < len(frames):  # else more than stated, which is told below
                frames[done] = layout.to_grey(pixels)
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


def _check_compressed(path: Path, stream: BinaryIO, shape: tuple[int, int, int]) -> None:
    """Raise DecodeError if a frame says of itself that it has another size: a decoder would unpack that one.

    Args:
        stream: at the first byte of the encapsulated frames.
    """
    from pydicom.encaps import generate_frames

    count, height, width = shape
    for number, frame in enumerate(generate_frames(stream, number_of_frames=count), 1):
        found = stated_size(frame)
        if found is not None and found != (height, width):
            raise DecodeError(
                f"{path}: frame {number} is compressed with {found[1]} x {found[0]} pixels, its header states "
                f"{width} x {height}. Export it again."
            )


def _decoded(path: Path, stream: BinaryIO, layout: _Layout) -> Iterator[np.ndarray]:
    from pydicom.encaps import generate_frames
    from pydicom.pixels import iter_pixels

    if layout.plugin == GDCM:
        return decoded_apart(path)
    if layout.lossy_colour and layout.compressed_at is not None:
        stream.seek(layout.compressed_at)
        return colour_frames(generate_frames(stream, number_of_frames=layout.shape[0]), layout.lossy_colour)
    stream.seek(0)
    return iter_pixels(stream, decoding_plugin=layout.plugin, **(INTERLEAVED if layout.plugin else {}))


def _colour_converter(header: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Function of one frame (H, W, 3) that gives uint8 (H, W)."""
    brightest = 2 ** int(header.BitsStored) - 1

    def to_grey(pixels: np.ndarray) -> np.ndarray:
        if brightest != 255:
            pixels = np.rint(pixels * (255 / brightest)).astype(np.uint8)
        return luminance(pixels)

    return to_grey


def _grey_converter(path: Path, header: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Function of one frame (H, W) that gives uint8 (H, W): a look-up of all values that the stored bits can have."""
    bits = int(header.BitsStored)
    lowest = -(2 ** (bits - 1)) if header.get("PixelRepresentation") == 1 else 0
    stored = np.arange(lowest, lowest + 2**bits)
    try:
        if header.PhotometricInterpretation == "PALETTE COLOR":
            table = _palette(stored, header)
        else:
            table = np.rint(255 * _displayed(stored, header)).astype(np.uint8)
    except Exception as error:
        raise DecodeError(
            f"{path} has a look-up table, rescaling or window that cannot be used ({type(error).__name__}). Export it "
            "again."
        ) from None
    if header.PhotometricInterpretation == "MONOCHROME1":
        table = 255 - table
    return lambda pixels: table.take(pixels.astype(np.int32) - lowest if lowest else pixels, mode="clip")


def _palette(stored: np.ndarray, header: Any) -> np.ndarray:
    from pydicom.pixels import apply_color_lut

    colours = apply_color_lut(stored, header)
    # some write 8-bit values into tables of 16 bits
    if colours.dtype != np.uint8 and colours.max() > 255:
        colours = np.rint(colours / 257)
    return luminance(colours.astype(np.uint8)[None])[0]


def _displayed(stored: np.ndarray, header: Any) -> np.ndarray:
    """Brightness in [0, 1] of stored values, float64 of their shape (DICOM PS3.3 C.11.1 and C.11.2)."""
    values, darkest, brightest = _modality_values(stored, header)
    voi = header.get("VOILUTSequence")
    if voi:
        values, darkest, brightest = _looked_up(values, voi[0], header)
    elif (window := _window(header)) is not None:
        return _windowed(values, *window)
    return (values - darkest) / (brightest - darkest)


def _modality_values(stored: np.ndarray, header: Any) -> tuple[np.ndarray, float, float]:
    """Values after the modality transformation, and the ends of their range."""
    modality = header.get("ModalityLUTSequence")
    if modality:
        return _looked_up(stored, modality[0], header)
    slope, intercept = header.get("RescaleSlope"), header.get("RescaleIntercept")
    values = stored.astype(np.float64)
    if slope is not None and intercept is not None and float(slope) != 0:
        values = values * float(slope) + float(intercept)
    return values, float(values.min()), float(values.max())


def _looked_up(values: np.ndarray, item: Any, header: Any) -> tuple[np.ndarray, float, float]:
    """`values` through a LUT; the ends are those of its nominal bits."""
    entries, first, bits = (int(number) for number in item.LUTDescriptor)
    entries = entries or 2**16
    data = item.LUTData
    if isinstance(data, bytes):
        little = header.original_encoding[1]
        data = np.frombuffer(data, ("<u2" if little else ">u2") if len(data) >= 2 * entries else "u1")
    table = np.asarray(data, dtype=np.float64)[:entries]
    index = np.clip(np.rint(values).astype(np.int64) - first, 0, len(table) - 1)
    return table[index], 0.0, 2.0**bits - 1


def _window(header: Any) -> tuple[float, float, str] | None:
    """Centre, width and function of the first window; None without a valid one."""
    centre, width = (_first(header.get(keyword)) for keyword in ("WindowCenter", "WindowWidth"))
    function = str(header.get("VOILUTFunction") or "LINEAR").upper()
    if centre is None or width is None or width <= 0 or (function == "LINEAR" and width < 1):
        return None
    return centre, width, function


def _first(value: Any) -> float | None:
    if value is None or isinstance(value, str):
        return None
    if isinstance(value, Sequence):
        return _first(value[0]) if value else None
    return float(value)


def _windowed(values: np.ndarray, centre: float, width: float, function: str) -> np.ndarray:
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    if width == 1:
        return (values > centre - 0.5).astype(np.float64)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def _spacing(header: Any) -> tuple[float, float] | None:
    try:
        regions = [_region(item) for item in header.get("SequenceOfUltrasoundRegions") or []]
        measured = [region for region in regions if region is not None]
        if measured:
            largest, spacing = max(measured)
            others = [own for area, own in measured if area >= _VIEW * largest]
            # two views, each of its own scale: no single spacing measures both
            return spacing if all(np.allclose(own, spacing, rtol=_SAME_SPACING) for own in others) else None
        for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
            values = header.get(keyword)
            if values is not None and len(values) == 2:
                spacing = (float(values[0]), float(values[1]))
                if _is_length(*spacing) and spacing != _PLACEHOLDER_MM:
                    return spacing
    except (TypeError, ValueError, AttributeError):  # numbers that are none: as good as unknown
        return None
    return None


def _region(item: Any) -> tuple[int, tuple[float, float]] | None:
    """Area in pixels and spacing in mm of a two-dimensional region that is measured in cm."""
    units = [item.get(f"PhysicalUnits{axis}Direction") for axis in "XY"]
    if item.get("RegionSpatialFormat") != _TWO_DIMENSIONAL or units != [_CENTIMETRE, _CENTIMETRE]:
        return None
    deltas = [item.get(f"PhysicalDelta{axis}") for axis in "YX"]
    if None in deltas:
        return None
    spacing = (abs(float(deltas[0])) * 10, abs(float(deltas[1])) * 10)
    corners = [int(item.get(f"RegionLocation{corner}") or 0) for corner in ("MinX0", "MinY0", "MaxX1", "MaxY1")]
    area = (corners[2] - corners[0] + 1) * (corners[3] - corners[1] + 1)
    return (area, spacing) if _is_length(*spacing) else None


def _is_length(*values: float) -> bool:
    return all(np.isfinite(value) and value > 0 for value in values)
