"""Expected calibration error over pixels (Guo et al., "On Calibration of Modern Neural Networks", 2017)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

ECE_BINS = 15


def calibration_bins(
    probs: NDArray[np.floating], target: NDArray[np.bool_], *, bins: int = ECE_BINS
) -> NDArray[np.float64]:
    """Sort the pixels into bins of confidence, so that images can be added up before the error is taken.

    The confidence is that of the predicted class, max(p, 1 - p). Bin m of the source's equal bins over [0, 1]
    is ((m - 1) / bins, m / bins]; with two classes the bins below 0.5 stay empty.
    `monai.metrics.calibration_binning` bins each class's probability instead, and in float32 sums.

    Args:
        probs: lesion probability (H, W) in [0, 1].
        target: bool (H, W).
        bins: number of bins.

    Returns:
        float64 (3, bins): pixels, sum of confidence, and pixels whose likelier class (lesion if p > 0.5)
        is the target's.
    """
    confidence = np.maximum(probs, 1 - probs).ravel()
    correct = ((probs > 0.5) == target).ravel()
    index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    right_and_wrong = np.bincount(2 * index + correct, minlength=2 * bins).reshape(bins, 2)
    sums = np.bincount(index, weights=confidence, minlength=bins)
    return np.stack([right_and_wrong.sum(axis=1), sums, right_and_wrong[:, 1]]).astype(np.float64)


def ece_from_bins(bins: NDArray[np.float64]) -> float:
    """Mean over pixels of |accuracy - confidence| of their bin, in [0, 1]; NaN if there are no pixels.

    Args:
        bins: (3, number of bins), a sum of what `calibration_bins` returned.
    """
    count, confidence, correct = bins
    total = count.sum()
    return float(np.abs(correct - confidence).sum() / total) if total else math.nan
