"""Files that are there completely or not at all.

Each is written under another name in its own folder and then renamed, so that a reader, or a job cut short,
never sees half a file.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image


@contextmanager
def atomic_writer(path: str | Path) -> Iterator[IO[bytes]]:
    """A binary stream whose content becomes the file `path` when the block ends well. Makes missing folders.

    If the block raises, `path` stays as it was and nothing is left behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # a name of its own, not one longer than `path.name`, which may be as long as names can be
    partial = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with partial.open("xb") as stream:
            yield stream
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_png(path: str | Path, pixels: np.ndarray) -> None:
    """Write uint8 (H, W) grey or (H, W, 3) RGB as PNG.

    Raises:
        ValueError: another type or shape.
        OSError: the file cannot be written.
    """
    grey, rgb = pixels.ndim == 2, pixels.ndim == 3 and pixels.shape[2:] == (3,)
    if pixels.dtype != np.uint8 or not (grey or rgb):
        raise ValueError(f"{path}: expected uint8 (H, W) or (H, W, 3), found {pixels.dtype} {pixels.shape}")
    with atomic_writer(path) as stream:
        Image.fromarray(pixels).save(stream, format="PNG")


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


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as indented JSON, ASCII only (any file name survives), ending in a line feed."""
    with atomic_writer(path) as stream:
        stream.write(json.dumps(content, indent=2, ensure_ascii=True).encode("ascii") + b"\n")
