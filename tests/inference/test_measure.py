"""Measurements against shapes whose size is known."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from scipy import ndimage

from phnet_monai.inference.hardness import pixel_hardness
from phnet_monai.inference.measure import (
    LESION_FIELDS,
    Lesion,
    boundary_width,
    caliper_axes,
    mask_box,
    measure_lesions,
)


def certain(mask: np.ndarray) -> np.ndarray:
    return mask.astype(np.float32)


def measure_one(mask: np.ndarray, spacing_mm: tuple[float, float] | None = None) -> Lesion:
    [lesion] = measure_lesions(mask, certain(mask), spacing_mm)
    return lesion


def rectangle(top: int, left: int, height: int, width: int, *, shape: tuple[int, int] = (120, 150)) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


def ellipse_mm(
    long_mm: float, short_mm: float, degrees: float, spacing_mm: tuple[float, float], *, shape: tuple[int, int]
) -> np.ndarray:
    """Ellipse of these axes about the middle of the frame; its long axis turned from the columns' direction."""
    y = (np.arange(shape[0]) - (shape[0] - 1) / 2)[:, None] * spacing_mm[0]
    x = (np.arange(shape[1]) - (shape[1] - 1) / 2)[None] * spacing_mm[1]
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    along, across = x * cosine + y * sine, y * cosine - x * sine
    return (along / (long_mm / 2)) ** 2 + (across / (short_mm / 2)) ** 2 <= 1


@pytest.mark.parametrize(("height", "width"), [(10, 30), (30, 10), (20, 20), (1, 40), (40, 1), (1, 1), (2, 3)])
@pytest.mark.parametrize("spacing", [None, (0.1, 0.1), (0.2, 0.05), (0.05, 0.2)])
def test_rectangles_are_exact(height: int, width: int, spacing: tuple[float, float] | None) -> None:
    lesion = measure_one(rectangle(7, 11, height, width), spacing)
    assert lesion.area_px == height * width
    assert (lesion.bbox_x, lesion.bbox_y, lesion.bbox_width, lesion.bbox_height) == (11, 7, width, height)
    assert (lesion.centroid_x, lesion.centroid_y) == (11 + (width - 1) / 2, 7 + (height - 1) / 2)
    diagonal = math.hypot(height, width)
    assert lesion.long_axis_px == pytest.approx(diagonal)
    # the line at a right angle to the diagonal ends on the two long sides
    assert lesion.short_axis_px == pytest.approx(min(height, width) * diagonal / max(height, width))
    if spacing is None:
        assert lesion.area_mm2 is lesion.long_axis_mm is lesion.short_axis_mm is None
    else:
        sides = height * spacing[0], width * spacing[1]
        assert lesion.area_mm2 == pytest.approx(sides[0] * sides[1])
        assert lesion.long_axis_mm == pytest.approx(math.hypot(*sides))
        assert lesion.short_axis_mm == pytest.approx(min(sides) * math.hypot(*sides) / max(sides))


@pytest.mark.parametrize("radius", [8, 20, 55])
def test_discs(radius: int) -> None:
    mask = ellipse_mm(2 * radius, 2 * radius, 0, (1, 1), shape=(121, 131))
    lesion = measure_one(mask, (0.1, 0.1))
    assert lesion.area_px == pytest.approx(math.pi * radius**2, rel=0.025)
    assert lesion.area_mm2 == pytest.approx(lesion.area_px / 100)
    assert lesion.long_axis_px == pytest.approx(2 * radius, abs=1.5)
    assert lesion.short_axis_px == pytest.approx(2 * radius, abs=1.5)
    assert (lesion.centroid_x, lesion.centroid_y) == pytest.approx((65, 60))


