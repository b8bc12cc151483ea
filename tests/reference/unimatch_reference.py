"""UniMatch in plain loops over images and pixels, after METHODS.md section 2; float64 numpy, no engine."""

from __future__ import annotations

import math

import numpy as np


def mixed_with_next(values: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Where keep (B, H, W) is False, the pixel of the next image in the batch; pixel axes last."""
    batch, height, width = keep.shape
    out = values.copy()
    for i in range(batch):
        for y in range(height):
            for x in range(width):
                if not keep[i, y, x]:
                    out[i, ..., y, x] = values[(i + 1) % batch, ..., y, x]
    return out


def masked_loss(
    logits: np.ndarray, target: np.ndarray, confidence: np.ndarray, valid: np.ndarray, threshold: float
) -> float:
    """Cross-entropy of valid pixels whose confidence reaches the threshold, over the number of valid pixels."""
    total, pixels = 0.0, 0
    for i, y, x in np.ndindex(*target.shape):
        if not valid[i, y, x]:
            continue
        pixels += 1
        if confidence[i, y, x] >= threshold:
            scores = logits[i, :, y, x]
            total += math.log(sum(math.exp(s) for s in scores)) - float(scores[target[i, y, x]])
    return total / pixels if pixels else 0.0


def total(labeled: float, strong_1: float, strong_2: float, feature: float) -> float:
    return (labeled + 0.25 * strong_1 + 0.25 * strong_2 + 0.5 * feature) / 2
