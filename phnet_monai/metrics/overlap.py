"""Dice and IoU from pixel counts, for one image and pooled over many."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from phnet_monai.metrics.masks import BoolMask, as_mask_pair


def overlap_counts(prediction: BoolMask, target: BoolMask) -> tuple[int, int, int]:
    """True positive, false positive and false negative pixels of two bool (H, W) masks."""
    both = int(np.count_nonzero(prediction & target))
    return both, int(np.count_nonzero(prediction)) - both, int(np.count_nonzero(target)) - both


def dice_iou_from_counts(tp: Any, fp: Any, fn: Any) -> tuple[Any, Any]:
    """Dice = 2 tp / (2 tp + fp + fn) and IoU = tp / (tp + fp + fn), elementwise for arrays.

    NaN where no lesion pixel is in either mask (0 / 0): there is nothing that could be right or wrong.
    """
    tp, fp, fn = (np.asarray(count, dtype=np.float64) for count in (tp, fp, fn))
    with np.errstate(invalid="ignore"):
        dice = 2 * tp / (2 * tp + fp + fn)
        iou = tp / (tp + fp + fn)
    return dice[()], iou[()]


def pooled_dice_iou(predictions: Iterable[Any], targets: Iterable[Any]) -> tuple[float, float]:
    """Dice and IoU over the pixels of all images together, as in Tables 1 to 3 of the PH-Net paper.

    Large lesions weigh more than small ones. IoU = D / (2 - D) holds exactly, which it does not for means
    over images.

    Args:
        predictions: bool masks (H, W); sizes may differ from image to image.
        targets: bool masks (H, W), each of the size of its prediction.

    Returns:
        Dice and IoU in [0, 1]; NaN if no lesion pixel is in any prediction or target.

    Raises:
        ValueError: different numbers of masks, or a pair of different shapes (the message has its index).
    """
    predictions, targets = list(predictions), list(targets)
    if len(predictions) != len(targets):
        raise ValueError(f"found {len(predictions)} predictions for {len(targets)} targets; expected pairs")
    totals = np.zeros(3, dtype=np.int64)
    for index, (prediction, target) in enumerate(zip(predictions, targets, strict=True)):
        try:
            totals += overlap_counts(*as_mask_pair(prediction, target))
        except ValueError as error:
            raise ValueError(f"pair {index}: {error}") from error
    dice, iou = dice_iou_from_counts(*totals)
    return float(dice), float(iou)
