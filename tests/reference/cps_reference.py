"""Cross pseudo supervision, pixel by pixel in plain Python, from the method's description."""

from __future__ import annotations

import math

import numpy as np


def cross_entropy(logits: np.ndarray, label: int) -> float:
    """-log softmax(logits)[label] for one pixel, logits (C,)."""
    highest = max(logits)
    return math.log(sum(math.exp(value - highest) for value in logits)) + highest - logits[label]


def cross_pseudo(
    first: np.ndarray, second: np.ndarray, first_label: np.ndarray, second_label: np.ndarray, valid: np.ndarray
) -> float:
    """Logits (B, C, H, W); labels and valid (B, H, W). Each student is taught by the other one's label."""
    taught = []
    for b, y, x in np.ndindex(valid.shape):
        if valid[b, y, x]:
            of_first = cross_entropy(first[b, :, y, x], second_label[b, y, x])
            of_second = cross_entropy(second[b, :, y, x], first_label[b, y, x])
            taught.append(of_first + of_second)
    return sum(taught) / len(taught) if taught else 0.0
