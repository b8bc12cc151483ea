"""Overlays: where lines run, what stays untouched."""

from __future__ import annotations

import numpy as np
import pytest

from phnet_monai.inference import draw_overlay
from phnet_monai.inference.overlay import (
    FILL,
    PREDICTION_COLOUR,
    TRUTH_COLOUR,
    contour_width,
    inner_contour,
    outer_contour,
)


def scene(height: int = 200, width: int = 300) -> tuple[np.ndarray, np.ndarray]:
    image = np.random.default_rng(1).integers(0, 200, (height, width), dtype=np.uint8)
    mask = np.zeros((height, width), dtype=bool)
    mask[50:100, 40:120] = True
    return image, mask


def coloured(drawn: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (drawn == colour).all(axis=2)


def test_outside_the_lesion_the_image_is_untouched() -> None:
    image, mask = scene()
    drawn = draw_overlay(image, mask)
    assert drawn.shape == (200, 300, 3)
    assert drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn[~mask], np.repeat(image[~mask][:, None], 3, axis=1))


def test_contour_and_fill_have_exact_values() -> None:
    image, mask = scene()
    drawn = draw_overlay(image, mask)
    frame = mask.copy()
    frame[52:98, 42:118] = False  # two pixels wide at this size
    np.testing.assert_array_equal(coloured(drawn, PREDICTION_COLOUR), frame)
    inside = mask & ~frame
    grey = image[inside].astype(float)[:, None]
    expected = np.rint(grey + FILL * (np.array(PREDICTION_COLOUR) - grey))
    assert np.abs(drawn[inside].astype(float) - expected).max() <= 1


def test_no_lesion_no_colour() -> None:
    image, mask = scene()
    np.testing.assert_array_equal(draw_overlay(image, np.zeros_like(mask)), np.repeat(image[:, :, None], 3, axis=2))


def test_truth_and_prediction_are_both_seen_where_they_agree() -> None:
    image, mask = scene()
    drawn = draw_overlay(image, mask, truth=mask)
    truth = coloured(drawn, TRUTH_COLOUR)
    assert truth.any()
    assert not (truth & mask).any()
    np.testing.assert_array_equal(truth, outer_contour(mask, 2))
    np.testing.assert_array_equal(coloured(drawn, PREDICTION_COLOUR), inner_contour(mask, 2))


def test_a_lesion_at_the_edge_has_a_closed_contour() -> None:
    image, _ = scene()
    drawn = draw_overlay(image, np.ones(image.shape, dtype=bool))
    assert coloured(drawn, PREDICTION_COLOUR)[0].all()
    assert coloured(drawn, PREDICTION_COLOUR)[:, -1].all()


def test_suspicion_below_the_threshold_shows() -> None:
    image, mask = scene()
    probs = np.zeros(image.shape, dtype=np.float32)
    probs[10:20, 200:220] = 0.4
    drawn = draw_overlay(image, np.zeros_like(mask), probs)
    changed = (drawn != image[:, :, None]).any(axis=2)
    assert changed[10:20, 200:220].mean() > 0.9
    assert not changed[probs == 0].any()


@pytest.mark.parametrize(("size", "width"), [((64, 64), 1), ((500, 400), 2), ((128, 90), 2), ((1024, 768), 4)])
def test_line_width_follows_the_image_size(size: tuple[int, int], width: int) -> None:
    assert contour_width(*size) == width
    mask = np.zeros(size, dtype=bool)
    mask[size[0] // 4 : size[0] // 2, size[1] // 4 : size[1] // 2] = True
    row = inner_contour(mask, width)[size[0] * 3 // 8]
    assert row.sum() == 2 * width


def test_a_single_pixel_lesion_is_drawn() -> None:
    image, mask = scene()
    mask[:] = False
    mask[7, 9] = True
    assert np.argwhere(coloured(draw_overlay(image, mask), PREDICTION_COLOUR)).tolist() == [[7, 9]]


@pytest.mark.parametrize("name", ["image", "mask", "probs", "truth"])
def test_wrong_arrays_are_named(name: str) -> None:
    image, mask = scene()
    arrays = {"image": image, "mask": mask, "probs": mask.astype(np.float32), "truth": mask}
    arrays[name] = image[:, :, None].astype(np.int32) if name == "image" else arrays[name][1:]
    with pytest.raises(ValueError, match=f"^{name}: "):
        draw_overlay(**arrays)


def test_arguments_are_not_changed() -> None:
    image, mask = scene()
    before = image.copy(), mask.copy()
    draw_overlay(image, mask, mask.astype(np.float32), mask)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(mask, before[1])


def test_hardness_has_the_report_s_colours() -> None:
    from phnet_monai.inference.overlay import draw_hardness
    from phnet_monai.inference.report_colours import hardness_colour

    image = np.full((2, 3), 100, dtype=np.uint8)
    hardness = np.array([[0, 0.5, 1], [0, 0, 1]], dtype=np.float32)
    drawn = draw_hardness(image, hardness)
    assert drawn[0, 0].tolist() == [100] * 3  # certain: the image itself
    for column, value in ((1, 0.5), (2, 1.0)):
        colour, opacity = hardness_colour(value)
        expected = [100 * (1 - opacity) + opacity * int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        np.testing.assert_allclose(drawn[0, column], expected, atol=2)
    with pytest.raises(ValueError, match=r"hardness: expected shape \(2, 3\)"):
        draw_hardness(image, hardness[:, :2])
