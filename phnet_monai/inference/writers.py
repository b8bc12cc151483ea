"""Results as files, each there completely or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from phnet_monai.files import atomic_writer


def write_png(path: str | Path, pixels: np.ndarray) -> None:
    """Write uint8 (H, W) grey or (H, W, 3) RGB as PNG.

    Raises:
        ValueError: another type or shape.
        OSError: the file cannot be written.
    """
    grey, rgb = pixels.ndim == 2, pixels.ndim == 3 and pixels.shape[2:] == (3,)
    if pixels.dtype != np.uint8 or not (grey or rgb):
        raise ValueError(f"{path}: expected uint8 (H, W) or (H, W, 3), found {pixels.dtype} {pixels.shape}")
    # colour pictures of speckle hardly get smaller with more effort, which costs more than the network
    options = {"compress_level": 1} if rgb else {}
    with atomic_writer(path) as stream:
        Image.fromarray(pixels).save(stream, format="PNG", **options)


def write_mask(path: str | Path, mask: np.ndarray) -> None:
    """Write bool (H, W) as a grey PNG, 255 where True, 0 elsewhere."""
    if mask.dtype != np.bool_:
        raise ValueError(f"{path}: expected a bool mask, found {mask.dtype}; compare with a threshold first")
    write_png(path, mask.astype(np.uint8) * 255)


def write_probabilities(path: str | Path, probs: np.ndarray) -> None:
    """Write probabilities (H, W) in [0, 1] as an 8-bit grey PNG: round(255 * p)."""
    if not (np.isfinite(probs).all() and probs.min(initial=0) >= 0 and probs.max(initial=0) <= 1):
        raise ValueError(f"{path}: expected probabilities in [0, 1]")
    write_png(path, np.rint(probs * 255).astype(np.uint8))
