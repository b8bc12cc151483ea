"""Bidirectional copy-paste and the soft Dice loss, pixel by pixel, to test the fast ones against. Numpy, float64."""

from __future__ import annotations

import itertools
import math

import numpy as np


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = [math.exp(value - max(logits)) for value in logits]
    return np.array(powers) / sum(powers)


def dice_loss(logits: np.ndarray, target: np.ndarray, weight: np.ndarray, smooth: float = 1.0) -> float:
    """Mean over the classes of 1 - (2 sum(w p t) + s) / (sum(w p^2) + sum(w t^2) + s), sums over the whole batch."""
    classes = logits.shape[1]
    losses = []
    for c in range(classes):
        overlap = squares = own = 0.0
        for i, y, x in np.ndindex(target.shape):
            p, t, w = softmax(logits[i, :, y, x])[c], float(target[i, y, x] == c), float(weight[i, y, x])
            overlap += w * p * t
            squares += w * p * p
            own += w * t * t
        losses.append(1 - (2 * overlap + smooth) / (squares + own + smooth))
    return sum(losses) / classes


def cross_entropy(logits: np.ndarray, target: np.ndarray, weight: np.ndarray) -> float:
    """sum(w CE) / sum(w); 0 where no pixel counts."""
    total = 0.0
    for i, y, x in np.ndindex(target.shape):
        total -= float(weight[i, y, x]) * math.log(softmax(logits[i, :, y, x])[target[i, y, x]])
    return total / weight.sum() if weight.sum() else 0.0


def mix(first: np.ndarray, second: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """first * M + second * (1 - M), for (B, 1, H, W) or (B, H, W); M (H, W)."""
    mixed = np.empty_like(first)
    for y, x in np.ndindex(mask.shape):
        mixed[..., y, x] = first[..., y, x] if mask[y, x] else second[..., y, x]
    return mixed


def mixed_loss(
    logits: np.ndarray, target: np.ndarray, mask: np.ndarray, valid: np.ndarray, inside: float, outside: float
) -> float:
    """(Dice + CE) / 2 of each region times its weight; M (H, W) is 1 inside."""
    total = 0.0
    for weight, region in ((inside, mask), (outside, 1 - mask)):
        counted = valid * region[None]
        total += weight * (dice_loss(logits, target, counted) + cross_entropy(logits, target, counted)) / 2
    return total


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest 8-connected component of a bool mask (H, W), by flooding."""
    seen, best = np.zeros(mask.shape, dtype=bool), []
    for start in np.ndindex(mask.shape):
        if not mask[start] or seen[start]:
            continue
        seen[start] = True
        component, queue = [], [start]
        while queue:
            y, x = queue.pop()
            component.append((y, x))
            for dy, dx in itertools.product((-1, 0, 1), repeat=2):
                near = (y + dy, x + dx)
                inside = 0 <= near[0] < mask.shape[0] and 0 <= near[1] < mask.shape[1]
                if inside and mask[near] and not seen[near]:
                    seen[near] = True
                    queue.append(near)
        if len(component) > len(best):
            best = component
    result = np.zeros(mask.shape, dtype=bool)
    for place in best:
        result[place] = True
    return result
