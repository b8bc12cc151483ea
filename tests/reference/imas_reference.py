"""iMAS in plain loops over images and pixels, after METHODS.md section 1; float64 numpy, no engine."""

from __future__ import annotations

import math

import numpy as np


def weighted_iou(
    prediction: np.ndarray, reference: np.ndarray, valid: np.ndarray, classes: int, ignore_background: bool
) -> float:
    """One image: IoU of each class, averaged with the class's pixels in the reference as weights."""
    total, weights = 0.0, 0
    for c in range(classes):
        if c == 0 and ignore_background:
            continue
        both = either = count = 0
        for y, x in np.ndindex(*valid.shape):
            if valid[y, x]:
                a, b = prediction[y, x] == c, reference[y, x] == c
                both += int(a and b)
                either += int(a or b)
                count += int(b)
        if either:
            total += both / either * count
            weights += count
    return total / weights if weights else 0.0


def easiness(
    student: np.ndarray,
    teacher: np.ndarray,
    valid: np.ndarray,
    threshold: float,
    ignore_background: bool = True,
    floor: float = 0.0,
) -> list[float]:
    """s of each image: probabilities (B, C, H, W), valid (B, H, W)."""
    result = []
    for p_s, p_t, inside in zip(student, teacher, valid, strict=True):
        classes, pixels = p_s.shape[0], int(inside.sum())
        a, b = p_s.argmax(axis=0), p_t.argmax(axis=0)
        r_s, r_t = (
            sum(p[:, y, x].max() >= threshold for y, x in np.ndindex(*inside.shape) if inside[y, x]) / max(1, pixels)
            for p in (p_s, p_t)
        )
        value = 0.5 * (
            weighted_iou(a, b, inside, classes, ignore_background) * r_t
            + weighted_iou(b, a, inside, classes, ignore_background) * r_s
        )
        result.append(max(value, floor))
    return result


def partners(values: list[float]) -> list[int]:
    """For each image the one that stands as far from the other end of the ranking."""
    ranking = sorted(range(len(values)), key=lambda i: (values[i], i))
    return [ranking[len(values) - 1 - ranking.index(i)] for i in range(len(values))]


def branch_loss(
    logits: np.ndarray,
    target: np.ndarray,
    confidence: np.ndarray,
    valid: np.ndarray,
    values: list[float],
    threshold: float,
) -> float:
    """Mean over the images of s times the image's mean cross-entropy, dropped pixels counted as 0."""
    losses = []
    for i, s in enumerate(values):
        total, pixels = 0.0, 0
        for y, x in np.ndindex(*valid[i].shape):
            if not valid[i, y, x]:
                continue
            pixels += 1
            if confidence[i, y, x] >= threshold:
                scores = logits[i, :, y, x]
                total += math.log(sum(math.exp(v) for v in scores)) - float(scores[target[i, y, x]])
        losses.append(s * total / pixels if pixels else 0.0)
    return sum(losses) / len(losses)


def total(labeled: float, strong: float, cutmix: float | None, weight: float = 3.0) -> float:
    return labeled + weight * (strong if cutmix is None else (strong + cutmix) / 2)
