"""AugSeg in plain loops over images and pixels, after METHODS.md section 1; float64 numpy, no engine."""

from __future__ import annotations

import math

import numpy as np


def image_confidence(probs: np.ndarray, valid: np.ndarray) -> list[float]:
    """rho of each image: probs (B, C, H, W), valid (B, H, W)."""
    batch, classes, height, width = probs.shape
    result = []
    for i in range(batch):
        values = []
        for y in range(height):
            for x in range(width):
                if not valid[i, y, x]:
                    continue
                p = [float(probs[i, c, y, x]) for c in range(classes)]
                entropy = -sum(value * math.log(value) for value in p if value > 0)
                values.append(max(p) * (1 - entropy / math.log(classes)))
        result.append(sum(values) / len(values) if values else 0.0)
    return result


def adaptive_cutmix(own: dict, labeled: dict, inject: np.ndarray, copy: np.ndarray, partner: list[int]) -> dict:
    """Views as dicts of arrays with the pixel axes last; inject and copy are True where nothing is pasted."""
    mixed = {}
    for name, values in own.items():
        helper, out = values.copy(), values.copy()
        batch, height, width = inject.shape
        for i in range(batch):
            for y in range(height):
                for x in range(width):
                    if not inject[i, y, x]:
                        helper[i, ..., y, x] = labeled[name][i, ..., y, x]
        for i in range(batch):
            for y in range(height):
                for x in range(width):
                    if not copy[i, y, x]:
                        out[i, ..., y, x] = helper[partner[i], ..., y, x]
        mixed[name] = out
    return mixed


def unlabeled_loss(
    logits: np.ndarray, target: np.ndarray, confidence: np.ndarray, valid: np.ndarray, threshold: float
) -> float:
    """Mean over all valid pixels of the cross-entropy where the confidence reaches the threshold, else 0."""
    batch, _, height, width = logits.shape
    total, pixels = 0.0, 0
    for i in range(batch):
        for y in range(height):
            for x in range(width):
                if not valid[i, y, x]:
                    continue
                pixels += 1
                if confidence[i, y, x] >= threshold:
                    scores = logits[i, :, y, x]
                    total += math.log(sum(math.exp(s) for s in scores)) - float(scores[target[i, y, x]])
    return total / pixels if pixels else 0.0
