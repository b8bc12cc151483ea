"""The hardness map's colours, one code for pages and pictures."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

HARDNESS_COLOURS = ("#321083", "#6113b0", "#981ecd", "#d434d4", "#f86ad6", "#ffa3de", "#ffd9f2")
"""From certain to undecided, in equal steps of lightness (OKLab 0.32 to 0.94), from violet to pink: apart from the
orange and blue of the contours, and readable by lightness alone with any colour vision."""

STRONGEST = 0.85
"""Opacity where the hardness is 1. Where it is 0 the map is clear, so that the image is seen."""

_LEVELS = 16  # steps of a picture: fit 4 bits a cell


def hardness_colour(hardness: float) -> tuple[str, float]:
    """Colour (#rrggbb) and opacity of a hardness in [0, 1]."""
    return _hex(ramp(np.array([hardness]))[0]), round(float(opacity_of(np.array([hardness]))[0]), 3)


def legend_stops(count: int = 9) -> list[tuple[float, str, float]]:
    """(place from 0 to 1, colour, opacity) of a gradient that explains the map."""
    return [(place / (count - 1), *hardness_colour(place / (count - 1))) for place in range(count)]


def hardness_png(levels: bytes, grid: int) -> str:
    """Base64 of a PNG of `grid` x `grid` pixels with transparency, a few hundred bytes.

    Args:
        levels: a byte a cell, row by row, round(255 * hardness).
        grid: cells a side.

    Raises:
        ValueError: not `grid` * `grid` bytes.
    """
    if len(levels) != grid * grid:
        raise ValueError(f"hardness: expected {grid} x {grid} bytes, found {len(levels)}")
    cells = np.rint(np.frombuffer(levels, dtype=np.uint8).reshape(grid, grid) * ((_LEVELS - 1) / 255)).astype(np.uint8)
    steps = np.linspace(0, 1, _LEVELS)
    picture = Image.fromarray(cells).convert("P")
    picture.putdata(cells.ravel().tolist())
    picture.putpalette(ramp(steps).astype(np.uint8).tobytes())
    opacity = np.rint(opacity_of(steps) * 255).astype(np.uint8).tobytes()
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=False, bits=4, transparency=opacity)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def ramp(hardness: np.ndarray) -> np.ndarray:
    """Colours (n, 3) in [0, 255] of hardnesses (n,) in [0, 1]."""
    anchors = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in HARDNESS_COLOURS])
    places = np.linspace(0, 1, len(anchors))
    return np.rint(np.stack([np.interp(hardness, places, channel) for channel in anchors.T], axis=1))


def opacity_of(hardness: np.ndarray) -> np.ndarray:
    """How much of the image each hardness covers, in [0, 1]."""
    return STRONGEST * np.clip(hardness, 0, 1) ** 0.8


def _hex(colour: np.ndarray) -> str:
    return "#" + "".join(f"{int(channel):02x}" for channel in colour)
