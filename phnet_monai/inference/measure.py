"""Lesions of a mask as numbers: size, axes, place, and how sure the model is of them.

A pixel is a square (or, with spacing, a rectangle) of tissue; lesions are measured along the outer edges of their
pixels, so that a lesion of 30 x 10 pixels has a width of 30, not 29. In millimetres every corner is placed first and
then measured: with unequal spacing the long axis in pixels and the one in millimetres may lie in different directions.

The axes are those of a sonographer's two calipers (RECIST, WHO): the long axis is the longest straight line between two
points of the lesion's outer edge, the short axis the longest one at a right angle to it. Both are taken on the convex
hull: calipers are laid across a notch in the contour, not into it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull

from phnet_monai.inference.hardness import pixel_hardness

BOUNDARY_SHARE = 0.02
"""Width of the boundary band on either side of a contour, as a share of the frame's longest side.

About three pixels of a network that sees frames at 160 x 160. On the contour itself every hardness is 1 (p = 1/2): how
far it reaches tells a sharp outline from a doubtful one."""

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)
_Slices = tuple[slice, slice]


@dataclass(frozen=True)
class Lesion:
    """One lesion of one frame.

    Attributes:
        number: 1 for the largest lesion of the frame, 2 for the next, ...
        area_px, area_mm2: number of pixels, and their area; everything in mm is None where the spacing is unknown.
        long_axis_px, long_axis_mm: longest straight line between two points of the outer edge.
        short_axis_px, short_axis_mm: longest straight line at a right angle to the long axis.
        bbox_x, bbox_y, bbox_width, bbox_height: box in pixels; its first column and row, counted from 0, and how many.
        centroid_x, centroid_y: mean column and row of its pixels; whole numbers are the middles of pixels.
        mean_confidence: mean probability over its pixels, in [0, 1].
        boundary_hardness: mean hardness in [0, 1] of the band of `boundary_width` pixels on either side of its contour;
            0 where it fills the whole frame and so has no contour.
    """

    number: int
    area_px: int
    area_mm2: float | None
    long_axis_px: float
    short_axis_px: float
    long_axis_mm: float | None
    short_axis_mm: float | None
    bbox_x: int
    bbox_y: int
    bbox_width: int
    bbox_height: int
    centroid_x: float
    centroid_y: float
    mean_confidence: float
    boundary_hardness: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name, in the order of the attributes."""
        return {name: getattr(self, name) for name in LESION_FIELDS}


LESION_FIELDS: tuple[str, ...] = tuple(field.name for field in fields(Lesion))


def measure_lesions(mask: np.ndarray, probs: np.ndarray, spacing_mm: tuple[float, float] | None = None) -> list[Lesion]:
    """Measure every lesion of a frame. Pixels that touch by an edge or a corner are one lesion.

    Args:
        mask: bool (H, W).
        probs: probability of lesion (H, W) in [0, 1].
        spacing_mm: distance between rows and between columns, in mm; None where it is unknown.

    Returns:
        the lesions, largest area (in pixels) first; of equal ones the first in reading order.

    Raises:
        ValueError: arrays of another type, shapes that differ, or a spacing that is not positive and finite.
    """
    _check(mask, probs, spacing_mm)
    outer = mask_box(mask)
    if outer is None:
        return []
    labels, count = ndimage.label(mask[outer], _EIGHT_NEIGHBOURS)
    whole: _Slices = (slice(0, labels.shape[0]), slice(0, labels.shape[1]))
    boxes: list[_Slices] = [whole] if count == 1 else ndimage.find_objects(labels)
    areas = np.bincount(labels.ravel())[1:]
    width = boundary_width(*mask.shape)
    lesions = []
    for number, index in enumerate(np.argsort(-areas, kind="stable"), start=1):
        inner = boxes[index]
        shape = labels[inner] == index + 1
        box = (_shifted(inner[0], outer[0].start), _shifted(inner[1], outer[1].start))
        band_box, near = _with_margin(shape, box, width, mask.shape)
        hardness = _band_mean(near, probs[band_box], width)
        lesions.append(_measure_one(number, shape, probs[box], box, spacing_mm, hardness))
    return lesions


def mask_box(mask: np.ndarray) -> _Slices | None:
    """Smallest box that holds every True pixel of a mask (H, W); None where there is none."""
    rows = np.flatnonzero(mask.any(axis=1))
    if rows.size == 0:
        return None
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:bottom].any(axis=0))
    return slice(top, bottom), slice(int(columns[0]), int(columns[-1]) + 1)


def boundary_width(height: int, width: int) -> int:
    """Pixels of the boundary band on either side of a contour: 16 where the longest side has 800, at least 1.

    It grows with the frame, since the network sees every frame at one size: its doubt is as wide as its own pixels.
    """
    return max(1, math.floor(BOUNDARY_SHARE * max(height, width) + 0.5))


