"""Images that show the same scan, found by comparing the pictures: BUSI has no patient ids.

Two steps. Every image is compared with every other one through band-passed thumbnails of 32 x 32 under a few shifts
(matrix products). Likely pairs are compared closely at 128 x 128: normalised cross-correlation with any shift up to an
eighth of the side, and as if one of the two were cropped. Band-passing and local contrast normalisation keep the tissue
structure, which is a fingerprint, and drop what different scans agree in: brightness, gain, dark depth, broad layers.
Calipers, labels and frames are small and change the correlation little.

The thresholds were set on BUSI (702 images, 246 051 pairs) by looking at all pairs near them. From 0.31 upwards all
pairs show one lesion (one frame, or neighbouring frames of one sweep); the first pair of different lesions stands at
0.30; the bulk of pairs lies at 0.10 to 0.20. They give 129 groups of two to seven images, no chains of look-alikes.
On BUS-BRA (389 images), where patients are known, 17 of 18 groups lie within one patient; one joins two ovals
that only look alike. That side of the error is harmless: it keeps images together that could be apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage
from tqdm import tqdm

from phnet_monai.data.decode import read_image
from phnet_monai.data.union_find import components

LIKELY = 0.40
"""Coarse similarity from which a pair is compared closely (real pairs of BUSI lie above 0.5)."""

SAME = 0.34
"""Close similarity from which two images count as one scan."""

SAME_OVERLAP = 0.60
"""The same for two crops compared at their own pixel size, a freer search that reaches 0.46 by chance."""

_SIDE = 128
_COARSE_SIDE = 32
_COARSE_SHIFTS = (-4, -2, 0, 2, 4)
_MAX_SHIFT = _SIDE // 8
_ZOOMS = (0.94, 0.88, 0.80)
_OVERLAP_SIDE = 192
_ROWS_AT_ONCE = 1024


def near_duplicate_groups(
    images: Sequence[str | PathLike[str]],
    *,
    same: float = SAME,
    progress: bool = True,
) -> list[int]:
    """Group images that show the same scan.

    Work grows with the square of the number of images: about 9 seconds for BUSI on one core. Memory is 16 kB an image
    plus a fixed amount.

    Args:
        images: files as `read_image` takes them.
        same: close similarity in [0, 1] from which two images are one scan; higher finds fewer.
        progress: show progress bars on standard error.

    Returns:
        one group number per image, from 0 in the order of first appearance; equal numbers mean that a chain of
        near-duplicates joins the images.

    Raises:
        DecodeError, FileNotFoundError: as `read_image`.
        ValueError: `same` is outside (0, 1].
    """
    if not 0 < same <= 1:
        raise ValueError(f"same is {same}, expected a similarity above 0 and up to 1.")
    if not images:
        return []
    bar = tqdm(images, desc="thumbnails", disable=not progress, leave=False)
    sizes, thumbnails = zip(*(_size_and_thumbnail(Path(path)) for path in bar), strict=True)
    search = _CloseSearch([Path(path) for path in images], sizes, np.stack(thumbnails))
    likely = tqdm(_likely_pairs(np.stack(thumbnails)), desc="likely pairs", disable=not progress, leave=False)
    return components(len(images), [(i, j) for i, j in likely if search.is_same(i, j, same)])


def _size_and_thumbnail(path: Path) -> tuple[tuple[int, int], np.ndarray]:
    image = read_image(path)
    return (image.shape[0], image.shape[1]), _shrink(image, _SIDE, _SIDE)


def _shrink(image: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))


def band_pass(image: np.ndarray, fine: float, broad: float) -> np.ndarray:
    """Tissue structure: details between two sizes, with local contrast made equal.

    Args:
        image: (H, W) or (N, H, W) grey values.
        fine: standard deviation in pixels below which detail (speckle) is smoothed away.
        broad: standard deviation above which gradients are removed.

    Returns:
        float32 array of the same shape.
    """
    spread = [(0.0,) * (image.ndim - 2) + (sigma,) * 2 for sigma in (fine, broad)]
    values = image.astype(np.float32)
    values = ndimage.gaussian_filter(values, spread[0]) - ndimage.gaussian_filter(values, spread[1])
    # 4 grey levels keep noise in black regions from being blown up to tissue
    return values / (np.sqrt(ndimage.gaussian_filter(values**2, spread[1])) + 4.0)


def _unit(images: np.ndarray) -> np.ndarray:
    """(N, H, W) with mean 0 and length 1 an image; an image without structure stays zero and is like no other."""
    centred = images - images.mean((1, 2), keepdims=True)
    length = np.sqrt((centred**2).sum((1, 2), keepdims=True))
    return centred / np.maximum(length, 1e-3)


def _likely_pairs(thumbnails: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs (i, j), i < j, of (N, 128, 128) thumbnails that are worth a closer look; row by row in bounded memory."""
    count, step = len(thumbnails), _SIDE // _COARSE_SIDE
    coarse = np.empty((count, _COARSE_SIDE, _COARSE_SIDE), np.float32)
    for start in range(0, count, _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        coarse[rows] = band_pass(thumbnails[rows], 2.4, 10.0)[:, 1::step, 1::step]
    coarse = _unit(coarse)
    for start in range(0, count, _ROWS_AT_ONCE):
        block = coarse[start : start + _ROWS_AT_ONCE]
        others = coarse[start:].reshape(count - start, -1)
        best = np.full((len(block), len(others)), -1.0, np.float32)
        for shift in ((dy, dx) for dy in _COARSE_SHIFTS for dx in _COARSE_SHIFTS):
            np.maximum(best, np.roll(block, shift, (1, 2)).reshape(len(block), -1) @ others.T, out=best)
        for row, column in np.argwhere(np.triu(best >= LIKELY, 1)):
            yield start + int(row), start + int(column)


class _CloseSearch:
    """Compares two images closely; keeps what it computed for the last few hundred images."""

    def __init__(self, paths: Sequence[Path], sizes: Sequence[tuple[int, int]], thumbnails: np.ndarray) -> None:
        self._paths, self._sizes, self._thumbnails = paths, sizes, thumbnails
        self._spectrum = lru_cache(maxsize=2048)(self._compute_spectrum)

    def is_same(self, one: int, other: int, same: float) -> bool:
        if self._similarity(one, 1.0, other, 1.0) >= same:
            return True
        crops = ((zoom, 1.0) for zoom in _ZOOMS), ((1.0, zoom) for zoom in _ZOOMS)
        if any(self._similarity(one, a, other, b) >= same for pairs in crops for a, b in pairs):
            return True
        return self._shapes_differ(one, other) and self._overlap(one, other) >= max(same, SAME_OVERLAP)

    def _compute_spectrum(self, index: int, zoom: float) -> np.ndarray:
        margin = _SIDE * (1 - zoom) / 2
        picture = Image.fromarray(self._thumbnails[index])
        box = (margin, margin, _SIDE - margin, _SIDE - margin)
        part = np.asarray(picture.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC, box=box))
        return np.fft.rfft2(_unit(band_pass(part, 1.0, 6.0)[None])[0])

    def _similarity(self, one: int, zoom: float, other: int, other_zoom: float) -> float:
        """Highest normalised cross-correlation of two thumbnails, each enlarged about its centre by 1 / zoom."""
        product = self._spectrum(one, zoom) * self._spectrum(other, other_zoom).conj()
        near = np.r_[0 : _MAX_SHIFT + 1, -_MAX_SHIFT:0]
        return float(np.fft.irfft2(product)[np.ix_(near, near)].max())

    def _shapes_differ(self, one: int, other: int) -> bool:
        """Whether thumbnails of the two are distorted differently, so that they cannot match even if pixels do."""
        (height, width), (other_height, other_width) = self._sizes[one], self._sizes[other]
        ratio = (width * other_height) / (height * other_width)
        return not 0.95 < ratio < 1.05

    def _overlap(self, one: int, other: int) -> float:
        """Highest correlation over all placements of two crops at one pixel size that share half of the larger one."""
        scale = _OVERLAP_SIDE / max(*self._sizes[one], *self._sizes[other])
        a, b = (
            band_pass(
                _shrink(read_image(self._paths[k]), *(max(1, round(s * scale)) for s in self._sizes[k])), 1.0, 6.0
            )
            for k in (one, other)
        )
        shape = (a.shape[0] + b.shape[0], a.shape[1] + b.shape[1])

        def correlate(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            return np.fft.irfft2(np.fft.rfft2(x, shape) * np.fft.rfft2(y, shape).conj(), shape)

        inside_a, inside_b = np.ones_like(a), np.ones_like(b)
        allowed = correlate(inside_a, inside_b) >= 0.5 * max(a.size, b.size)
        if not allowed.any():
            return 0.0
        energy = correlate(a**2, inside_b)[allowed] * correlate(inside_a, b**2)[allowed]
        return float((correlate(a, b)[allowed] / np.sqrt(np.maximum(energy, 1.0))).max())
