"""Masks and slow reference versions for the tests of the metrics room."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

REFERENCE = Path(__file__).parents[1] / "reference" / "metrics_reference.py"


@pytest.fixture(scope="session")
def reference() -> SimpleNamespace:
    """The functions of `tests/reference/metrics_reference.py`."""
    return SimpleNamespace(**runpy.run_path(str(REFERENCE)))


@pytest.fixture(scope="session")
def square() -> Callable[..., np.ndarray]:
    """`square(shape, top, left, side)`: a mask with one square."""

    def make(shape: tuple[int, int], top: int, left: int, side: int) -> np.ndarray:
        mask = np.zeros(shape, dtype=bool)
        mask[top : top + side, left : left + side] = True
        return mask

    return make


@pytest.fixture(scope="session")
def blobs() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """`blobs(shape, seed)`: two overlapping irregular masks, parts of which touch the image's edge."""

    def make(shape: tuple[int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        common = gaussian_filter(rng.standard_normal(shape), 3)
        first, second = (common + 0.5 * gaussian_filter(rng.standard_normal(shape), 3) for _ in range(2))
        return first > np.quantile(first, 0.8), second > np.quantile(second, 0.85)

    return make
