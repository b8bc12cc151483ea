"""Surface distances and lesion counts against hand-made figures and slow references."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from PIL import Image

from phnet_monai.metrics import lesion_wise, per_image_scores


def pixel(shape: tuple[int, int], row: int, column: int) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[row, column] = True
    return mask


def test_identical_masks(square):
    mask = square((20, 25), 3, 4, 6)
    scores = per_image_scores(mask, mask)
    assert (scores["dice"], scores["iou"], scores["hd95"], scores["assd"]) == (1, 1, 0, 0)
    assert (scores["missed"], scores["tp"], scores["fp"], scores["fn"]) == (0, 36, 0, 0)
    assert scores["lesion_area_fraction"] == pytest.approx(36 / 500)
    assert math.isnan(scores["false_positive"])


def test_prediction_beside_the_lesion_is_missed_with_measured_distance():
    scores = per_image_scores(pixel((30, 40), 6, 6), pixel((30, 40), 2, 3))
    assert (scores["hd95"], scores["assd"]) == pytest.approx((5, 5))  # 3-4-5 triangle
    assert (scores["missed"], scores["dice"]) == (1, 0)


def test_spacing_is_row_then_column():
    scores = per_image_scores(pixel((30, 40), 6, 6), pixel((30, 40), 2, 3), spacing_mm=(0.5, 2.0))
    assert scores["hd95"] == pytest.approx(math.hypot(4 * 0.5, 3 * 2.0))
    isotropic = per_image_scores(pixel((30, 40), 6, 6), pixel((30, 40), 2, 3), spacing_mm=0.1)
    assert isotropic["assd"] == pytest.approx(0.5)


def test_hd95_forgives_one_stray_pixel_and_assd_averages_it():
    target = np.zeros((60, 120), dtype=bool)
    target[2, 10:110] = True  # a line of 100 boundary pixels
    prediction = target.copy()
    prediction[52, 60] = True  # 50 below it
    scores = per_image_scores(prediction, target)
    assert scores["hd95"] == 0
    assert scores["assd"] == pytest.approx(50 / 201)


def test_shifted_square(square):
    # boundary of a 3x3 square is 8 pixels; shifted by one column, four pixels each way are one away
    scores = per_image_scores(square((10, 10), 2, 2, 3), square((10, 10), 2, 3, 3))
    assert scores["hd95"] == pytest.approx(1)
    assert scores["assd"] == pytest.approx(8 / 16)
    assert scores["dice"] == pytest.approx(6 / 9)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.07, 0.31)])
@pytest.mark.parametrize("shape", [(40, 40), (23, 71), (64, 17)])
def test_against_all_pairs_of_boundary_pixels(reference, blobs, shape, spacing):
    prediction, target = blobs(shape, seed=shape[0])
    scores = per_image_scores(prediction, target, spacing_mm=spacing)
    assert (scores["hd95"], scores["assd"]) == pytest.approx(reference.hd95_assd(prediction, target, spacing), rel=1e-5)


def test_agrees_with_monai(blobs):
    prediction, target = blobs((50, 61), seed=3)
    tensors = [torch.from_numpy(mask)[None, None] for mask in (prediction, target)]
    options = {"include_background": True, "spacing": [0.2, 0.5]}
    scores = per_image_scores(prediction, target, spacing_mm=(0.2, 0.5))
    hd95 = compute_hausdorff_distance(*tensors, percentile=95, **options).item()
    assd = compute_average_surface_distance(*tensors, symmetric=True, **options).item()
    assert (scores["hd95"], scores["assd"]) == pytest.approx((hd95, assd), rel=1e-5)


def test_distances_are_symmetric_and_do_not_depend_on_the_canvas(blobs):
    prediction, target = blobs((33, 45), seed=5)
    one, other = per_image_scores(prediction, target), per_image_scores(target, prediction)
    padded = [np.pad(mask, ((11, 3), (0, 27))) for mask in (prediction, target)]
    for key in ("hd95", "assd", "dice", "iou"):
        assert one[key] == pytest.approx(other[key], abs=1e-12)
        assert one[key] == pytest.approx(per_image_scores(*padded)[key], abs=1e-12)


def test_lesion_that_fills_the_image_has_the_frame_as_boundary(square):
    # boundary: the 16 pixels of a 5x5 frame; the centre is 2 from the nearest, its corners are sqrt(8) away
    target = np.ones((5, 5), dtype=bool)
    scores = per_image_scores(pixel((5, 5), 2, 2), target)
    forth_and_back = [2.0, *[math.hypot(r - 2, c - 2) for r in range(5) for c in range(5) if {r, c} & {0, 4}]]
    assert scores["assd"] == pytest.approx(np.mean(forth_and_back), rel=1e-6)


def test_empty_prediction_counts_the_image_diagonal(square):
    target, empty = square((30, 40), 5, 5, 4), np.zeros((30, 40), dtype=bool)
    scores = per_image_scores(empty, target)
    assert (scores["hd95"], scores["assd"], scores["missed"], scores["dice"]) == (50, 50, 1, 0)
    scores = per_image_scores(empty, target, spacing_mm=(0.2, 0.1))
    assert scores["hd95"] == pytest.approx(math.hypot(6, 4))


def test_image_without_lesion(square):
    empty = np.zeros((20, 20), dtype=bool)
    quiet, alarm = per_image_scores(empty, empty), per_image_scores(square((20, 20), 0, 0, 3), empty)
    for scores in (quiet, alarm):
        assert all(math.isnan(scores[key]) for key in ("dice", "iou", "hd95", "assd", "missed"))
    assert (quiet["false_positive"], alarm["false_positive"], alarm["fp"]) == (0, 1, 9)


def test_distances_can_be_left_out(square):
    mask = square((9, 9), 1, 1, 3)
    full, short = per_image_scores(mask, mask), per_image_scores(mask, mask, distances=False)
    assert full.keys() - short.keys() == {"hd95", "assd"}


@pytest.mark.parametrize("spacing", [0, -1.0, (1.0, 0.0), (1, 1, 1), math.nan, math.inf])
def test_refuses_spacing_that_is_not_positive(square, spacing):
    mask = square((9, 9), 1, 1, 3)
    with pytest.raises(ValueError, match="spacing_mm: expected one positive number"):
        per_image_scores(mask, mask, spacing_mm=spacing)


def test_lesions_found_missed_and_invented(square):
    shape = (40, 60)
    target = square(shape, 2, 2, 10) | square(shape, 20, 40, 6)
    prediction = square(shape, 4, 4, 8) | square(shape, 30, 2, 3) | pixel(shape, 0, 59)
    counts = lesion_wise(prediction, target)
    assert counts == {"lesions": 2, "lesions_detected": 1, "false_positive_components": 2}


def test_pixels_that_touch_at_a_corner_are_one_lesion():
    diagonal = np.eye(6, dtype=bool)
    assert lesion_wise(diagonal, diagonal) == {
        "lesions": 1,
        "lesions_detected": 1,
        "false_positive_components": 0,
    }


def test_one_component_over_two_lesions_detects_both_and_a_crumb_detects_none(square):
    target = square((20, 40), 2, 2, 10) | square((20, 40), 2, 14, 10)
    merged = np.zeros_like(target)
    merged[2:12, 2:24] = True  # IoU 100 / 220 with either
    assert lesion_wise(merged, target)["lesions_detected"] == 2
    assert lesion_wise(merged, target, min_overlap=0.46)["lesions_detected"] == 0
    crumb = square((20, 40), 4, 4, 3)  # IoU 9 / 100
    assert lesion_wise(crumb, target) == {"lesions": 2, "lesions_detected": 0, "false_positive_components": 1}
    assert lesion_wise(crumb, target, min_overlap=0.09)["lesions_detected"] == 1  # the limit itself counts


def test_lesion_counts_of_empty_masks(square):
    empty, mask = np.zeros((8, 8), dtype=bool), square((8, 8), 2, 2, 3)
    assert tuple(lesion_wise(empty, empty).values()) == (0, 0, 0)
    assert tuple(lesion_wise(empty, mask).values()) == (1, 0, 0)
    assert tuple(lesion_wise(mask, empty).values()) == (0, 0, 1)


@pytest.mark.parametrize("seed", range(4))
def test_lesion_counts_against_flooding(reference, blobs, seed):
    prediction, target = blobs((48, 39), seed)
    prediction = prediction ^ (np.random.default_rng(seed).random(prediction.shape) > 0.97)
    for min_overlap in (0.05, 0.5):
        expected = reference.lesion_wise(prediction, target, min_overlap)
        assert lesion_wise(prediction, target, min_overlap=min_overlap) == expected


@pytest.mark.parametrize("min_overlap", [0, 1.5, math.nan])
def test_refuses_an_overlap_that_is_no_iou(min_overlap):
    mask = np.ones((3, 3), dtype=bool)
    with pytest.raises(ValueError, match="min_overlap"):
        lesion_wise(mask, mask, min_overlap=min_overlap)


@pytest.mark.real_data
def test_real_outlines_against_all_pairs(reference):
    folder = Path(os.environ.get("PHNET_DATA", ""))
    if "PHNET_DATA" not in os.environ or not (folder / "Dataset_BUSI_with_GT").is_dir():
        pytest.skip("set PHNET_DATA to the folder with Dataset_BUSI_with_GT/ to run this")
    files = sorted((folder / "Dataset_BUSI_with_GT" / "malignant").glob("*_mask.png"))[:4]
    assert files, f"no masks in {folder}"
    for file in files:
        target = np.asarray(Image.open(file).convert("L")) > 127
        prediction = np.roll(target, (9, -14), axis=(0, 1)) & (np.arange(target.shape[1]) % 50 > 2)
        scores = per_image_scores(prediction, target)
        expected = reference.hd95_assd(prediction, target)
        assert (scores["hd95"], scores["assd"]) == pytest.approx(expected, rel=1e-5), file.name
