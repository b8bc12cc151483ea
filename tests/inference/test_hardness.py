"""Hardness of pixels, patches and frames."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from phnet_monai.inference.hardness import frame_grid, hardness_grid, pixel_hardness, uncertainty
from phnet_monai.transforms import patch_hardness


def random_probs(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).random((height, width), dtype=np.float32)


def test_pixel_hardness_by_the_formula() -> None:
    probs = np.array([[0.0, 0.5, 1.0, 0.25, 1e-8, 0.9]], dtype=np.float32)
    quarter = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    tenth = -(0.1 * math.log2(0.1) + 0.9 * math.log2(0.9))
    hardness = pixel_hardness(probs)
    assert hardness.dtype == np.float32
    np.testing.assert_allclose(hardness, [[0, 1, 0, quarter, 0, tenth]], atol=1e-6)
    assert hardness[0, 0] == 0
    assert hardness[0, 2] == 0


def test_pixel_hardness_stays_in_range_and_is_symmetric() -> None:
    probs = random_probs(301, 217)
    hardness = pixel_hardness(probs)
    assert hardness.min() >= 0
    assert hardness.max() <= 1
    np.testing.assert_allclose(hardness, pixel_hardness(1 - probs), atol=1e-6)
    np.testing.assert_array_equal(hardness[::2, ::3], pixel_hardness(probs[::2, ::3]))
    assert pixel_hardness(np.zeros((0,), dtype=np.float32)).shape == (0,)


def test_a_dividing_grid_is_the_patch_hardness_of_training() -> None:
    probs = random_probs(48, 80)
    pair = torch.from_numpy(np.stack([1 - probs, probs]))[None]
    expected = patch_hardness(pair, 8)[0].numpy()
    np.testing.assert_allclose(hardness_grid(pixel_hardness(probs), 8), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("height", "width", "grid"), [(7, 5, 3), (1, 1, 16), (3, 100, 16), (601, 799, 16), (16, 17, 16)]
)
def test_any_size_is_covered_exactly(height: int, width: int, grid: int) -> None:
    values = random_probs(height, width)
    cells = hardness_grid(values, grid)
    assert cells.shape == (grid, grid)
    assert cells.dtype == np.float32
    assert cells.mean() == pytest.approx(values.mean(), abs=1e-5)
    # every pixel as grid x grid equal parts: then the cells' borders fall between parts
    parts = values.repeat(grid, axis=0).repeat(grid, axis=1) if height * width < 2000 else None
    if parts is not None:
        expected = parts.reshape(grid, height, grid, width).mean(axis=(1, 3))
        np.testing.assert_allclose(cells, expected, atol=1e-5)


def test_a_constant_frame_has_a_constant_grid() -> None:
    np.testing.assert_allclose(hardness_grid(np.full((37, 501), 0.3, dtype=np.float32)), 0.3, atol=1e-6)
    for size in ((37, 501), (3, 5), (431, 476), (16, 1000)):  # not by a hair above 1, which reports refuse
        for grey in (0, 0.9999999, 1):
            cells = hardness_grid(np.full(size, grey, dtype=np.float32))
            assert cells.dtype == np.float32
            assert (cells == np.float32(grey)).all()


def test_uncertainty_is_the_mean_of_the_hardest_tenth() -> None:
    grid = np.random.default_rng(0).permutation(np.arange(256) / 256).reshape(16, 16)
    assert uncertainty(grid) == pytest.approx(np.arange(230, 256).mean() / 256)  # 26 cells: a tenth, rounded up
    assert uncertainty(np.array([[0.25]])) == 0.25
    assert uncertainty(np.arange(10) / 10) == pytest.approx(0.9)
    assert uncertainty(np.arange(20) / 20) == pytest.approx(0.925)


def test_one_hard_cell_in_an_easy_frame_shows() -> None:
    hardness = np.zeros((160, 160), dtype=np.float32)
    hardness[:20, :20] = 1  # four of 256 cells
    assert uncertainty(hardness_grid(hardness)) == pytest.approx(4 / 26)


@pytest.mark.parametrize("shape", [(600, 800), (160, 160), (40, 1300), (5, 5)])
def test_the_sampled_grid_is_the_grid_of_a_smooth_map(shape: tuple[int, int]) -> None:
    y, x = np.mgrid[: shape[0], : shape[1]]
    distance = np.hypot((y / shape[0] - 0.4) / 0.2, (x / shape[1] - 0.5) / 0.3)
    probs = (1 / (1 + np.exp(8 * (distance - 1)))).astype(np.float32)
    exact = hardness_grid(pixel_hardness(probs))
    sampled = frame_grid(probs)
    assert np.abs(sampled - exact).max() < 0.02
    assert uncertainty(sampled) == pytest.approx(uncertainty(exact), abs=5e-3)
    if max(shape) < 512:
        np.testing.assert_array_equal(sampled, exact)


def test_impossible_arguments() -> None:
    for function in (hardness_grid, frame_grid):
        with pytest.raises(ValueError, match="with pixels"):
            function(np.zeros((0, 5), dtype=np.float32))
        with pytest.raises(ValueError, match="grid"):
            function(np.zeros((5, 5), dtype=np.float32), 0)
    with pytest.raises(ValueError, match="no cell"):
        uncertainty(np.zeros((0, 0)))
