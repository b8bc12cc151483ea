"""Slow, literal version of the contrast in the PH-Net authors' release, patch by patch (METHODS: decision 19)."""

from __future__ import annotations

import math

import numpy as np


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / math.sqrt(float(vector @ vector))


def places(grid: int, size: int, row: int, column: int) -> list[tuple[int, int]]:
    """Pixels (y, x) of one patch."""
    side = size // grid
    return [(row * side + y, column * side + x) for y in range(side) for x in range(side)]


def mixed(labels: np.ndarray, valid: np.ndarray, grid: int) -> list[tuple[int, int, int]]:
    """(image, row, column) of the patches without padding that hold both classes."""
    found = []
    for i, row, column in np.ndindex(len(labels), grid, grid):
        pixels = places(grid, labels.shape[-1], row, column)
        classes = {int(labels[i, y, x] > 0) for y, x in pixels}
        if len(classes) == 2 and all(valid[i, y, x] for y, x in pixels):
            found.append((i, row, column))
    return found


def contrast(
    student: np.ndarray,
    pseudo_labels: np.ndarray,
    valid: np.ndarray,
    hardness: np.ndarray,
    teacher: np.ndarray,
    labels: np.ndarray,
    labeled_valid: np.ndarray,
    labeled_hardness: np.ndarray,
    tau: float,
) -> tuple[float, int]:
    """Features are (B, D, H, W), at every pixel; hardness (B, G, G). Returns (loss, anchors)."""
    grid, size = hardness.shape[-1], labels.shape[-1]
    sources = mixed(labels, labeled_valid, grid)
    means, anchors = [], 0
    for i, row, column in mixed(pseudo_labels, valid, grid):
        if not sources:
            break
        nearest = min(sources, key=lambda place: abs(labeled_hardness[place] - hardness[i, row, column]))
        prototypes = []
        for c in range(2):
            members = [
                unit(teacher[nearest[0], :, y, x])
                for y, x in places(grid, size, *nearest[1:])
                if (labels[nearest[0], y, x] > 0) == bool(c)
            ]
            prototypes.append(unit(np.mean(members, axis=0)))
        terms: tuple[list[float], list[float]] = ([], [])  # of background and of lesion in this patch
        for y, x in places(grid, size, row, column):
            z, c = unit(student[i, :, y, x]), int(pseudo_labels[i, y, x] > 0)
            scores = [float(z @ prototype) for prototype in prototypes]
            if int(np.argmax(scores)) == c:
                powers = [math.exp(score / tau) for score in scores]
                terms[c].append(-math.log(powers[c] / sum(powers)))
        anchors += len(terms[0]) + len(terms[1])
        means += [sum(of_class) / len(of_class) for of_class in terms if of_class]
    return (sum(means) / len(means) if means else 0.0), anchors
