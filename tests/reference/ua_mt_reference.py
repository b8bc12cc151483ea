"""Mean teacher and uncertainty-aware mean teacher, pixel by pixel, to test the fast ones against. Numpy, float64."""

from __future__ import annotations

import math

import numpy as np


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = [math.exp(value - max(logits)) for value in logits]
    return np.array(powers) / sum(powers)


def ramp(progress: float) -> float:
    """exp(-5 (1 - t)^2), t in [0, 1]."""
    t = min(1.0, max(0.0, progress))
    return math.exp(-5 * (1 - t) ** 2)


def mean_teacher(logits: np.ndarray, probs: np.ndarray, valid: np.ndarray) -> float:
    """Mean over classes and valid pixels of (softmax_s - softmax_t)^2."""
    total, count = 0.0, 0
    for i, y, x in np.ndindex(valid.shape):
        if valid[i, y, x]:
            student = softmax(logits[i, :, y, x])
            for c in range(len(student)):
                total += (student[c] - probs[i, c, y, x]) ** 2
                count += 1
    return total / count if count else 0.0


def entropy(passes: list[np.ndarray]) -> np.ndarray:
    """U = -sum_c m log m of the mean m of T softmax maps (B, C, H, W): (B, H, W)."""
    batch, classes, height, width = passes[0].shape
    result = np.zeros((batch, height, width))
    for i, y, x in np.ndindex(result.shape):
        for c in range(classes):
            mean = sum(probs[i, c, y, x] for probs in passes) / len(passes)
            result[i, y, x] -= mean * math.log(mean) if mean > 0 else 0.0
    return result


def consistency(
    logits: np.ndarray, probs: np.ndarray, uncertainty: np.ndarray, valid: np.ndarray, progress: float
) -> float:
    """L_c = sum([U < H_t] (softmax_s - softmax_t)^2) / (C * #kept), H_t = (0.75 + 0.25 ramp) log C."""
    classes = logits.shape[1]
    threshold = (0.75 + 0.25 * ramp(progress)) * math.log(classes)
    total, kept = 0.0, 0
    for i, y, x in np.ndindex(valid.shape):
        if valid[i, y, x] and uncertainty[i, y, x] < threshold:
            student = softmax(logits[i, :, y, x])
            total += sum((student[c] - probs[i, c, y, x]) ** 2 for c in range(classes))
            kept += 1
    return total / (classes * kept) if kept else 0.0
