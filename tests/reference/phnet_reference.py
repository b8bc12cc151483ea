"""Slow, literal versions of the equations of the PH-Net paper (CVPR 2024, Sec. 3), to test the fast ones against.

Plain loops over images, patches and pixels; written from the paper, not from the package. Arrays are numpy, float64.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of one pixel from its logits (C,)."""
    powers = [math.exp(value - max(logits)) for value in logits]
    return np.array(powers) / sum(powers)


def cross_entropy(logits: np.ndarray, label: int) -> float:
    """l_ce of one pixel: logits (C,)."""
    return -math.log(softmax(logits)[label])


def ema(teacher: np.ndarray, student: np.ndarray, alpha: float) -> np.ndarray:
    """Eq. 1: theta' <- alpha theta' + (1 - alpha) theta."""
    return np.array([alpha * t + (1 - alpha) * s for t, s in zip(teacher, student, strict=True)])


def supervised_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """Eq. 2: mean over the images of their cross-entropy, which is the mean over pixels. (B, C, H, W), (B, H, W)."""
    batch, _, height, width = logits.shape
    total = 0.0
    for i in range(batch):
        pixels = itertools.product(range(height), range(width))
        total += sum(cross_entropy(logits[i, :, y, x], labels[i, y, x]) for y, x in pixels) / (height * width)
    return total / batch


def hardness(probs: np.ndarray, grid: int) -> np.ndarray:
    """Eq. 4: r_m of every patch, (B, C, H, W) -> (B, N, N). 0 log 0 is 0."""
    batch, classes, height, width = probs.shape
    h, w = height // grid, width // grid
    result = np.zeros((batch, grid, grid))
    for i, row, column in itertools.product(range(batch), range(grid), range(grid)):
        total = 0.0
        for y, x, c in itertools.product(range(h), range(w), range(classes)):
            p = float(probs[i, c, row * h + y, column * w + x])
            total += p * math.log(p) if p > 0 else 0.0
        result[i, row, column] = -total / math.log(classes) / (h * w)
    return result


def shielded_count(beta: Fraction, epoch: int, epochs: int, grid: int) -> int:
    """Eq. 5 without rounding errors: k = beta t / T N^2, rounded down."""
    return math.floor(beta * Fraction(epoch, epochs) * grid**2)


def hardest(scores: np.ndarray, count: int) -> np.ndarray:
    """Sec. 3.3: patches sorted by descending hardness, the first `count` of each image. (B, N, N) -> bool."""
    chosen = np.zeros(scores.shape, dtype=bool)
    for i in range(len(scores)):
        places = sorted(np.ndindex(scores.shape[1:]), key=lambda place: -scores[(i, *place)])
        for place in places[:count]:
            chosen[(i, *place)] = True
    return chosen


def mix(images: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Eqs. 6 and 7: M x_i + (1 - M) x_(i+1), pixel by pixel. The last image is followed by the first.

    images (B, C, H, W) or labels (B, H, W); keep (B, N, N), True = keep.
    """
    mixed = np.empty_like(images)
    batch, grid = len(images), keep.shape[-1]
    height, width = images.shape[-2:]
    for i, y, x in itertools.product(range(batch), range(height), range(width)):
        patch = keep[i, y * grid // height, x * grid // width]
        mixed[i, ..., y, x] = images[i if patch else (i + 1) % batch, ..., y, x]
    return mixed


def unsupervised_loss(logits: np.ndarray, labels: np.ndarray, confident: np.ndarray) -> float:
    """Eq. 8 as printed: the SUM over the pixels of M_f times cross-entropy, divided by the number of images only."""
    batch, _, height, width = logits.shape
    total = 0.0
    for i, y, x in itertools.product(range(batch), range(height), range(width)):
        total += float(confident[i, y, x]) * cross_entropy(logits[i, :, y, x], labels[i, y, x])
    return total / batch


def confidence_mask(probs: np.ndarray, gamma: float) -> np.ndarray:
    """Eq. 9: M_f, 1 where the highest probability is at least gamma. (B, C, H, W) -> bool (B, H, W)."""
    mask = np.zeros((probs.shape[0], *probs.shape[2:]), dtype=bool)
    for i, y, x in np.ndindex(mask.shape):
        mask[i, y, x] = max(probs[i, :, y, x]) >= gamma
    return mask


def agreement(labels: np.ndarray, second_probs: np.ndarray) -> np.ndarray:
    """Eqs. 10 and 11: M_inter, 1 where y equals Y = argmax of the teacher's answer to the mixed image."""
    mask = np.zeros(labels.shape, dtype=bool)
    for i, y, x in np.ndindex(labels.shape):
        mask[i, y, x] = labels[i, y, x] == int(np.argmax(second_probs[i, :, y, x]))
    return mask


def feature_sets(
    features: np.ndarray, labels: np.ndarray, inter: np.ndarray, in_hardest: np.ndarray, target: int
) -> tuple[np.ndarray, np.ndarray]:
    """Eqs. 12 and 13: Z_c and Z_c^- of class `target`.

    features (B, D, H, W) at every pixel; labels y, M_inter and "pixel lies in one of the k hardest patches", (B, H, W).
    """
    own, others = [], []
    for i, y, x in np.ndindex(labels.shape):
        if inter[i, y, x] and in_hardest[i, y, x]:
            (own if labels[i, y, x] == target else others).append(features[i, :, y, x])
    return np.array(own), np.array(others)


def center(features: np.ndarray) -> np.ndarray:
    """Eq. 14: z_c^+, the mean of the features in R_c, (R, D) -> (D,)."""
    total = np.zeros(features.shape[1])
    for z in features:
        total = total + z
    return total / len(features)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.dot(a, b)) / math.sqrt(float(np.dot(a, a)) * float(np.dot(b, b)))


def contrast(sets: list[tuple[np.ndarray, np.ndarray]], centers: list[np.ndarray], tau: float, use_log: bool) -> float:
    """Eq. 15 over all C classes, with the logarithm that InfoNCE has (`use_log`) or as printed, without it.

    sets[c] = (Z_c, Z_c^-), centers[c] = z_c^+. |Z_c| is taken inside the sum over c, where it is defined.
    """
    total = 0.0
    for (anchors, negatives), positive in zip(sets, centers, strict=True):
        for z in anchors:
            similar = math.exp(cosine(z, positive) / tau)
            share = similar / (similar + sum(math.exp(cosine(z, other) / tau) for other in negatives))
            total += (math.log(share) if use_log else share) / len(anchors)
    return -total / len(sets)