@pytest.mark.parametrize("degrees", [0, 17, 30, 45, 60, 90, 120, 163])
@pytest.mark.parametrize("spacing", [(0.1, 0.1), (0.2, 0.08), (0.06, 0.15)])
def test_turned_ellipses_under_unequal_spacing(degrees: float, spacing: tuple[float, float]) -> None:
    mask = ellipse_mm(18.0, 9.0, degrees, spacing, shape=(400, 300))
    lesion = measure_one(mask, spacing)
    pixel = math.hypot(*spacing)
    assert lesion.area_mm2 == pytest.approx(math.pi * 18 * 9 / 4, rel=0.01)
    assert lesion.long_axis_mm == pytest.approx(18.0, abs=1.2 * pixel)
    assert lesion.short_axis_mm == pytest.approx(9.0, abs=2 * pixel)
    assert (lesion.centroid_x, lesion.centroid_y) == pytest.approx((149.5, 199.5), abs=0.1)


def test_the_long_axis_in_mm_is_not_the_one_in_pixels() -> None:
    lesion = measure_one(rectangle(0, 0, 10, 40), (1.0, 0.1))  # 40 columns wide, but 10 mm high and 4 mm wide
    assert lesion.long_axis_px == pytest.approx(math.hypot(10, 40))
    assert lesion.long_axis_mm == pytest.approx(math.hypot(10, 4))


def slow_axes(mask: np.ndarray, spacing: tuple[float, float]) -> tuple[float, list[float]]:
    """Longest distance of any two pixel corners, and the longest chord across the hull for each pair that has it."""
    corners = sorted({(y + dy, x + dx) for y, x in np.argwhere(mask).tolist() for dy in (0, 1) for dx in (0, 1)})
    points = np.array(corners, dtype=float) * spacing
    pairs = [(math.dist(a, b), a, b) for a, b in combinations(points, 2)]
    longest = max(distance for distance, _, _ in pairs)
    shorts = []
    for distance, a, b in pairs:
        if distance > longest - 1e-9:
            along = (b - a) / distance
            position, across = (points - a) @ along, (points - a) @ np.array([-along[1], along[0]])
            shorts.append(max(slow_chord(position, across, place) for place in position))
    return longest, shorts


def slow_chord(position: np.ndarray, across: np.ndarray, place: float) -> float:
    """Length of the convex hull's cut at `place`: its ends lie on lines between two points on either side."""
    heights = []
    for i in range(len(position)):
        for j in range(len(position)):
            if position[i] <= place + 1e-12 and position[j] >= place - 1e-12:
                step = position[j] - position[i]
                share = 0.0 if step < 1e-12 else min(1.0, max(0.0, (place - position[i]) / step))
                heights.append(across[i] + share * (across[j] - across[i]))
    return max(heights) - min(heights)


@pytest.mark.parametrize("seed", range(8))
def test_ragged_lesions_against_all_pairs_of_corners(seed: int) -> None:
    generator = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(generator.random((14, 14)), 1.5)
    labels, _ = ndimage.label(noise > np.quantile(noise, 0.7), np.ones((3, 3)))
    mask = labels == 1 + np.bincount(labels.ravel())[1:].argmax()
    spacing = (0.3, 0.17)
    lesion = measure_one(mask, spacing)
    for sizes, (long_axis, short_axis) in (
        ((1.0, 1.0), (lesion.long_axis_px, lesion.short_axis_px)),
        (spacing, (lesion.long_axis_mm, lesion.short_axis_mm)),
    ):
        longest, shorts = slow_axes(mask, sizes)
        assert long_axis == pytest.approx(longest)
        assert any(short_axis == pytest.approx(short) for short in shorts)


def test_axes_of_a_polygon_that_is_no_lesion() -> None:
    kite = np.array([[0, 0], [3, 1], [0, 10], [-2, 4]], dtype=float)
    long_axis, short_axis = caliper_axes(kite)
    assert long_axis == 10
    assert short_axis == pytest.approx(2 + 3 * 6 / 9)  # at 4 along: the corner at -2, and the side from (3, 1) to 10
    assert caliper_axes(kite[[2, 0, 3, 1]]) == pytest.approx((long_axis, short_axis))


def test_calipers_span_a_notch() -> None:
    mask = rectangle(20, 20, 40, 60)
    mask[20:45, 45:55] = False
    whole, notched = measure_one(rectangle(20, 20, 40, 60)), measure_one(mask)
    assert notched.area_px == whole.area_px - 250
    assert (notched.long_axis_px, notched.short_axis_px) == (whole.long_axis_px, whole.short_axis_px)


