"""Dice and IoU against counted pixels and MONAI."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice, compute_iou

from phnet_monai.metrics import per_image_scores, pooled_dice_iou


def test_half_overlapping_squares_have_dice_one_half(square):
    prediction, target = square((30, 30), 5, 5, 10), square((30, 30), 5, 10, 10)  # 50 of 100 pixels shared
    assert pooled_dice_iou([prediction], [target]) == pytest.approx((1 / 2, 1 / 3))


def test_pooling_adds_pixels_of_images_of_different_sizes(square):
    predictions = [square((40, 20), 0, 0, 10), square((8, 9), 0, 0, 2)]  # 100 right; 4 wrong
    targets = [square((40, 20), 0, 0, 10), square((8, 9), 4, 4, 4)]  # 16 missing
    dice, iou = pooled_dice_iou(predictions, targets)
    assert dice == pytest.approx(200 / (200 + 4 + 16))
    assert iou == pytest.approx(100 / 120)
    # a mean over the images would be 1/2
    assert np.mean(
        [per_image_scores(p, t)["dice"] for p, t in zip(predictions, targets, strict=True)]
    ) == pytest.approx(0.5)


def test_pooled_iou_follows_from_dice_but_means_do_not(blobs):
    pairs = [blobs((31 + seed, 47), seed) for seed in range(6)]
    dice, iou = pooled_dice_iou(*zip(*pairs, strict=True))
    assert iou == pytest.approx(dice / (2 - dice), abs=1e-12)
    scores = [per_image_scores(*pair, distances=False) for pair in pairs]
    mean_dice, mean_iou = (np.mean([score[key] for score in scores]) for key in ("dice", "iou"))
    assert abs(mean_iou - mean_dice / (2 - mean_dice)) > 1e-4


def test_agrees_with_monai_image_by_image(blobs):
    for seed in range(4):
        prediction, target = blobs((40, 52), seed)
        tensors = [torch.from_numpy(mask)[None, None].float() for mask in (prediction, target)]
        scores = per_image_scores(prediction, target, distances=False)
        assert scores["dice"] == pytest.approx(compute_dice(*tensors).item(), abs=1e-6)
        assert scores["iou"] == pytest.approx(compute_iou(*tensors).item(), abs=1e-6)


def test_no_lesion_pixel_anywhere_is_nan_and_a_false_alarm_is_zero(square):
    empty = np.zeros((5, 6), dtype=bool)
    assert all(math.isnan(value) for value in pooled_dice_iou([empty], [empty]))
    assert all(math.isnan(value) for value in pooled_dice_iou([], []))
    assert pooled_dice_iou([square((5, 6), 0, 0, 2)], [empty]) == (0.0, 0.0)


def test_takes_tensors_and_zero_one_masks(square):
    mask = square((7, 7), 1, 1, 3)
    assert pooled_dice_iou([torch.from_numpy(mask)], [mask.astype(np.uint8)]) == (1.0, 1.0)


def test_errors_say_what_was_found(square):
    mask = square((6, 6), 0, 0, 2)
    with pytest.raises(ValueError, match="2 predictions for 1 targets"):
        pooled_dice_iou([mask, mask], [mask])
    with pytest.raises(ValueError, match=r"pair 1: prediction \(6, 6\) and target \(6, 5\) differ in shape"):
        pooled_dice_iou([mask, mask], [mask, mask[:, :5]])
    with pytest.raises(ValueError, match=r"target: expected a bool mask.*0 to 255"):
        pooled_dice_iou([mask], [mask * np.uint8(255)])
    with pytest.raises(ValueError, match=r"prediction: expected a mask of shape \(H, W\), found shape \(1, 6, 6\)"):
        pooled_dice_iou([mask[None]], [mask])
    with pytest.raises(ValueError, match="found shape"):
        pooled_dice_iou([mask[:0]], [mask[:0]])
    with pytest.raises(ValueError, match="bool mask"):
        pooled_dice_iou([np.full((6, 6), np.nan)], [mask])
