"""Which pairs of images are worth comparing pixel by pixel: each image with a bounded number of others.

Every image gets a descriptor of 112 numbers: the low frequencies of its band-passed 32 x 32 thumbnail, in which a shift
is a change of phase and so costs no new transform. Descriptors of all images are compared by matrix products; for each
image its nearest few are then compared as thumbnails. The number of thumbnails compared therefore grows with the number
of images times the neighbours of each (`neighbour_count`), not with its square.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

LIKELY = 0.40
"""Coarse similarity from which a pair is compared closely (real pairs of BUSI lie above 0.5, but for two)."""

NEIGHBOURS = 32
"""Others that an image is compared with; the root of the number of images where that is more."""

SIDE = 128
_COARSE_SIDE = 32
_SHIFTS = tuple((dy, dx) for dy in (-4, -2, 0, 2, 4) for dx in (-4, -2, 0, 2, 4))
_HIGHEST_FREQUENCY = 6
_ROWS_AT_ONCE = 128
_PRODUCTS_AT_ONCE = 2**24


def likely_pairs(thumbnails: np.ndarray) -> list[tuple[int, int]]:
    """Find the pairs that look alike at 32 x 32 under some shift of up to an eighth of the side.

    Args:
        thumbnails: uint8 (N, 128, 128).

    Returns:
        sorted pairs (i, j), i < j; at most N times `neighbour_count(N)` of them. An image without structure is in none.
    """
    count = len(thumbnails)
    if count < 2:
        return []
    coarse = _coarse(thumbnails)
    found: set[tuple[int, int]] = set()
    nearest = nearest_neighbours(coarse, neighbour_count(count))
    for start in range(0, count, _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        alike = shifted_similarity(coarse[rows], coarse[nearest[rows]]) >= LIKELY
        for row, place in np.argwhere(alike):
            one, other = start + int(row), int(nearest[start + row, place])
            found.add((min(one, other), max(one, other)))
    return sorted(found)


def neighbour_count(count: int) -> int:
    """How many others each of `count` images is compared with: 32, or the root of `count` where that is more."""
    return min(count - 1, max(NEIGHBOURS, math.isqrt(count)))


def nearest_neighbours(coarse: np.ndarray, neighbours: int) -> np.ndarray:
    """Indices of the images with the most similar descriptors under any of the shifts.

    Args:
        coarse: float32 (N, 32, 32), mean 0 and length 1 an image.
        neighbours: how many, fewer than N.

    Returns:
        int (N, neighbours), in no order, never the image itself.
    """
    spectra, frequencies = _low_frequencies(coarse)
    descriptors = _real_unit(spectra)
    found = np.empty((len(coarse), neighbours), np.intp)
    step = max(1, _PRODUCTS_AT_ONCE // len(coarse))
    for start in range(0, len(coarse), step):
        block = spectra[start : start + step]
        best = np.full((len(block), len(coarse)), -np.inf, np.float32)
        for shift in _SHIFTS:
            turned = block * np.exp(-2j * np.pi / _COARSE_SIDE * (frequencies @ shift)).astype(np.complex64)
            np.maximum(best, _real_unit(turned) @ descriptors.T, out=best)
        best[np.arange(len(block)), start + np.arange(len(block))] = -np.inf
        found[start : start + step] = np.argpartition(best, -neighbours, axis=1)[:, -neighbours:]
    return found


def shifted_similarity(ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Highest correlation of each image with each of its others over the shifts.

    Args:
        ones: (n, 32, 32), mean 0 and length 1 an image.
        others: (n, k, 32, 32), the same.

    Returns:
        (n, k) in [-1, 1].
    """
    flat = others.reshape(*others.shape[:2], -1)
    best = np.full(others.shape[:2], -1.0, np.float32)
    for shift in _SHIFTS:
        turned = np.roll(ones, shift, (1, 2)).reshape(len(ones), -1, 1)
        np.maximum(best, (flat @ turned)[..., 0], out=best)
    return best


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


def unit(images: np.ndarray) -> np.ndarray:
    """(N, H, W) with mean 0 and length 1 an image; an image without structure stays zero and is like no other."""
    centred = images - images.mean((1, 2), keepdims=True)
    length = np.sqrt((centred**2).sum((1, 2), keepdims=True))
    return centred / np.maximum(length, 1e-3)


def _coarse(thumbnails: np.ndarray) -> np.ndarray:
    step = SIDE // _COARSE_SIDE
    coarse = np.empty((len(thumbnails), _COARSE_SIDE, _COARSE_SIDE), np.float32)
    for start in range(0, len(thumbnails), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        coarse[rows] = band_pass(thumbnails[rows], 2.4, 10.0)[:, 1::step, 1::step]
    return unit(coarse)


def _low_frequencies(coarse: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """complex64 (N, 56) Fourier coefficients, and their frequencies (56, 2) in waves a side along rows and columns."""
    down = np.fft.fftfreq(_COARSE_SIDE, 1 / _COARSE_SIDE)[:, None]
    across = np.arange(_COARSE_SIDE // 2 + 1)[None]
    distance = np.hypot(down, across)
    # where `across` is 0, the coefficient at -down only repeats that at down
    kept = (distance > 0) & (distance <= _HIGHEST_FREQUENCY) & ~((across == 0) & (down < 0))
    frequencies = np.stack(np.broadcast_arrays(down, across), -1)[kept]
    return np.fft.rfft2(coarse)[:, kept].astype(np.complex64), frequencies


def _real_unit(spectra: np.ndarray) -> np.ndarray:
    """(N, F) complex -> float32 (N, 2 F) of length 1."""
    values = np.concatenate([spectra.real, spectra.imag], axis=1)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6)
