"""Scores of a small set whose figures are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from phnet_monai.metrics import SegmentationScores, format_summary, pooled_dice_iou


def probabilities(mask: np.ndarray, *, sure: float = 0.9) -> np.ndarray:
    return np.where(mask, sure, 1 - sure).astype(np.float32)


@pytest.fixture
def cases(square) -> dict[str, tuple[np.ndarray, np.ndarray, str]]:
    """name: prediction, target, class. Areas 4 %, 9 %, 64 % of the image."""
    empty = np.zeros((30, 40), dtype=bool)
    return {
        "half": (square((50, 50), 10, 10, 10), square((50, 50), 10, 15, 10), "benign"),
        "missed": (empty, square((30, 40), 5, 5, 10) | square((30, 40), 20, 30, 3), "malignant"),
        "whole": (square((10, 10), 1, 1, 8), square((10, 10), 1, 1, 8), "malignant"),
        "quiet": (empty, empty, "normal"),
        "alarm": (square((30, 40), 3, 3, 5), empty, "normal"),
    }


@pytest.fixture
def scores(cases) -> SegmentationScores:
    result = SegmentationScores()
    for name, (prediction, target, group) in cases.items():
        result.update(name, probabilities(prediction), target, class_name=group)
    return result


def test_summary_by_hand(scores):
    summary = scores.summary(bootstrap=200)
    assert (summary["images"], summary["images_without_lesion"]) == (5, 2)
    assert summary["dice_mean"] == pytest.approx((0.5 + 0 + 1) / 3)
    assert summary["dice_std"] == pytest.approx(0.5)
    assert summary["iou_mean"] == pytest.approx((1 / 3 + 0 + 1) / 3)
    # tp 50 + 64, fp 50, fn 50 + 109
    assert summary["pooled_dice"] == pytest.approx(228 / (228 + 50 + 159))
    assert summary["pooled_iou"] == pytest.approx(114 / (114 + 50 + 159))
    assert summary["pooled_dice_all_images"] == pytest.approx(228 / (228 + 50 + 25 + 159))
    assert (summary["missed"], summary["missed_rate"]) == (1, pytest.approx(1 / 3))
    assert (summary["lesions"], summary["lesion_sensitivity"]) == (4, pytest.approx(2 / 4))
    assert summary["false_positives_per_image"] == pytest.approx(1 / 5)
    assert summary["false_positive_rate_without_lesion"] == pytest.approx(1 / 2)
    assert summary["hd95_median"] == pytest.approx(5)
    assert summary["hd95_mean"] == pytest.approx((5 + 50 + 0) / 3)  # the diagonal of 30 x 40 for the missed one
    assert summary["assd_mean"] >= 50 / 3
    assert (summary["distance_unit"], summary["threshold"]) == ("px", 0.5)
    # every pixel says .9; wrong ones: 100, 109, 25 of 2500 + 1200 + 100 + 1200 + 1200
    assert summary["ece"] == pytest.approx(abs(1 - 234 / 6200 - 0.9), abs=1e-6)


def test_intervals_draw_whole_groups(square):
    """Each image four times says no more than once, if the copies are of one group."""
    once, copies, alone = SegmentationScores(), SegmentationScores(), SegmentationScores()
    for number in range(12):
        mask = square((30, 40), 5, 5, 10)
        answer = probabilities(square((30, 40), 5, 5 + number % 7, 10))
        once.update(f"{number}", answer, mask, group=f"patient {number}")
        for copy in range(4):
            copies.update(f"{number} {copy}", answer, mask, group=f"patient {number}")
            alone.update(f"{number} {copy}", answer, mask)
    expected, grouped, ungrouped = once.summary(), copies.summary(), alone.summary()
    assert (grouped["images"], grouped["groups"], ungrouped["groups"]) == (48, 12, 48)
    for key in ("pooled_dice_ci", "dice_ci", "iou_ci"):
        assert grouped[key] == pytest.approx(expected[key])
        assert np.diff(ungrouped[key]) < 0.7 * np.diff(grouped[key])
    assert "48 (48 with lesion, 12 patients or scans)" in format_summary(grouped)
    assert "48 (48 with lesion)" in format_summary(ungrouped)


def test_an_image_named_like_a_group_is_not_of_it(square):
    scores, mask = SegmentationScores(), square((30, 40), 5, 5, 10)
    scores.update("a", probabilities(mask), mask, group="b")
    scores.update("b", probabilities(mask), mask)
    assert scores.summary(bootstrap=0)["groups"] == 2


def test_groups_hold_the_same_figures(scores, cases):
    summary = scores.summary(bootstrap=50)
    assert list(summary["by_class"]) == ["benign", "malignant", "normal"]
    assert list(summary["by_size"]) == ["small", "medium", "large"]
    malignant = summary["by_class"]["malignant"]
    assert malignant["dice_mean"] == pytest.approx(0.5)
    pairs = [cases[name][:2] for name in ("missed", "whole")]
    assert malignant["pooled_dice"] == pytest.approx(pooled_dice_iou(*zip(*pairs, strict=True))[0])
    assert malignant["ece"] == pytest.approx(abs(1 - 109 / 1300 - 0.9), abs=1e-6)
    normal = summary["by_class"]["normal"]
    assert math.isnan(normal["dice_mean"])
    assert math.isnan(normal["pooled_dice"])
    assert normal["false_positive_rate_without_lesion"] == 0.5
    assert {name: group["images"] for name, group in summary["by_size"].items()} == {
        "small": 1,
        "medium": 1,
        "large": 1,
    }
    assert summary["by_size"]["large"]["dice_mean"] == 1
    core = summary.keys() - {"distance_unit", "threshold", "by_class", "by_size"}
    assert all(group.keys() == core for group in [*summary["by_class"].values(), *summary["by_size"].values()])


def test_intervals_hold_the_figure_and_repeat(blobs):
    scores = SegmentationScores(distances=False)
    for seed in range(12):
        prediction, target = blobs((30, 30 + seed), seed)
        scores.update(f"case {seed}", probabilities(prediction), target)
    summary = scores.summary(bootstrap=500, seed=3)
    for value, limits in (("dice_mean", "dice_ci"), ("iou_mean", "iou_ci"), ("pooled_dice", "pooled_dice_ci")):
        low, high = summary[limits]
        assert low < summary[value] < high
    assert repr(summary) == repr(scores.summary(bootstrap=500, seed=3))  # NaN is not equal to itself
    assert summary["dice_ci"] != scores.summary(bootstrap=500, seed=4)["dice_ci"]
    assert math.isnan(scores.summary(bootstrap=0)["dice_ci"][0])


def test_quick_is_the_summary_in_short(scores):
    quick, summary = scores.quick(), scores.summary(bootstrap=0)
    assert list(quick) == ["pooled_dice", "pooled_iou", "dice_mean", "iou_mean"]
    assert quick == {key: summary[key] for key in quick}


def test_quick_of_images_without_lesion_is_nan():
    scores = SegmentationScores()
    scores.update("normal", np.zeros((4, 4)), np.zeros((4, 4), dtype=bool))
    assert all(math.isnan(value) for value in scores.quick().values())


def test_rows_keep_order_class_and_extra_columns(square):
    scores = SegmentationScores(distances=False)
    mask = square((12, 20), 2, 2, 5)
    row = scores.update("b", probabilities(mask), mask, class_name="benign", hardness=0.25)
    scores.update("a", probabilities(mask), mask)
    rows = scores.rows()
    assert [each["case_id"] for each in rows] == ["b", "a"]
    assert rows[0] == pytest.approx(row, nan_ok=True)
    assert (rows[0]["class"], rows[0]["hardness"], rows[0]["height"], rows[0]["width"]) == ("benign", 0.25, 12, 20)
    assert rows[1]["class"] is None
    assert "hd95" not in rows[0]
    assert not any(key.startswith("hd95") for key in scores.summary(bootstrap=0))
    rows[0]["dice"] = -1
    assert scores.rows()[0]["dice"] == 1  # a copy


def test_prediction_is_above_the_threshold(square):
    mask = square((6, 6), 1, 1, 2)
    probs = np.where(mask, 0.5, 0.1)
    assert SegmentationScores().update("x", probs, mask)["tp"] == 0  # undecided is background, as argmax has it
    assert SegmentationScores(threshold=0.4).update("x", probs, mask)["tp"] == 4
    with pytest.raises(ValueError, match="threshold"):
        SegmentationScores(threshold=1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_takes_tensors_that_need_gradients(square, dtype):
    mask = square((9, 14), 3, 3, 4)
    probs = torch.from_numpy(probabilities(mask)).to(dtype).requires_grad_()
    assert SegmentationScores().update("x", probs, torch.from_numpy(mask))["dice"] == 1


def test_distances_in_millimetres(square):
    mask, shifted = square((30, 40), 5, 5, 6), square((30, 40), 5, 8, 6)
    scores = SegmentationScores()
    row = scores.update("x", probabilities(shifted), mask, spacing_mm=(0.1, 0.2))
    assert row["hd95"] == pytest.approx(0.6, rel=1e-5)
    assert scores.summary(bootstrap=0)["distance_unit"] == "mm"
    with pytest.raises(ValueError, match="y: distances so far are in mm, here in px"):
        scores.update("y", probabilities(mask), mask)


def test_refused_images_are_named_and_leave_nothing_behind(square):
    mask = square((6, 8), 1, 1, 2)
    probs = probabilities(mask)
    scores = SegmentationScores()
    with_nan = probs.copy()
    with_nan[0, :3] = np.nan
    for broken, message in (
        (probs[:, :7], r"case 7: probs \(6, 7\) and target \(6, 8\) differ in shape"),
        (with_nan, "case 7: probs: 3 of 48 pixels are NaN"),
        (probs * 5 - 2, "case 7: probs: expected probabilities in .*softmax"),
        (np.stack([1 - probs, probs]), r"case 7: probs: .*found shape \(2, 6, 8\)"),
    ):
        with pytest.raises(ValueError, match=message):
            scores.update("case 7", broken, mask)
    with pytest.raises(ValueError, match=r"case 7: extra columns \['dice'\]"):
        scores.update("case 7", probs, mask, dice=1.0)
    assert len(scores) == 0
    scores.update("case 7", probs, mask)
    with pytest.raises(ValueError, match="case 7: this case was scored before"):
        scores.update("case 7", probs, mask)
    assert len(scores) == 1


def test_rounding_beyond_one_is_clipped(square):
    mask = square((6, 8), 1, 1, 2)
    scores = SegmentationScores()
    scores.update("x", np.where(mask, 1 + 1e-6, -1e-6), mask)
    assert scores.summary(bootstrap=0)["ece"] == 0


def test_reset_and_empty(scores, square):
    scores.reset()
    assert len(scores) == 0
    for figure in (scores.quick, scores.summary):
        with pytest.raises(ValueError, match="no image was scored"):
            figure()
    mask = square((6, 8), 1, 1, 2)
    scores.update("half", probabilities(mask), mask, spacing_mm=0.1)  # neither the name nor the unit is remembered
    assert scores.quick()["dice_mean"] == 1
