"""What one image's prediction is worth: overlap, surface distances, lesions found."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from skimage.measure import label

from phnet_monai.metrics.masks import BoolMask, as_mask_pair, crop_to_union
from phnet_monai.metrics.overlap import dice_iou_from_counts, overlap_counts

Spacing = float | Sequence[float]


def per_image_scores(
    prediction: Any, target: Any, *, distances: bool = True, spacing_mm: Spacing | None = None
) -> dict[str, float]:
    """Score one prediction against its target.

    Args:
        prediction: bool mask (H, W).
        target: bool mask (H, W).
        distances: whether to compute `hd95` and `assd`; the keys are absent if not.
        spacing_mm: size of a pixel in mm, one number or (row, column). Without it distances are in pixels.

    Returns:
        With a lesion in the target (`false_positive` is NaN):
            dice, iou: in [0, 1].
            hd95: the larger of the two directed 95th percentiles of the distances between boundary pixels.
            assd: mean distance over the boundary pixels of both masks.
            missed: 1 if the prediction shares no pixel with the target, else 0.
        An empty prediction counts the image diagonal for both distances. A prediction beside the lesion has
        missed it, too, but its distances are the measured ones.
        Without a lesion in the target, dice, iou, hd95, assd and missed are NaN, and `false_positive` is 1 if
        any pixel was predicted, else 0.
        Always: tp, fp, fn in pixels; lesion_area_fraction of the target in [0, 1].

    Raises:
        ValueError: not two masks of one shape, or a spacing that is not positive.
    """
    prediction, target = as_mask_pair(prediction, target)
    spacing = _spacing(spacing_mm)
    tp, fp, fn = overlap_counts(prediction, target)
    has_lesion = tp + fn > 0
    dice, iou = dice_iou_from_counts(tp, fp, fn) if has_lesion else (math.nan, math.nan)
    scores: dict[str, float] = {"dice": float(dice), "iou": float(iou)}
    if distances:
        scores["hd95"], scores["assd"] = _distances(prediction, target, spacing)
    return scores | {
        "missed": int(tp == 0) if has_lesion else math.nan,
        "false_positive": math.nan if has_lesion else int(fp > 0),
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "lesion_area_fraction": (tp + fn) / target.size,
    }


def _spacing(spacing_mm: Spacing | None) -> tuple[float, float]:
    values = np.atleast_1d(np.asarray(1.0 if spacing_mm is None else spacing_mm, dtype=np.float64))
    if values.shape not in {(1,), (2,)} or not np.all(np.isfinite(values) & (values > 0)):
        raise ValueError(f"spacing_mm: expected one positive number or (row, column) in mm, found {spacing_mm!r}")
    return float(values[0]), float(values[-1])


def _distances(prediction: BoolMask, target: BoolMask, spacing: tuple[float, float]) -> tuple[float, float]:
    """HD95 and ASSD; the diagonal for an empty prediction; NaN without a lesion."""
    if not target.any():
        return math.nan, math.nan
    if not prediction.any():
        diagonal = math.hypot(target.shape[0] * spacing[0], target.shape[1] * spacing[1])
        return diagonal, diagonal
    forth, back = boundary_distances(prediction, target, spacing=spacing)
    hd95 = max(float(np.percentile(forth, 95)), float(np.percentile(back, 95)))
    return hd95, float(np.concatenate([forth, back]).mean())


def boundary_distances(
    prediction: BoolMask, target: BoolMask, *, spacing: tuple[float, float] = (1.0, 1.0)
) -> tuple[np.ndarray, np.ndarray]:
    """Distances from each boundary pixel of one mask to the nearest boundary pixel of the other, both ways.

    A boundary pixel is a lesion pixel with a background pixel, or the image's edge, above, below, left or
    right of it. `monai.metrics.compute_hausdorff_distance` and `compute_average_surface_distance` each do
    this search; calling their common part once halves the time and gives the same numbers.

    Args:
        prediction: bool (H, W), not empty.
        target: bool (H, W), not empty.
        spacing: size of a pixel as (row, column).

    Returns:
        float arrays (boundary pixels of prediction,) and (boundary pixels of target,).
    """
    from monai.metrics.utils import get_edge_surface_distance  # here: MONAI takes seconds to load

    cropped = [torch.from_numpy(np.ascontiguousarray(mask)) for mask in crop_to_union(prediction, target)]
    with warnings.catch_warnings():
        # MONAI 1.6 passes itself an argument that it has deprecated
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy.*")
        _, distances, _ = get_edge_surface_distance(cropped[0], cropped[1], spacing=spacing, symmetric=True)
    forth, back = (distance.double().numpy() for distance in distances)
    return forth, back


def lesion_wise(prediction: Any, target: Any, *, min_overlap: float = 0.1) -> dict[str, int]:
    """Count lesions found and false alarms by connected components (8 neighbours).

    A lesion of the target is detected if one predicted component reaches an IoU of `min_overlap` with it. A
    predicted component that reaches it with no lesion is a false positive; there is no lower limit to its
    size. One component may detect several lesions, so that two lesions outlined as one are not punished
    twice.

    Args:
        prediction: bool mask (H, W).
        target: bool mask (H, W).
        min_overlap: IoU in (0, 1].

    Returns:
        lesions, lesions_detected, false_positive_components.

    Raises:
        ValueError: not two masks of one shape, or `min_overlap` outside (0, 1].
    """
    if not 0 < min_overlap <= 1:
        raise ValueError(f"min_overlap: expected an IoU in (0, 1], found {min_overlap}")
    prediction, target = crop_to_union(*as_mask_pair(prediction, target))
    predicted, found = label(prediction, connectivity=2, return_num=True)
    wanted, lesions = label(target, connectivity=2, return_num=True)
    # joint histogram of the two labelings: row = lesion, column = predicted component, 0 = background
    pairs = (wanted * (found + 1) + predicted).ravel()
    overlap = np.bincount(pairs, minlength=(lesions + 1) * (found + 1)).reshape(lesions + 1, found + 1)
    union = overlap.sum(axis=1, keepdims=True) + overlap.sum(axis=0, keepdims=True) - overlap
    matched = overlap[1:, 1:] >= min_overlap * union[1:, 1:]
    return {
        "lesions": lesions,
        "lesions_detected": int(matched.any(axis=1).sum()),
        "false_positive_components": found - int(matched.any(axis=0).sum()),
    }
