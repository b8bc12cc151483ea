"""One-coloured bars along the border of an image: letter-boxing, padding to a square, careless cropping."""

from __future__ import annotations

import numpy as np

MARGIN_SHARE = 0.02
"""Share of a side that one-coloured rows or columns along the border must fill to count as a border."""

FLAT_SPAN = 3
"""Grey levels that the values of a one-coloured row or column span at most."""


def border_widths(image: np.ndarray) -> dict[str, int]:
    """Find one-coloured bars along the border, left by letter-boxing or careless cropping.

    Args:
        image: uint8 (H, W).

    Returns:
        pixels by side (top, bottom, left, right), for sides where rows or columns whose values span at most 3 levels
        fill 2 % of the height or width or more. A blank image has none.
    """
    flat_rows, flat_columns = (np.ptp(image, axis=axis) <= FLAT_SPAN for axis in (1, 0))
    if flat_rows.all():
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
    """The image, uint8 (H, W), without such bars; a view of it."""
    widths = border_widths(image)
    top, bottom, left, right = (widths.get(side, 0) for side in ("top", "bottom", "left", "right"))
    return image[top : image.shape[0] - bottom, left : image.shape[1] - right]


def _leading(flags: np.ndarray) -> int:
    """How many flags at the beginning are set."""
    return int(np.argmin(flags)) if not flags.all() else len(flags)
