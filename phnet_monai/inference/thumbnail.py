"""A frame as the report shows it: a small grey picture, the lesions' outlines and the coarse hardness map."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.measure import find_contours

from phnet_monai.inference.measure import mask_box

THUMBNAIL_SIDE = 256
"""Longest side of a thumbnail in pixels. Smaller frames keep their size."""

JPEG_QUALITY = 65
TOLERANCES = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35)
"""Thumbnail pixels that each pass of the simplification may move an outline; together less than a line's width."""

MAX_POINTS = 1200
"""Most points of all outlines of a frame. Masks that fall apart into specks lose the smallest ones in the picture."""

Contours = list[list[list[float]]]


def frame_picture(image: np.ndarray, mask: np.ndarray, grid: np.ndarray) -> dict[str, Any]:
    """What a report needs to draw one frame, as plain data for JSON.

    Args:
        image: uint8 (H, W).
        mask: lesion, bool (H, W).
        grid: hardness of the grid cells in [0, 1], (G, G); the cells divide the whole frame evenly.

    Returns:
        thumbnail: base64 of a grey JPEG, longest side at most 256.
        contours: see `mask_contours`.
        hardness: base64 of G * G bytes, row by row, round(255 * hardness).
        grid: G.

    Raises:
        ValueError: arrays of other types or sizes.
    """
    _check(image, mask, grid)
    levels = np.rint(np.asarray(grid, dtype=np.float32) * 255).astype(np.uint8)
    return {
        "thumbnail": jpeg_thumbnail(image),
        "contours": mask_contours(mask),
        "hardness": base64.b64encode(levels.tobytes()).decode("ascii"),
        "grid": grid.shape[0],
    }


def mask_contours(mask: np.ndarray) -> Contours:
    """Outlines of a mask for drawing, found at the size of the thumbnail.

    Lesions and their holes give a closed outline each (even-odd filling gives the mask back); a lesion at the
    frame's border is closed along it. Every lesion shows, even one smaller than a pixel of the thumbnail.

    Args:
        mask: bool (H, W).

    Returns:
        [[[x, y], ...], ...], largest first: x as fraction of the width, y of the height, 0 and 1 being the outer
        edges of the frame. The first point is not repeated at the end. Empty without lesion.

    Raises:
        ValueError: not a bool array (H, W) with at least one pixel.
    """
    if mask.ndim != 2 or mask.dtype != np.bool_ or not mask.size:
        raise ValueError(f"mask: expected bool (H, W), found {mask.dtype} {mask.shape}")
    box = mask_box(mask)
    if box is None:
        return []
    height, width = thumbnail_size(*mask.shape)
    coverage, top, left = _coverage(mask, box, height, width)
    coverage = np.pad(coverage, 1)  # the zeros close outlines along the border
    # 8 neighbours make one lesion, as they do for the measurements
    exact = find_contours(coverage, 0.5, fully_connected="high")
    exact.sort(key=_enclosed, reverse=True)
    outlines: Contours = []
    room = MAX_POINTS
    for contour in exact:
        points = _simplified(contour)[:-1]  # the last point is the first again
        room -= len(points)
        if room < 0 and outlines:
            break
        # pixel centres lie at whole numbers, and the padding has moved them by one
        scaled = np.clip((points[:, ::-1] + (left - 0.5, top - 0.5)) / (width, height), 0, 1)
        outlines.append(np.round(scaled, 4).tolist())
    return outlines


def _coverage(mask: np.ndarray, box: tuple[slice, slice], height: int, width: int) -> tuple[np.ndarray, int, int]:
    """Which part of each pixel of a thumbnail (height, width) is lesion: float32 of those that `box` touches, and the
    row and column where they begin.

    A lesion that fills no pixel by half gets all pixels that it touches, so that it shows.
    """
    if (height, width) == mask.shape:
        return mask[box].astype(np.float32), box[0].start, box[1].start
    (top, bottom), (left, right) = (
        (side.start * small // large, -(-side.stop * small // large))
        for side, small, large in zip(box, (height, width), mask.shape, strict=True)
    )
    tall, wide = mask.shape[0] / height, mask.shape[1] / width
    region = (left * wide, top * tall, right * wide, bottom * tall)
    picture = Image.fromarray(mask.view(np.uint8)).convert("F")
    coverage = np.array(picture.resize((right - left, bottom - top), Image.Resampling.BOX, box=region))
    touched, count = ndimage.label(coverage > 0, structure=np.ones((3, 3)))
    shows = np.zeros(count + 1, dtype=bool)
    shows[touched[coverage > 0.5]] = True
    coverage[~shows[touched] & (touched > 0)] = 1
    return coverage, top, left


def thumbnail_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) of the thumbnail of such a frame: proportions kept, never enlarged, at least one pixel."""
    scale = min(1.0, THUMBNAIL_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _enclosed(contour: np.ndarray) -> float:
    """Area inside a closed contour (n, 2) whose last point is its first."""
    rows, columns = contour[:, 0], contour[:, 1]
    return abs(float(np.dot(rows[:-1], columns[1:]) - np.dot(rows[1:], columns[:-1]))) / 2


def _simplified(contour: np.ndarray) -> np.ndarray:
    """The closed contour (n, 2) with fewer points, nowhere further than about half a pixel from the given one.

    Each pass drops those of every second point that lie close to the line between their neighbours.
    `skimage.measure.approximate_polygon` needs a fifth fewer points but fifty times the time (4 ms an outline).
    """
    for tolerance in TOLERANCES:
        if len(contour) < 8:
            break
        before, point, after = contour[:-2:2], contour[1:-1:2], contour[2::2]
        chord, offset = after - before, point - before
        cross = np.abs(chord[:, 0] * offset[:, 1] - chord[:, 1] * offset[:, 0])
        keep = np.ones(len(contour), dtype=bool)
        keep[1:-1:2] = cross > tolerance * np.hypot(chord[:, 0], chord[:, 1])
        contour = contour[keep]
    return contour


def jpeg_thumbnail(image: np.ndarray) -> str:
    """Base64 of a small JPEG of a uint8 image, (H, W) grey or (H, W, 3) colour."""
    height, width = thumbnail_size(*image.shape[:2])
    picture = Image.fromarray(image)
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=JPEG_QUALITY, optimize=True)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def _check(image: np.ndarray, mask: np.ndarray, grid: np.ndarray) -> None:
    if image.ndim != 2 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"image: expected uint8 (H, W), found {image.dtype} {image.shape}")
    if mask.shape != image.shape:
        raise ValueError(f"mask: expected bool {image.shape} as the image, found {mask.dtype} {mask.shape}")
    if grid.ndim != 2 or grid.shape[0] != grid.shape[1] or not 1 <= grid.shape[0] <= 64:
        raise ValueError(f"grid: expected (G, G) with 1 to 64 cells a side, found {grid.shape}")
    if not (np.isfinite(grid).all() and grid.min() >= 0 and grid.max() <= 1):
        raise ValueError("grid: expected hardness in [0, 1]")