def _measure_one(
    number: int,
    shape: np.ndarray,
    probs: np.ndarray,
    box: _Slices,
    spacing_mm: tuple[float, float] | None,
    boundary_hardness: float,
) -> Lesion:
    per_row, per_column = np.count_nonzero(shape, axis=1), np.count_nonzero(shape, axis=0)
    area = int(per_row.sum())
    hull = _hull_corners(shape)
    long_px, short_px = caliper_axes(hull)
    area_mm2 = long_mm = short_mm = None
    if spacing_mm is not None:
        area_mm2 = area * spacing_mm[0] * spacing_mm[1]
        square = spacing_mm[0] == spacing_mm[1]
        long_mm, short_mm = (
            (long_px * spacing_mm[0], short_px * spacing_mm[0]) if square else caliper_axes(hull * spacing_mm)
        )
    return Lesion(
        number=number,
        area_px=area,
        area_mm2=area_mm2,
        long_axis_px=long_px,
        short_axis_px=short_px,
        long_axis_mm=long_mm,
        short_axis_mm=short_mm,
        bbox_x=box[1].start,
        bbox_y=box[0].start,
        bbox_width=shape.shape[1],
        bbox_height=shape.shape[0],
        centroid_x=box[1].start + float(per_column @ np.arange(shape.shape[1])) / area,
        centroid_y=box[0].start + float(per_row @ np.arange(shape.shape[0])) / area,
        mean_confidence=float(probs[shape].mean(dtype=np.float64)),
        boundary_hardness=boundary_hardness,
    )


def _hull_corners(shape: np.ndarray) -> np.ndarray:
    """Convex hull of the pixel corners of one lesion, cut to its box: float64 (K, 2) of (row, column), going round.

    Row edge r (0 ... H) can only have its outermost corners on the hull: those of the pixel rows above and below.
    """
    rows, columns = shape.shape
    first = shape.argmax(axis=1)
    last = columns - shape[:, ::-1].argmax(axis=1)
    left, right = np.full(rows + 1, columns), np.zeros(rows + 1, dtype=np.int64)
    for edges in (slice(0, rows), slice(1, rows + 1)):
        left[edges] = np.minimum(left[edges], first)
        right[edges] = np.maximum(right[edges], last)
    edge = np.arange(rows + 1)
    corners = np.concatenate([np.stack([edge, left], axis=1), np.stack([edge, right], axis=1)]).astype(np.float64)
    return corners if rows == 1 else corners[ConvexHull(corners).vertices]


def caliper_axes(hull: np.ndarray) -> tuple[float, float]:
    """Long and short axis of a convex polygon: its diameter, and its longest chord at a right angle to that.

    Args:
        hull: (K >= 3, 2), the corners in any order and any unit of length.

    Returns:
        both lengths in that unit; short <= long.
    """
    offsets = hull[:, None] - hull[None]
    distances = np.hypot(offsets[..., 0], offsets[..., 1])
    start, end = divmod(int(distances.argmax()), len(hull))
    length = float(distances[start, end])
    along = (hull[end] - hull[start]) / length
    position = (hull - hull[start]) @ along
    across = (hull - hull[start]) @ np.array([-along[1], along[0]])
    # the long axis cuts the hull in an upper and a lower chain; the chord between them is longest at a corner
    upper, lower = (_chain(position, across, length, side) for side in (1, -1))
    chords = np.interp(position, *upper) - np.interp(position, *lower)
    return length, min(length, float(chords.max()))


def _chain(position: np.ndarray, across: np.ndarray, length: float, side: int) -> tuple[np.ndarray, np.ndarray]:
    """The hull on one side of the long axis, from its start to its end: positions (increasing) and distances."""
    chosen = side * across > 1e-9 * length
    order = np.argsort(position[chosen], kind="stable")
    ends = np.array([0.0]), np.array([length])
    positions = np.concatenate([ends[0], position[chosen][order], ends[1]])
    return positions, np.concatenate([[0.0], across[chosen][order], [0.0]])


def _band_mean(near: np.ndarray, probs: np.ndarray, width: int) -> float:
    """Mean hardness of the pixels that have both lesion and no lesion within `width` rows and columns of them."""
    band = _spread(near, width) & _spread(~near, width)
    values = probs[band]
    return float(pixel_hardness(values).mean(dtype=np.float64)) if values.size else 0.0


def _spread(mask: np.ndarray, width: int) -> np.ndarray:
    """True within `width` rows and `width` columns of a True pixel; nothing comes from outside the array."""
    tall = mask.copy()
    for step in range(1, min(width, mask.shape[0] - 1) + 1):
        tall[step:] |= mask[:-step]
        tall[:-step] |= mask[step:]
    spread = tall.copy()
    for step in range(1, min(width, mask.shape[1] - 1) + 1):
        spread[:, step:] |= tall[:, :-step]
        spread[:, :-step] |= tall[:, step:]
    return spread


def _with_margin(shape: np.ndarray, box: _Slices, margin: int, size: tuple[int, ...]) -> tuple[_Slices, np.ndarray]:
    """The box grown by `margin` as far as the frame goes, and the lesion in it."""
    grown = tuple(slice(max(0, s.start - margin), min(n, s.stop + margin)) for s, n in zip(box, size, strict=True))
    before = [(b.start - g.start, g.stop - b.stop) for b, g in zip(box, grown, strict=True)]
    return (grown[0], grown[1]), np.pad(shape, before)


def _shifted(part: slice, by: int) -> slice:
    return slice(part.start + by, part.stop + by)


def _check(mask: np.ndarray, probs: np.ndarray, spacing_mm: tuple[float, float] | None) -> None:
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise ValueError(f"mask: expected bool (H, W), found {mask.dtype} {mask.shape}")
    if probs.shape != mask.shape:
        raise ValueError(f"probs: expected shape {mask.shape} as the mask, found {probs.shape}")
    check_spacing(spacing_mm)


def check_spacing(spacing_mm: tuple[float, float] | None) -> None:
    """Raise ValueError unless the spacing is None or two positive, finite numbers."""
    if spacing_mm is not None and not (
        len(spacing_mm) == 2 and all(math.isfinite(one) and one > 0 for one in spacing_mm)
    ):
        raise ValueError(
            f"spacing_mm: expected two positive numbers (between rows, between columns), found {spacing_mm}"
        )
