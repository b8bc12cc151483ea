"""Post-processing: what is filled, what is dropped, in which order."""

from __future__ import annotations

import numpy as np
import pytest

from phnet_monai.inference.postprocess import Postprocess, filled


def picture(*lines: str) -> np.ndarray:
    return np.array([[letter == "#" for letter in line] for line in lines])


SCENE = picture(
    "......##",
    ".###..##",
    ".#.#....",
    ".###...#",
    "........",
    "#.......",
)
"""A ring of 8 with a hole of 1, a square of 4, two single pixels."""


def test_nothing_is_done_unless_it_is_asked_for() -> None:
    assert Postprocess()(SCENE) is SCENE
    assert Postprocess().as_settings() == {
        "min_area_px": 0,
        "min_area_mm2": 0,
        "fill_holes": False,
        "largest_only": False,
    }


def test_holes_are_filled() -> None:
    expected = SCENE.copy()
    expected[2, 2] = True
    np.testing.assert_array_equal(Postprocess(fill_holes=True)(SCENE), expected)
    assert not SCENE[2, 2]


def test_a_bay_is_no_hole() -> None:
    bay = picture("####", "#..#", "#..#")  # open to the edge of the frame
    assert filled(bay) is bay
    assert Postprocess(fill_holes=True)(bay) is bay
    closed = picture(".#.", "#.#", ".#.")  # closed over corners: lesion pixels touch there
    assert filled(closed)[1, 1]
    assert not filled(closed)[0, 0]


def test_small_lesions_are_dropped() -> None:
    kept = Postprocess(min_area_px=4)(SCENE)
    assert kept.sum() == 12
    assert kept[0, 6]
    assert not kept[5, 0]
    assert Postprocess(min_area_px=4.1)(SCENE).sum() == 8
    assert Postprocess(min_area_px=1)(SCENE) is SCENE
    assert not Postprocess(min_area_px=100)(SCENE).any()


def test_the_smallest_area_in_mm2_needs_a_spacing() -> None:
    step = Postprocess(min_area_mm2=0.04)
    assert step(SCENE, (0.1, 0.1)).sum() == 12  # 4 pixels are exactly 0.04 mm2
    assert step(SCENE, (0.2, 0.2)) is SCENE
    assert step(SCENE, (0.05, 0.1)).sum() == 8
    with pytest.raises(ValueError, match="no pixel spacing; give --spacing-mm"):
        step(SCENE)
    assert Postprocess(min_area_mm2=0.04, min_area_px=5)(SCENE, (0.1, 0.1)).sum() == 8  # the stricter one counts


def test_the_largest_lesion() -> None:
    kept = Postprocess(largest_only=True)(SCENE)
    assert kept.sum() == 8
    assert kept[1:4, 1:4].sum() == 8
    tie = picture("#..#", "...#", "#...", "#...")
    np.testing.assert_array_equal(Postprocess(largest_only=True)(tie), picture("...#", "...#", "....", "...."))
    assert Postprocess(largest_only=True)(picture("##", "#.")).sum() == 3


def test_holes_count_for_the_size() -> None:
    ring = picture("#####", "#...#", "#...#", "#####", ".....", "#####", "#####", "#####")
    assert Postprocess(largest_only=True)(ring)[5:].sum() == 15  # 14 pixels of ring against 15
    assert Postprocess(largest_only=True, fill_holes=True)(ring)[:4].sum() == 20


def test_an_empty_mask_stays_empty() -> None:
    empty = np.zeros((4, 5), dtype=bool)
    step = Postprocess(min_area_px=3, fill_holes=True, largest_only=True)
    assert not step(empty).any()
    assert step(np.ones((4, 5), dtype=bool)).all()


@pytest.mark.parametrize("seed", range(5))
def test_twice_is_once(seed: int) -> None:
    mask = np.random.default_rng(seed).random((40, 50)) > 0.55
    step = Postprocess(min_area_px=6, fill_holes=True)
    once = step(mask)
    np.testing.assert_array_equal(step(once), once)
    assert mask.any()


@pytest.mark.parametrize("name", ["min_area_px", "min_area_mm2"])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_impossible_areas(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be an area"):
        Postprocess(**{name: value})


def test_impossible_masks() -> None:
    with pytest.raises(ValueError, match="mask: expected bool"):
        Postprocess()(SCENE.astype(np.uint8))
    with pytest.raises(ValueError, match="spacing_mm"):
        Postprocess()(SCENE, (0.0, 1.0))
