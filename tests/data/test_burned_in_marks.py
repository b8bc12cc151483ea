"""Drawn marks are told from speckle; colour from grey in three channels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from phnet_monai.data import colour_share, find_marks, make_phantom


def _drawn(image: np.ndarray, draw) -> np.ndarray:
    picture = Image.fromarray(image)
    draw(ImageDraw.Draw(picture))
    return np.asarray(picture)


def _caliper(x: int, y: int, grey: int = 235):
    def draw(pen: ImageDraw.ImageDraw) -> None:
        pen.line((x - 6, y, x + 6, y), fill=grey, width=2)
        pen.line((x, y - 6, x, y + 6), fill=grey, width=2)

    return draw


@pytest.mark.parametrize("seed", range(40))
def test_bare_phantoms_have_no_marks(seed: int) -> None:
    assert find_marks(make_phantom((300, 400), seed=seed)[0]) == []


@pytest.mark.parametrize("seed", range(10))
def test_a_caliper_is_found_where_it_is(seed: int) -> None:
    dark = (make_phantom((300, 400), seed=seed)[0] * 0.6).astype(np.uint8)
    (mark,) = find_marks(_drawn(dark, _caliper(150, 120)))
    assert mark.place == "scan"
    assert abs(mark.top - 114) <= 1
    assert abs(mark.left - 144) <= 1
    assert abs(mark.bottom - 127) <= 2
    assert mark.area >= 40


def test_letters_are_found_one_by_one() -> None:
    dark = (make_phantom((300, 400), seed=3)[0] * 0.6).astype(np.uint8)
    marks = find_marks(_drawn(dark, lambda pen: pen.text((150, 250), "RT UOQ", fill=230, font_size=20)))
    assert len(marks) == 5
    assert all(245 < mark.top < mark.bottom < 280 for mark in marks)


def test_a_symbol_in_a_corner_is_told_apart() -> None:
    dark = (make_phantom((300, 400), seed=4)[0] * 0.6).astype(np.uint8)
    assert [mark.place for mark in find_marks(_drawn(dark, _caliper(9, 9)))] == ["corner"]


def test_what_is_no_mark() -> None:
    assert find_marks(np.full((50, 60), 255, np.uint8)) == []  # nothing stands out
    edge = np.zeros((50, 60), np.uint8)
    edge[:2] = 200
    assert find_marks(edge) == []  # a bright line along the border: skin where the crop ends
    dot = np.zeros((50, 60), np.uint8)
    dot[20:23, 20:23] = 200
    assert find_marks(dot) == []  # 9 pixels
    blurred = np.zeros((50, 60), np.uint8)
    blurred[20:30] = np.array([40, 80, 120, 160, 200, 200, 160, 120, 80, 40], np.uint8)[:, None]
    assert find_marks(blurred) == []  # bright, but it rises over several pixels


def test_other_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \(H, W\), found float64 \(4, 5\)"):
        find_marks(np.zeros((4, 5)))


def test_colour_is_counted_by_pixels() -> None:
    grey = np.full((10, 10, 3), 90, np.uint8)
    assert colour_share(grey) == 0.0
    grey[0, :5] = (200, 100, 0)
    grey[1, 0] = (100, 110, 100)  # within what rounding and compression do
    assert colour_share(grey) == 0.05
    assert colour_share(np.zeros((0, 0, 3), np.uint8)) == 0.0