def test_lesions_that_touch_by_a_corner_are_one() -> None:
    mask = rectangle(10, 10, 5, 5) | rectangle(15, 15, 5, 5)
    lesion = measure_one(mask)
    assert lesion.area_px == 50
    assert lesion.long_axis_px == pytest.approx(10 * math.sqrt(2))
    assert (lesion.bbox_width, lesion.bbox_height) == (10, 10)
    apart = rectangle(10, 10, 5, 5) | rectangle(15, 16, 5, 5)
    assert [one.area_px for one in measure_lesions(apart, certain(apart))] == [25, 25]


def test_the_largest_lesion_comes_first_and_ties_in_reading_order() -> None:
    mask = rectangle(2, 100, 4, 4) | rectangle(30, 60, 4, 4) | rectangle(60, 5, 30, 20) | rectangle(100, 100, 5, 5)
    lesions = measure_lesions(mask, certain(mask))
    assert [one.number for one in lesions] == [1, 2, 3, 4]
    assert [(one.area_px, one.bbox_y) for one in lesions] == [(600, 60), (25, 100), (16, 2), (16, 30)]


def test_interleaved_boxes_do_not_mix() -> None:
    frame = rectangle(10, 10, 60, 60)
    frame[13:67, 13:67] = False
    core = rectangle(30, 30, 10, 12)
    ring, middle = measure_lesions(frame | core, certain(frame | core), (0.1, 0.1))
    assert (ring.area_px, middle.area_px) == (60 * 60 - 54 * 54, 120)
    assert (middle.bbox_x, middle.bbox_y, middle.bbox_width, middle.bbox_height) == (30, 30, 12, 10)
    assert ring.long_axis_px == pytest.approx(60 * math.sqrt(2))


def test_no_lesion() -> None:
    mask = np.zeros((50, 60), dtype=bool)
    assert measure_lesions(mask, certain(mask)) == []
    assert mask_box(mask) is None


@pytest.mark.parametrize(("top", "left"), [(0, 0), (0, 130), (110, 0), (110, 130), (50, 0)])
def test_a_lesion_at_the_border_of_the_frame(top: int, left: int) -> None:
    lesion = measure_one(rectangle(top, left, 10, 20), (0.1, 0.1))
    assert (lesion.bbox_x, lesion.bbox_y, lesion.area_px) == (left, top, 200)
    assert lesion.long_axis_px == pytest.approx(math.hypot(10, 20))


def test_a_lesion_that_fills_the_frame_has_no_contour() -> None:
    mask = np.ones((30, 40), dtype=bool)
    [lesion] = measure_lesions(mask, np.full((30, 40), 0.6, dtype=np.float32))
    assert lesion.boundary_hardness == 0
    assert lesion.mean_confidence == pytest.approx(0.6)
    assert lesion.long_axis_px == pytest.approx(50)


def test_where_the_lesion_lies_does_not_matter() -> None:
    shape = ellipse_mm(40, 20, 33, (1, 1), shape=(60, 60))
    found = set()
    for top, left in [(0, 0), (3, 77), (140, 140), (51, 1)]:
        mask = np.zeros((200, 200), dtype=bool)
        mask[top : top + 60, left : left + 60] = shape
        lesion = measure_one(mask, (0.11, 0.07))
        found.add(
            (lesion.area_px, lesion.long_axis_mm, lesion.short_axis_mm, lesion.long_axis_px, lesion.short_axis_px)
        )
    assert len(found) == 1


def test_mean_confidence_is_over_the_lesion_s_own_pixels() -> None:
    mask = rectangle(10, 10, 4, 4) | rectangle(50, 50, 2, 2)
    probs = np.full(mask.shape, 0.1, dtype=np.float32)
    probs[10:14, 10:14] = 0.7
    probs[10, 10] = 0.9
    probs[50:52, 50:52] = 0.8
    large, small = measure_lesions(mask, probs)
    assert large.mean_confidence == pytest.approx((15 * 0.7 + 0.9) / 16)
    assert small.mean_confidence == pytest.approx(0.8)


