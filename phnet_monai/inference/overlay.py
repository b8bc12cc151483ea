"""What the model found, drawn on the image."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

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
    canvas = np.repeat(image[:, :, None], 3, axis=2).astype(np.float32)
    strength = (mask if probs is None else np.clip(probs, 0, 1)).astype(np.float32)[:, :, None] * FILL
    canvas += strength * (np.array(PREDICTION_COLOUR, dtype=np.float32) - canvas)
    drawn = np.rint(canvas).astype(np.uint8)
    if truth is not None:
        drawn[outer_contour(truth, width)] = TRUTH_COLOUR
    drawn[inner_contour(mask, width)] = PREDICTION_COLOUR
    return drawn


def contour_width(height: int, width: int) -> int:
    """Line width in pixels: 2 up to 640 pixels on the longest side, then growing in proportion; 1 below 128."""
    longest = max(height, width)
    return 1 if longest < 128 else max(2, round(2 * longest / 512))


def inner_contour(mask: np.ndarray, width: int) -> np.ndarray:
    """bool (H, W): pixels of the mask within `width` steps (up, down, left, right) of its outside or the edge."""
    return mask & ~ndimage.binary_erosion(mask, iterations=width)


def outer_contour(mask: np.ndarray, width: int) -> np.ndarray:
    """bool (H, W): pixels outside the mask within `width` steps of it."""
    return ndimage.binary_dilation(mask, iterations=width) & ~mask


def _check(image: np.ndarray, mask: np.ndarray, probs: np.ndarray | None, truth: np.ndarray | None) -> None:
    if image.ndim != 2 or image.dtype != np.uint8:
        raise ValueError(f"image: expected uint8 (H, W), found {image.dtype} {image.shape}")
    for name, array in (("mask", mask), ("truth", truth)):
        if array is not None and (array.dtype != np.bool_ or array.shape != image.shape):
            found = f"{array.dtype} {array.shape}"
            raise ValueError(f"{name}: expected bool {image.shape} as the image, found {found}")
    if probs is not None and probs.shape != image.shape:
        raise ValueError(f"probs: expected shape {image.shape} as the image, found {probs.shape}")
