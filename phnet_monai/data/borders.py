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
    return _bars(*(np.ptp(image, axis=axis) <= FLAT_SPAN for axis in (1, 0)))


def without_borders(image: np.ndarray) -> np.ndarray:
    """The image, uint8 (H, W), without bars of one colour along its border, in which there may be text; a view of it.

    A row or column belongs to a bar if its values span at most 3 levels, or 80 % of them are the same: text leaves the
    rest of a bar as it is, while dark tissue is noisy. An image that is nothing else stays as it is.
    """
    bars = _bars(*(_mostly_flat(image, axis) for axis in (1, 0)))
    top, bottom, left, right = (bars.get(side, 0) for side in ("top", "bottom", "left", "right"))
    return image[top : image.shape[0] - bottom, left : image.shape[1] - right]


def _bars(rows: np.ndarray, columns: np.ndarray) -> dict[str, int]:
    """Widths of the bars, by side, of an image whose rows (H,) and columns (W,) are flat where True; no thin ones."""
    if rows.all() or columns.all():
        return {}
    sides = {"top": rows, "bottom": rows[::-1], "left": columns, "right": columns[::-1]}
    widths = {name: int(np.argmin(flat)) for name, flat in sides.items()}
    return {name: width for name, width in widths.items() if width and width >= MARGIN_SHARE * len(sides[name])}


def _mostly_flat(image: np.ndarray, axis: int) -> np.ndarray:
    middle = np.median(image, axis=axis, keepdims=True)
    return (np.ptp(image, axis=axis) <= FLAT_SPAN) | ((image == middle).mean(axis=axis) >= BAR_SHARE)