@pytest.mark.parametrize(("size", "width"), [((20, 30), 1), ((60, 80), 2), ((300, 200), 6), ((600, 800), 16)])
def test_the_band_grows_with_the_frame(size: tuple[int, int], width: int) -> None:
    assert boundary_width(*size) == width


def slow_boundary_hardness(mask: np.ndarray, probs: np.ndarray, width: int) -> float:
    values = []
    for y, x in np.ndindex(mask.shape):
        near = mask[max(0, y - width) : y + width + 1, max(0, x - width) : x + width + 1]
        if near.any() and not near.all():
            values.append(pixel_hardness(probs[y, x][None])[0])
    return float(np.mean(values))


@pytest.mark.parametrize(
    "mask",
    [
        rectangle(40, 100, 30, 70, shape=(100, 520)),
        rectangle(0, 0, 30, 70, shape=(100, 520)),
        rectangle(2, 519, 97, 1, shape=(100, 520)),
        rectangle(99, 200, 1, 1, shape=(100, 520)),
        rectangle(10, 3, 80, 515, shape=(100, 520)) & ~rectangle(30, 40, 12, 4, shape=(100, 520)),
    ],
)
def test_boundary_hardness_is_the_mean_over_the_band(mask: np.ndarray) -> None:
    probs = np.random.default_rng(3).random(mask.shape, dtype=np.float32)
    [lesion] = measure_lesions(mask, probs)
    width = boundary_width(*mask.shape)
    assert width == 10
    assert lesion.boundary_hardness == pytest.approx(slow_boundary_hardness(mask, probs, width), abs=1e-6)


def test_doubt_away_from_the_contour_does_not_count() -> None:
    mask = rectangle(20, 20, 60, 60)
    probs = certain(mask)
    probs[45:55, 45:55] = 0.5
    probs[100:, 100:] = 0.5
    [lesion] = measure_lesions(mask, probs)
    assert lesion.boundary_hardness == 0
    probs[20, 20:80] = 0.5
    assert measure_lesions(mask, probs)[0].boundary_hardness > 0.02


def test_a_lesion_as_plain_values() -> None:
    lesion = measure_one(rectangle(1, 2, 3, 4), (0.5, 0.5))
    plain = lesion.as_dict()
    assert list(plain) == list(LESION_FIELDS)
    assert {type(value) for value in plain.values()} == {int, float}
    assert Lesion(**plain) == lesion


def test_arguments_are_not_changed() -> None:
    mask = rectangle(10, 10, 30, 30)
    probs = np.random.default_rng(0).random(mask.shape, dtype=np.float32)
    before = mask.copy(), probs.copy()
    measure_lesions(mask, probs)
    np.testing.assert_array_equal(mask, before[0])
    np.testing.assert_array_equal(probs, before[1])


@pytest.mark.parametrize(
    ("mask", "probs", "spacing", "message"),
    [
        (np.zeros((4, 4), dtype=np.uint8), np.zeros((4, 4)), None, "mask: expected bool"),
        (np.zeros((4, 4, 1), dtype=bool), np.zeros((4, 4)), None, "mask: expected bool"),
        (np.zeros((4, 4), dtype=bool), np.zeros((4, 5)), None, r"probs: expected shape \(4, 4\)"),
        (np.zeros((4, 4), dtype=bool), np.zeros((4, 4)), (0.0, 0.1), "spacing_mm: expected two positive"),
        (np.zeros((4, 4), dtype=bool), np.zeros((4, 4)), (float("nan"), 0.1), "spacing_mm"),
        (np.zeros((4, 4), dtype=bool), np.zeros((4, 4)), (0.1, 0.1, 0.1), "spacing_mm"),
    ],
)
def test_impossible_arguments(mask: np.ndarray, probs: np.ndarray, spacing: tuple[float, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure_lesions(mask, probs, spacing)
