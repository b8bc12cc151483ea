"""Text, calipers and lines that a scanner drew into the picture, and colour.

Speckle is blurred by the machine's point spread: its grey changes over several pixels. What is drawn ends within one
pixel, is brighter than all around it, and mostly of one grey. A mark is a connected region of pixels that do, see
`find_marks`. How well that tells marks from tissue was checked by looking (`docs/audit.md`); marks that are dark,
blurred by rescaling, or hidden in bright tissue are not found.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from scipy import ndimage

MIN_GREY = 120
MIN_EDGE = 60
"""Grey levels by which a drawn pixel exceeds the darkest of its eight neighbours."""

MIN_AREA = 12
FLAT_SHARE, FLAT_STEP = 0.80, 45
"""A region of one grey: share of its pixels within 8 levels of its upper quartile, and levels above the ring around."""

SHARP_SHARE, SHARP_STEP = 0.25, 90
"""The same where the grey is less even (anti-aliased text) but the step is high."""

CORNER = 0.12
"""Share of the shorter side within which a mark counts as one of a corner (a scanner's symbol) and not of the scan."""

COLOUR_STEP = 16
"""Difference of two colour channels from which a pixel is in colour."""

COLOUR_SHARE = 0.0002
"""Share of the pixels in colour from which an image is one in colour."""


class Mark(NamedTuple):
    """A drawn region: its box as rows and columns (ends excluded), its pixels, and where it is."""

    top: int
    left: int
    bottom: int
    right: int
    area: int
    place: Literal["scan", "corner"]


def find_marks(image: np.ndarray) -> list[Mark]:
    """Find bright drawn marks: letters, calipers, the larger dots of lines.

    Args:
        image: uint8 (H, W).

    Returns:
        marks from top to bottom, one a connected region, so one a letter. Regions of fewer than 12 pixels are left out,
        and so are lines along the border of the image, where a crop ends in bright skin.

    Raises:
        ValueError: not uint8 (H, W).
    """
    if image.ndim != 2 or image.dtype != np.uint8:
        raise ValueError(f"image: expected uint8 (H, W), found {image.dtype} {image.shape}")
    drawn = (image >= MIN_GREY) & (image - _lowest_around(image) >= MIN_EDGE)
    regions, count = ndimage.label(drawn, np.ones((3, 3)))
    areas = np.bincount(regions.ravel(), minlength=count + 1)
    boxes = ndimage.find_objects(regions)
    marks = []
    for number in np.flatnonzero(areas[1:] >= MIN_AREA) + 1:
        rows, columns = boxes[number - 1]
        if not _along_border(rows, columns, image.shape) and _is_drawn(image, regions, int(number), rows, columns):
            place: Literal["scan", "corner"] = "corner" if _in_corner(rows, columns, image.shape) else "scan"
            marks.append(Mark(rows.start, columns.start, rows.stop, columns.stop, int(areas[number]), place))
    return sorted(marks)


def colour_share(colours: np.ndarray) -> float:
    """Share of the pixels that are in colour: two channels differ by `COLOUR_STEP` levels or more.

    Args:
        colours: uint8 (H, W, 3).

    Returns:
        0 to 1; 0 for a grey picture stored in three channels.
    """
    if not colours.size:
        return 0.0
    spread = colours.max(axis=2) - colours.min(axis=2)
    return float((spread >= COLOUR_STEP).mean())


def _lowest_around(image: np.ndarray) -> np.ndarray:
    """Minimum over 3 x 3 pixels; eight times as fast as `ndimage.minimum_filter`, and the hottest line of the audit."""
    padded = np.pad(image, 1, mode="edge")
    rows = np.minimum(np.minimum(padded[:-2], padded[1:-1]), padded[2:])
    return np.minimum(np.minimum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])


def _is_drawn(image: np.ndarray, regions: np.ndarray, number: int, rows: slice, columns: slice) -> bool:
    """Whether the region is of an even grey, and that grey stands out from the ring of pixels around it."""
    around = (slice(max(rows.start - 1, 0), rows.stop + 1), slice(max(columns.start - 1, 0), columns.stop + 1))
    inside, values = regions[around] == number, image[around].astype(np.int16)
    ring = ndimage.binary_dilation(inside, np.ones((3, 3))) & ~inside
    if not ring.any():
        return False
    level = np.percentile(values[inside], 75)
    even = (np.abs(values[inside] - level) <= 8).mean()
    step = level - np.median(values[ring])
    return bool((even >= FLAT_SHARE and step >= FLAT_STEP) or (even >= SHARP_SHARE and step >= SHARP_STEP))


def _along_border(rows: slice, columns: slice, shape: tuple[int, ...]) -> bool:
    height, width = rows.stop - rows.start, columns.stop - columns.start
    at_rows = rows.start <= 2 or rows.stop >= shape[0] - 2
    at_columns = columns.start <= 2 or columns.stop >= shape[1] - 2
    return (at_rows and height <= 3 and width >= 3 * height) or (at_columns and width <= 3 and height >= 3 * width)


def _in_corner(rows: slice, columns: slice, shape: tuple[int, ...]) -> bool:
    reach = max(24.0, CORNER * min(shape))
    at_rows = rows.stop <= reach or rows.start >= shape[0] - reach
    at_columns = columns.stop <= reach or columns.start >= shape[1] - reach
    return at_rows and at_columns
