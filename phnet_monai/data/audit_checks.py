"""What can be wrong with one mask or one image, each a pure function of its pixels."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

SPECK_SHARE = 0.0005
"""Share of the image below which a region of a mask is a speck. The smallest lesion of BUSI and BUS-BRA has 0.0028."""

INVERTED_SHARE = 0.5
"""Share of the border's pixels above which a mask is taken for inverted; lesions touch it with less."""

EDGE_REACH = 3
"""Pixels from the outline within which the grey of an anti-aliased edge lies."""

SHORT_SIDE, LONG_SIDE, ELONGATION, AREA_FACTOR = 128, 2048, 3.0, 4.0
"""Sides in pixels, longer over shorter side, and area over that of the median image, from which a size is extreme."""

BLANK_SPREAD = 2.0

_EIGHT = np.ones((3, 3))

MaskKind = Literal["empty", "full", "two values", "anti-aliased", "many values"]


def mask_kind(values: np.ndarray) -> MaskKind:
    """Tell what the values of a mask file are.

    Args:
        values: (H, W) as `read_values` gives them.

    Returns:
        "empty": nothing but 0; "full": one value above 0; "two values": as a mask should be (0 and another one, or two
        others); "anti-aliased": further values, at least 99 % of them within 3 pixels of the outline at half the
        highest value; "many values": anything else, such as numbered regions or JPEG noise.
    """
    levels = np.unique(values)
    if len(levels) == 1:
        return "full" if levels[0] else "empty"
    if len(levels) == 2:
        return "two values"
    between = (values != levels[0]) & (values != levels[-1])
    inside = 2 * values.astype(np.int64) >= int(levels[0]) + int(levels[-1])
    near = ndimage.binary_dilation(inside, _EIGHT, EDGE_REACH) & ndimage.binary_dilation(~inside, _EIGHT, EDGE_REACH)
    return "anti-aliased" if (between & near).sum() >= 0.99 * between.sum() else "many values"


def looks_inverted(mask: np.ndarray) -> bool:
    """Whether most of the image's border, of a mask bool (H, W) with both values, is lesion."""
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    return not mask.all() and float(border.mean()) > INVERTED_SHARE


class Speck(NamedTuple):
    """A region of a mask: its pixels, and its box as rows and columns (ends excluded)."""

    area: int
    top: int
    left: int
    bottom: int
    right: int


def specks(mask: np.ndarray) -> list[Speck]:
    """Find regions of a mask that are too small for a lesion.

    Args:
        mask: bool (H, W).

    Returns:
        the 8-connected regions that are smaller than 0.05 % of the image, smallest first.
    """
    regions, count = ndimage.label(mask, _EIGHT)
    areas = np.bincount(regions.ravel(), minlength=count + 1)[1:]
    boxes = ndimage.find_objects(regions)
    return sorted(
        Speck(int(area), rows.start, columns.start, rows.stop, columns.stop)
        for area, (rows, columns) in zip(areas, boxes, strict=True)
        if area < SPECK_SHARE * mask.size
    )


def adds_nothing(mask: np.ndarray, others: np.ndarray) -> bool:
    """Whether a further mask of an image, bool (H, W), has no pixel that the union of the others lacks."""
    return not (mask & ~others).any()


def odd_sizes(sizes: Sequence[tuple[int, int]]) -> dict[int, str]:
    """Find images of extreme size.

    Args:
        sizes: (H, W) of each image of a dataset.

    Returns:
        what is extreme, by place in the list: a side below 128 or above 2048 pixels, one side more than 3 times the
        other, an area less than a quarter or more than 4 times that of the median image.
    """
    if not sizes:
        return {}
    median = statistics.median(height * width for height, width in sizes)
    found = {}
    for place, (height, width) in enumerate(sizes):
        short, long, relative = min(height, width), max(height, width), height * width / median
        reasons = [
            *([f"shorter side below {SHORT_SIDE}"] if short < SHORT_SIDE else []),
            *([f"longer side above {LONG_SIDE}"] if long > LONG_SIDE else []),
            *([f"{long / short:.1f} times as long as wide"] if long > ELONGATION * short else []),
            *(
                [f"{relative:.2g} times the area of the median image"]
                if not 1 / AREA_FACTOR <= relative <= AREA_FACTOR
                else []
            ),
        ]
        if reasons:
            found[place] = f"{width} x {height}: {', '.join(reasons)}"
    return found


def is_blank(image: np.ndarray) -> bool:
    """Whether an image, uint8 (H, W), shows nothing: its grey has a standard deviation below 2 levels."""
    counts = np.array(Image.fromarray(image).histogram())  # thrice as quick as `image.std()`
    levels = np.arange(256)
    mean = counts @ levels / image.size
    return float(counts @ (levels - mean) ** 2 / image.size) < BLANK_SPREAD**2
