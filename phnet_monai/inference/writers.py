"""Results as files, each there completely or not at all."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from phnet_monai.files import atomic_writer

JPEG_QUALITY = 90
JPEG_SIDE = 65500
"""Longest side of a JPEG in pixels that Pillow writes."""


def write_png(path: str | Path, pixels: np.ndarray, **options: int) -> None:
    """Write uint8 (H, W) grey or (H, W, 3) RGB as PNG, with options of Pillow's writer.

    Raises:
        ValueError: another type or shape.
        OSError: the file cannot be written.
    """
    _check_pixels(path, pixels)
    # colour pictures of speckle hardly get smaller with more effort
    options = {"compress_level": 1, **options} if pixels.ndim == 3 else options
    with atomic_writer(path) as stream:
        Image.fromarray(pixels).save(stream, format="PNG", **options)


def write_jpeg(path: str | Path, pixels: np.ndarray) -> None:
    """Write uint8 (H, W) or (H, W, 3) as JPEG, for pictures that people look at: as PNG, one of speckle takes eight
    times the time, nearly as much as the network, and four times the space. Colour keeps its full resolution, since
    contours are two pixels wide.

    Raises:
        ValueError: another type or shape, or more pixels a side than a JPEG holds.
        OSError: the file cannot be written.
    """
    _check_pixels(path, pixels)
    if max(pixels.shape) > JPEG_SIDE:
        size = " x ".join(map(str, pixels.shape[:2]))
        raise ValueError(
            f"{path}: a JPEG holds {JPEG_SIDE} pixels a side at most, found {size}; leave this picture out"
        )
    with atomic_writer(path) as stream:
        Image.fromarray(pixels).save(stream, format="JPEG", quality=JPEG_QUALITY, subsampling=0)


def _check_pixels(path: str | Path, pixels: np.ndarray) -> None:
    grey, rgb = pixels.ndim == 2, pixels.ndim == 3 and pixels.shape[2:] == (3,)
    if pixels.dtype != np.uint8 or not (grey or rgb):
        raise ValueError(f"{path}: expected uint8 (H, W) or (H, W, 3), found {pixels.dtype} {pixels.shape}")


def write_mask(path: str | Path, mask: np.ndarray) -> None:
    """Write bool (H, W) as a grey PNG, 255 where True, 0 elsewhere."""
    if mask.dtype != np.bool_:
        raise ValueError(f"{path}: expected a bool mask, found {mask.dtype}; compare with a threshold first")
    # of runs of equal bytes: two thirds of the default's time, and smaller
    write_png(path, mask.astype(np.uint8) * 255, compress_type=zlib.Z_RLE)


def write_probabilities(path: str | Path, probs: np.ndarray) -> None:
    """Write probabilities (H, W) in [0, 1] as an 8-bit grey PNG: round(255 * p)."""
    if not (np.isfinite(probs).all() and probs.min(initial=0) >= 0 and probs.max(initial=0) <= 1):
        raise ValueError(f"{path}: expected probabilities in [0, 1]")
    write_png(path, np.rint(probs * 255).astype(np.uint8))
