"""Slow, literal version of U2PL (Wang et al., CVPR 2022), pixel by pixel, to test the fast one against."""

from __future__ import annotations

import math

import numpy as np


def entropy(probs: np.ndarray) -> np.ndarray:
    """(B, C, H, W) -> (B, H, W), divided by log C (percentiles do not depend on the base)."""
    result = np.zeros((probs.shape[0], *probs.shape[2:]))
    for i, y, x in np.ndindex(result.shape):
        values = [float(p) for p in probs[i, :, y, x]]
        result[i, y, x] = -sum(p * math.log(p) for p in values if p > 0) / math.log(len(values))
    return result


def unsupervised_loss(
    logits: np.ndarray, target: np.ndarray, uncertainty: np.ndarray, valid: np.ndarray, t: float, start: float = 20.0
) -> float:
    """Cross-entropy of the d_t percent of lowest entropy, d_t = 100 - start (1 - t): its mean times BHW / #kept."""
    threshold = np.percentile(uncertainty[valid], 100 - start * (1 - t))
    total, kept = 0.0, 0
    for i, y, x in np.ndindex(target.shape):
        if not valid[i, y, x] or uncertainty[i, y, x] > threshold:
            continue
        powers = np.exp(logits[i, :, y, x] - logits[i, :, y, x].max())
        total -= math.log(powers[target[i, y, x]] / powers.sum())
        kept += 1
    return total / kept * (valid.sum() / kept)


def rank_of(probs: np.ndarray, class_index: int) -> int:
    """Place of a class, from 0, in the list of classes by falling probability: (C,)."""
    return sorted(range(len(probs)), key=lambda c: -probs[c]).index(class_index)


def is_negative(
    probs: np.ndarray, label: int, labeled: bool, unreliable: bool, c: int, low: int, high: int, as_coded: bool
) -> bool:
    """Whether the feature of one pixel is a negative of class c."""
    if not unreliable or (as_coded and label != c):
        return False
    rank = rank_of(probs, c)
    return (rank < low and label != c) if labeled else low <= rank < high


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / math.sqrt(float(vector @ vector))


def contrast(
    student: np.ndarray,
    teacher: np.ndarray,
    probs: np.ndarray,
    labels: np.ndarray,
    labeled: int,
    reliable: np.ndarray,
    unreliable: np.ndarray,
    queues: list[list[np.ndarray]],
    sizes: list[int],
    *,
    low: int,
    high: int,
    anchors: int,
    negatives: int,
    tau: float,
    min_prob: float,
    as_coded: bool = False,
) -> float:
    """The loss of a step; `queues` are changed. The n-th draw out of k is n modulo k instead of a random number."""
    terms, present = [], 0
    for c in range(probs.shape[1]):
        own, candidates = [], []
        for i, y, x in np.ndindex(labels.shape):
            p = probs[i, :, y, x]
            if is_negative(p, labels[i, y, x], i < labeled, unreliable[i, y, x], c, low, high, as_coded):
                queues[c].append(unit(teacher[i, :, y, x]))
            if reliable[i, y, x] and labels[i, y, x] == c:
                own.append(unit(teacher[i, :, y, x]))
                if p[c] > min_prob:
                    candidates.append(unit(student[i, :, y, x]))
        del queues[c][: max(0, len(queues[c]) - sizes[c])]
        present += bool(own)
        if not candidates or not queues[c]:
            continue
        positive = unit(np.mean(own, axis=0))
        total = 0.0
        for n in range(anchors):
            z = candidates[n % len(candidates)]
            others = [queues[c][(n * negatives + m) % len(queues[c])] for m in range(negatives)]
            scores = [math.exp(float(z @ other) / tau) for other in (positive, *others)]
            total -= math.log(scores[0] / sum(scores))
        terms.append(total / anchors)
    return sum(terms) / present if present >= 2 and terms else 0.0
