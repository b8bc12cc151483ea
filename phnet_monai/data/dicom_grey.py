"""From the stored values of DICOM frames to grey: modality and VOI transformations, palettes, colours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from phnet_monai.data.decode import DecodeError, luminance
from phnet_monai.data.dicom_groups import Elements, with_elements

_WINDOW_FUNCTIONS = ("LINEAR_EXACT", "SIGMOID")
"""Besides LINEAR, for which every other one is taken."""

Convert = Callable[[np.ndarray], np.ndarray]


def grey_of_frames(path: Path, header: Any, own: Sequence[Elements]) -> Callable[[int, np.ndarray], np.ndarray]:
    """Function of a frame's number and its decoded pixels, (H, W) or (H, W, 3), that gives uint8 (H, W).

    Args:
        path: for messages.
        own: what holds for each frame alone (`dicom_groups.of_frames`); empty where all are alike.

    Raises:
        DecodeError: a look-up table, rescaling or window cannot be used; with `own`, that of a later frame raises
            when it is asked for.
    """
    if header.SamplesPerPixel == 3:
        colour = _colour_converter(header)
        return lambda _, pixels: colour(pixels)
    if not own:
        grey = _grey_converter(path, header)
        return lambda _, pixels: grey(pixels)

    @lru_cache(maxsize=1)  # neighbours are often alike, and a table of each of thousands would fill the memory
    def converter(elements: tuple[tuple[str, str], ...], number: int) -> Convert:
        return _grey_converter(path, with_elements(header, own[number]))

    keys = [tuple((keyword, str(element.value)) for keyword, element in elements.items()) for elements in own]
    first = {key: number for number, key in reversed(list(enumerate(keys)))}
    converter(keys[0], first[keys[0]])  # what cannot be used is told before any frame is decoded
    return lambda number, pixels: converter(keys[number], first[keys[number]])(pixels)


def _colour_converter(header: Any) -> Convert:
    """Function of one frame (H, W, 3) that gives uint8 (H, W)."""
    brightest = 2 ** int(header.BitsStored) - 1

    def to_grey(pixels: np.ndarray) -> np.ndarray:
        if brightest != 255:
            pixels = np.rint(pixels * (255 / brightest)).astype(np.uint8)
        return luminance(pixels)

    return to_grey


def _grey_converter(path: Path, header: Any) -> Convert:
    """Function of one frame (H, W) that gives uint8 (H, W): a look-up of all values that the stored bits can have."""
    bits = int(header.BitsStored)
    lowest = -(2 ** (bits - 1)) if header.get("PixelRepresentation") == 1 else 0
    stored = np.arange(lowest, lowest + 2**bits)
    try:
        if header.PhotometricInterpretation == "PALETTE COLOR":
            table = _palette(stored, header)
        else:
            table = np.rint(255 * _displayed(stored, header).clip(0, 1)).astype(np.uint8)
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

    entries, first, _ = header.RedPaletteColorLookupTableDescriptor
    entries = entries or 2**16
    for keyword in (f"{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")):
        if data := header.get(keyword):  # pydicom takes words as they lie, and the byte that makes a table even for one
            data = data if header.original_encoding[1] else _swapped(data)
            setattr(header, keyword, data[:entries] if len(data) == entries + 1 else data)
    # it counts indices in the table's own type, where those beyond it begin anew
    stored = stored.clip(first, first + entries - 1)
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
    if not 1 <= bits <= 16:
        raise ValueError(f"a look-up table of {bits} bits")
    entries = entries or 2**16
    if first >= 2**15 and values.min() < 0:  # where types are implicit, its sign is that of the stored values
        first -= 2**16
    data = item.LUTData
    if isinstance(data, bytes):
        data = data if header.original_encoding[1] else _swapped(data)
        data = np.frombuffer(data, "<u2" if len(data) >= 2 * entries else "u1")
    table = np.asarray(data, dtype=np.float64)[:entries]
    index = np.clip(np.rint(values).astype(np.int64) - first, 0, len(table) - 1)
    return table[index], 0.0, 2.0**bits - 1


def _swapped(data: bytes) -> bytes:
    """Words of a big-endian file, little-endian; bytes in tables are packed into words, too."""
    return np.frombuffer(data[: len(data) // 2 * 2], ">u2").astype("<u2").tobytes()


def _window(header: Any) -> tuple[float, float, str] | None:
    """Centre, width and function of the first window; None without a valid one."""
    centre, width = (_first(header.get(keyword)) for keyword in ("WindowCenter", "WindowWidth"))
    function = str(header.get("VOILUTFunction") or "LINEAR").upper()
    if centre is None or width is None or width <= 0 or (function not in _WINDOW_FUNCTIONS and width < 1):
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
