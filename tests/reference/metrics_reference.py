"""Slow, literal versions of the measures in `phnet_monai.metrics`, to test the fast ones against."""

from __future__ import annotations

import itertools
import math

import numpy as np


def boundary_pixels(mask: np.ndarray) -> list[tuple[int, int]]:
    """Lesion pixels with a 4-neighbour that is background or outside the image."""
    height, width = mask.shape

    def outside(row: int, column: int) -> bool:
        return not (0 <= row < height and 0 <= column < width) or not mask[row, column]

    steps = ((-1, 0), (1, 0), (0, -1), (0, 1))
    return [
        (row, column)
        for row, column in itertools.product(range(height), range(width))
        if mask[row, column] and any(outside(row + dy, column + dx) for dy, dx in steps)
    ]


def directed_distances(first: np.ndarray, second: np.ndarray, spacing: tuple[float, float] = (1.0, 1.0)) -> list[float]:
    """All pairs: for each boundary pixel of `first`, the distance to the nearest one of `second`."""
    others = np.array(boundary_pixels(second), dtype=np.float64) * spacing
    return [
        math.sqrt(((others - np.array(point) * spacing) ** 2).sum(axis=1).min()) for point in boundary_pixels(first)
    ]


def hd95_assd(first: np.ndarray, second: np.ndarray, spacing: tuple[float, float] = (1.0, 1.0)) -> tuple[float, float]:
    """The larger directed 95th percentile, and the mean over all boundary pixels of both masks."""
    forth = directed_distances(first, second, spacing)
    back = directed_distances(second, first, spacing)
    return max(_percentile(forth, 0.95), _percentile(back, 0.95)), sum(forth + back) / len(forth + back)


def _percentile(values: list[float], fraction: float) -> float:
    ordered = sorted(values)
    position = fraction * (len(ordered) - 1)
    below, above = math.floor(position), math.ceil(position)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def components(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    """Connected components with 8 neighbours, by flooding."""
    left = {(int(row), int(column)) for row, column in zip(*np.nonzero(mask), strict=True)}
    found = []
    while left:
        front = [left.pop()]
        component = set(front)
        while front:
            row, column = front.pop()
            for step in itertools.product((-1, 0, 1), repeat=2):
                neighbour = (row + step[0], column + step[1])
                if neighbour in left:
                    left.remove(neighbour)
                    component.add(neighbour)
                    front.append(neighbour)
        found.append(component)
    return found


def lesion_wise(prediction: np.ndarray, target: np.ndarray, min_overlap: float) -> dict[str, int]:
    predicted, wanted = components(prediction), components(target)

    def meets(first: set, second: set) -> bool:
        return len(first & second) >= min_overlap * len(first | second)

    return {
        "lesions": len(wanted),
        "lesions_detected": sum(any(meets(one, other) for other in predicted) for one in wanted),
        "false_positive_components": sum(not any(meets(one, other) for other in wanted) for one in predicted),
    }


def expected_calibration_error(probs: np.ndarray, target: np.ndarray, bins: int) -> float:
    """Guo et al. 2017, Eq. 3, pixel by pixel."""
    members: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for p, lesion in zip(probs.ravel().tolist(), target.ravel().tolist(), strict=True):
        confidence = max(p, 1 - p)
        index = next(m for m in range(bins) if m / bins < confidence <= (m + 1) / bins)
        members[index].append((confidence, (p > 0.5) == lesion))
    total = sum(len(member) for member in members)
    error = 0.0
    for member in filter(None, members):
        accuracy = sum(right for _, right in member) / len(member)
        confidence = sum(value for value, _ in member) / len(member)
        error += len(member) / total * abs(accuracy - confidence)
    return error


def wilcoxon_exact(differences: list[float]) -> float:
    """Two-sided p of the signed-rank test by trying all signs; differences without zeros and ties."""
    order = sorted(range(len(differences)), key=lambda index: abs(differences[index]))
    ranks = [order.index(index) + 1 for index in range(len(differences))]
    observed = sum(rank for rank, value in zip(ranks, differences, strict=True) if value > 0)
    middle = sum(ranks) / 2
    signs = list(itertools.product((0, 1), repeat=len(ranks)))
    as_far = [
        abs(sum(r * s for r, s in zip(ranks, sign, strict=True)) - middle) >= abs(observed - middle) for sign in signs
    ]
    return sum(as_far) / len(signs)
