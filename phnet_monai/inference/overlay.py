"""What the model found, drawn on the image."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import ndimage

from phnet_monai.inference.measure import mask_box
from phnet_monai.inference.report_colours import opacity_of, ramp

PREDICTION_COLOUR = (230, 159, 0)
TRUTH_COLOUR = (86, 180, 233)
"""Orange and sky blue of Okabe and Ito's palette: told apart from each other and from grey with any colour vision."""

FILL = 0.18
"""Share of the colour in the fill where the probability is 1."""


def draw_overlay(
    image: np.ndarray,
    mask: np.ndarray,
    probs: np.ndarray | None = None,
    truth: np.ndarray | None = None,
) -> np.ndarray:
    """Outline a predicted lesion on its image, and the true one beside it.

    The orange contour of the prediction runs inside its mask and is closed along the image's edge; the blue
    contour of the ground truth runs just outside its mask, so that both are seen where the two masks agree.

    Args:
        image: uint8 (H, W).
        mask: predicted lesion, bool (H, W).
        probs: probability of lesion (H, W) in [0, 1]. If given, the fill's strength follows it, so that
            suspicion below the threshold shows too; else the mask is filled evenly.
        truth: annotated lesion, bool (H, W).

    Returns:
        uint8 (H, W, 3), RGB. Pixels without contour or fill keep their grey.

    Raises:
        ValueError: arrays of other types or sizes.
    """
    _check(image, mask, probs, truth)
    width = contour_width(image.shape[0], image.shape[1])
    drawn = _filled(image, mask if probs is None else probs)
    if truth is not None:
        _paint(drawn, outer_contour(truth, width), TRUTH_COLOUR)
    _paint(drawn, inner_contour(mask, width), PREDICTION_COLOUR)
    return drawn


def _filled(image: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3): the image with the fill, whose strength (H, W) lies in [0, 1]."""
    picture = Image.fromarray(image).convert("RGB")
    box = mask_box(strength > 0.5 / (255 * FILL))  # the others round to no fill
    if box is not None:
        part = np.rint(np.clip(strength[box], 0, 1) * np.float32(255 * FILL)).astype(np.uint8)
        # two thirds of the time of the same in numpy
        picture.paste(PREDICTION_COLOUR, (box[1].start, box[0].start), Image.fromarray(part))
    return np.array(picture)


def _paint(drawn: np.ndarray, where: np.ndarray, colour: tuple[int, int, int]) -> None:
    box = mask_box(where)
    if box is not None:
        drawn[box][where[box]] = colour


def draw_hardness(image: np.ndarray, hardness: np.ndarray) -> np.ndarray:
    """Colour an image by how unsure the model is of each pixel.

    Args:
        image: uint8 (H, W).
        hardness: (H, W) in [0, 1], see `hardness.pixel_hardness`.

    Returns:
        uint8 (H, W, 3), RGB: the image where hardness is 0, then the colours of the report's map (`report_colours`).

    Raises:
        ValueError: arrays of other types or sizes.
    """
    _check(image, np.zeros(image.shape, dtype=bool), None, None)
    if hardness.shape != image.shape:
        raise ValueError(f"hardness: expected shape {image.shape} as the image, found {hardness.shape}")
    levels = np.rint(np.clip(hardness, 0, 1) * 255).astype(np.uint8)
    steps = np.linspace(0, 1, 256, dtype=np.float32)
    colours, opacity = ramp(steps).astype(np.float32)[levels], opacity_of(steps)[levels][:, :, None]
    return np.rint(image[:, :, None] * (1 - opacity) + colours * opacity).astype(np.uint8)


def contour_width(height: int, width: int) -> int:
    """Line width in pixels: 2 up to 640 pixels on the longest side, then growing in proportion; 1 below 128."""
    longest = max(height, width)
    return 1 if longest < 128 else max(2, round(2 * longest / 512))


def inner_contour(mask: np.ndarray, width: int) -> np.ndarray:
    """bool (H, W): pixels of the mask within `width` steps (up, down, left, right) of its outside or the edge."""
    contour = np.zeros_like(mask)
    box = mask_box(mask)
    if box is not None:  # all outside the box is outside the mask, as all outside the frame
        contour[box] = mask[box] & ~ndimage.binary_erosion(mask[box], iterations=width)
    return contour


def outer_contour(mask: np.ndarray, width: int) -> np.ndarray:
    """bool (H, W): pixels outside the mask within `width` steps of it."""
    contour = np.zeros_like(mask)
    box = mask_box(mask)
    if box is not None:
        around = tuple(slice(max(0, side.start - width), side.stop + width) for side in box)
        contour[around] = ndimage.binary_dilation(mask[around], iterations=width) & ~mask[around]
    return contour


def _check(image: np.ndarray, mask: np.ndarray, probs: np.ndarray | None, truth: np.ndarray | None) -> None:
    if image.ndim != 2 or image.dtype != np.uint8:
        raise ValueError(f"image: expected uint8 (H, W), found {image.dtype} {image.shape}")
    for name, array in (("mask", mask), ("truth", truth)):
        if array is not None and (array.dtype != np.bool_ or array.shape != image.shape):
            found = f"{array.dtype} {array.shape}"
            raise ValueError(f"{name}: expected bool {image.shape} as the image, found {found}")
    if probs is not None and probs.shape != image.shape:
        raise ValueError(f"probs: expected shape {image.shape} as the image, found {probs.shape}")
