"""How sure the model is: of a pixel, of a patch, of a whole frame (numpy; one frame at a time).

The pixel's hardness is the term under the mean of the paper's Eq. 4; `transforms.patch_hardness` is the same for
batches of square tensors in training. Frames have any size here, so that the patches of the grid may cut pixels.
"""

from __future__ import annotations

import math

import numpy as np

GRID = 16
"""Cells per side of the hardness grid."""

HARDEST_SHARE = 0.1
"""Share of the grid cells, the hardest ones, that decide how uncertain a frame is."""

_SAMPLES = 16
_BLOCK = 1 << 15
_TINY, _PER_BIT = np.float32(1e-30), np.float32(-1 / math.log(2))


def pixel_hardness(probs: np.ndarray) -> np.ndarray:
    """Entropy of each pixel's two-class probability, divided by log 2.

    Args:
        probs: probability of lesion in [0, 1]; any shape, (H, W) for a frame.

    Returns:
        float32 of the same shape in [0, 1]: 0 where the model is certain, 1 where p = 1/2.
    """
    lesion = np.ascontiguousarray(probs, dtype=np.float32)
    hardness = np.empty_like(lesion)
    flat, target = lesion.reshape(-1), hardness.reshape(-1)
    for start in range(0, flat.size, _BLOCK):  # no temporary arrays of the frame's size
        part = slice(start, start + _BLOCK)
        _entropy(flat[part], out=target[part])
    return hardness


def _entropy(lesion: np.ndarray, *, out: np.ndarray) -> None:
    background = np.float32(1) - lesion
    np.log(np.maximum(lesion, _TINY), out=out)  # 0 log 0 is 0
    out *= lesion
    rest = np.log(np.maximum(background, _TINY))
    rest *= background
    out += rest
    out *= _PER_BIT
    np.clip(out, 0, 1, out=out)


def hardness_grid(hardness: np.ndarray, grid: int = GRID) -> np.ndarray:
    """Mean hardness of each cell of a grid that is laid over the frame.

    Cell (i, j) covers the rows from i H / G to (i + 1) H / G and the columns likewise. A pixel on the border of cells
    counts in each by the share of its area that lies there, so every H, W >= 1 works, also below G.

    Args:
        hardness: (H, W).
        grid: G, cells per side.

    Returns:
        float32 (G, G); its mean is the mean of the frame.

    Raises:
        ValueError: no (H, W) array with pixels, or a grid below 1.
    """
    if hardness.ndim != 2 or hardness.size == 0 or grid < 1:
        raise ValueError(f"expected hardness (H, W) with pixels and a grid >= 1, found {hardness.shape} and {grid}")
    means = _cell_means(_cell_means(hardness, grid).T, grid).T
    # differences of sums are a hair off: no mean may leave the range of its pixels
    return np.clip(means.astype(np.float32), hardness.min(), hardness.max())


def frame_grid(probs: np.ndarray, grid: int = GRID) -> np.ndarray:
    """Hardness grid of a frame's probabilities at the price of a few pixels per cell.

    The network answers more coarsely than frames are stored, so that of a large frame every second (third, ...) pixel
    of a row and a column says the same; at least `_SAMPLES` x `_SAMPLES` pixels of each cell are looked at, or all.

    Args:
        probs: probability of lesion (H, W) in [0, 1].
        grid: G, cells per side.

    Returns:
        float32 (G, G) as `hardness_grid(pixel_hardness(probs), grid)`, up to that sampling.

    Raises:
        ValueError: as `hardness_grid`.
    """
    if probs.ndim != 2 or probs.size == 0 or grid < 1:
        raise ValueError(f"expected probs (H, W) with pixels and a grid >= 1, found {probs.shape} and {grid}")
    rows, columns = (max(1, length // (grid * _SAMPLES)) for length in probs.shape)
    return hardness_grid(pixel_hardness(probs[rows // 2 :: rows, columns // 2 :: columns]), grid)


def _cell_means(values: np.ndarray, grid: int) -> np.ndarray:
    """(N, M) -> float64 (grid, M): mean of each cell along the first axis, from sums up to the cells' edges.

    No matrix product: numpy would run so small a one with all cores, which the network and other threads keep busy.
    """
    count = len(values)
    sums = np.zeros((count + 1, values.shape[1]))
    np.cumsum(values, axis=0, dtype=np.float64, out=sums[1:])
    edges = np.arange(grid + 1) * (count / grid)
    below = np.minimum(edges.astype(np.int64), count - 1)
    share = (edges - below)[:, None]
    up_to_edge = sums[below] * (1 - share) + sums[below + 1] * share
    return np.diff(up_to_edge, axis=0) * (grid / count)


def uncertainty(grid: np.ndarray) -> float:
    """Mean of the hardest tenth of the cells (rounded up; at least one): how unsure the model is of a frame, in [0, 1].

    The mean over all cells would follow the size of the lesion, since most of a frame is easy background.

    Args:
        grid: (G, G) as `hardness_grid` returns it.

    Raises:
        ValueError: no cell.
    """
    cells = np.asarray(grid, dtype=np.float64).ravel()
    if cells.size == 0:
        raise ValueError("the hardness grid has no cell")
    count = math.ceil(HARDEST_SHARE * cells.size - 1e-9)
    return float(np.partition(cells, -count)[-count:].mean())
