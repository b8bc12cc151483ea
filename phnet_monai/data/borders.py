"""One-coloured bars along the border of an image: letter-boxing, padding to a square, careless cropping."""

from __future__ import annotations

import numpy as np

MARGIN_SHARE = 0.02
"""Share of a side that one-coloured rows or columns along the border must fill to count as a border."""

FLAT_SPAN = 3
"""Grey levels that the values of a one-coloured row or column span at most."""

BAR_SHARE = 0.8
"""Share of a row or column that has one value in a bar with text in it."""


def border_widths(image: np.ndarray) -> dict[str, int]:
    """Find one-coloured bars along the border, left by letter-boxing or careless cropping.

    Args:
        image: uint8 (H, W).

    Returns:
        pixels by side (top, bottom, left, right), for sides where rows or columns whose values span at most 3 levels
        fill 2 % of the height or width or more. A blank image has none.
    """
    flat_rows, flat_columns = (np.ptp(image, axis=axis) <= FLAT_SPAN for axis in (1, 0))
    if flat_rows.all() or flat_columns.all():
        return {}
    widths = {
        "top": _leading(flat_rows),
        "bottom": _leading(flat_rows[::-1]),
        "left": _leading(flat_columns),
        "right": _leading(flat_columns[::-1]),
    }
    sides = {"top": image.shape[0], "bottom": image.shape[0], "left": image.shape[1], "right": image.shape[1]}
    return {name: width for name, width in widths.items() if width and width >= MARGIN_SHARE * sides[name]}


def without_borders(image: np.ndarray) -> np.ndarray:
    """The image, uint8 (H, W), without bars of one colour along its border, in which there may be text; a view of it.

    A row or column belongs to a bar if its values span at most 3 levels, or 80 % of them are the same: text leaves the
    rest of a bar as it is, while dark tissue is noisy. An image that is nothing else stays as it is.
    """
    rows, columns = (_mostly_flat(image, axis) for axis in (1, 0))
    if rows.all() or columns.all():
        return image
    widths = [(_leading(flat), len(flat)) for flat in (rows, rows[::-1], columns, columns[::-1])]
    top, bottom, left, right = (width if width >= MARGIN_SHARE * side else 0 for width, side in widths)
    return image[top : image.shape[0] - bottom, left : image.shape[1] - right]


def _mostly_flat(image: np.ndarray, axis: int) -> np.ndarray:
    middle = np.median(image, axis=axis, keepdims=True)
    return (np.ptp(image, axis=axis) <= FLAT_SPAN) | ((image == middle).mean(axis=axis) >= BAR_SHARE)


def _leading(flags: np.ndarray) -> int:
    """How many flags at the beginning are set."""
    return int(np.argmin(flags)) if not flags.all() else len(flags)
