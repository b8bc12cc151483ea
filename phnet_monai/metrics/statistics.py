"""Confidence intervals and paired comparisons of per-image figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

# differences of two Dice figures below this are rounding, not evidence
_EQUAL = 1e-12
# random indices drawn at once, to bound the memory
_DRAWS_AT_ONCE = 2_000_000


def bootstrap_interval(
    values: ArrayLike,
    *,
    statistic: Callable[..., Any] = np.mean,
    confidence: float = 0.95,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a statistic over images (Efron and Tibshirani, 1993, chapter 13).

    Args:
        values: (n,) one figure per image, or (k, n) for a statistic of k figures that are drawn together.
        statistic: called as `statistic(values)`, or with k arrays; vectorised if it takes `axis`.
        confidence: of the interval, in (0, 1).
        n_resamples: number of resamples.
        seed: of the resampling; the same seed gives the same interval.

    Returns:
        (low, high); (NaN, NaN) for fewer than two images.

    Raises:
        ValueError: values with NaN, or not of shape (n,) or (k, n).
    """
    from scipy import stats  # half a second, which commands without intervals need not wait for

    data = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if data.ndim != 2:
        raise ValueError(f"values: expected shape (n,) or (k, n), found {data.shape}")
    if np.isnan(data).any():
        raise ValueError(f"values: {int(np.isnan(data).any(axis=0).sum())} of {data.shape[1]} are NaN; drop them first")
    if data.shape[1] < 2:
        return math.nan, math.nan
    result = stats.bootstrap(
        tuple(data),
        statistic,
        n_resamples=n_resamples,
        batch=max(1, _DRAWS_AT_ONCE // data.shape[1]),
        confidence_level=confidence,
        method="percentile",
        paired=len(data) > 1,
        rng=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def weighted_interval(
    statistic: Callable[[NDArray[np.float64]], ArrayLike],
    count: int,
    *,
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a statistic that can be written with weights of the images.

    Images of one group (one patient, or near-duplicates) are drawn together, as often as their group is: they are not
    independent, and an interval over single images would be too narrow.

    Args:
        statistic: weights (r, count), how often each image was drawn in each of r resamples -> r figures.
        count: number of images.
        groups: group of each image; None: each its own.
        confidence: of the interval, in (0, 1).
        n_resamples: number of resamples.
        seed: of the resampling; the same seed gives the same interval.

    Returns:
        (low, high); (NaN, NaN) for fewer than two groups.

    Raises:
        ValueError: not one group for each image.
    """
    if groups is not None and len(groups) != count:
        raise ValueError(f"groups: expected one for each of {count} images, found {len(groups)}")
    numbers: dict[Hashable, int] = {}
    member = np.array([numbers.setdefault(name, len(numbers)) for name in groups or range(count)], dtype=np.intp)
    size = len(numbers)
    if size < 2:
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    chance = np.full(size, 1 / size)
    step = max(1, _DRAWS_AT_ONCE // count)
    figures = [
        np.asarray(
            statistic(rng.multinomial(size, chance, size=min(step, n_resamples - done))[:, member].astype(float))
        )
        for done in range(0, n_resamples, step)
    ]
    tail = 50 * (1 - confidence)
    low, high = np.nanpercentile(np.concatenate(figures), [tail, 100 - tail])
    return float(low), float(high)


def wilcoxon_holm(reference: ArrayLike, others: Mapping[str, ArrayLike]) -> dict[str, dict[str, float]]:
    """Compare one method with several others on the same images.

    Two-sided signed-rank test on paired differences (Wilcoxon, "Individual comparisons by ranking methods",
    1945; images with equal figures are left out of the ranks, as there), corrected for the number of
    comparisons (Holm, "A simple sequentially rejective multiple test procedure", 1979). The effect size is
    the matched-pairs rank-biserial correlation (Kerby, "The simple difference formula", 2014): (W+ - W-) /
    (W+ + W-).

    Args:
        reference: (n,) the method that is compared, one figure per image.
        others: by name, (n,) figures of another method in the same order of images.

    Returns:
        By name: p, p_holm, effect_size in [-1, 1], mean_difference and median_difference, all positive where the
        reference is higher, and n, the number of images. If all differences are zero, p is 1 and the effect size 0.

    Raises:
        ValueError: no images, arrays of different lengths or with NaN (images without lesion have no Dice).
    """
    base = _figures(reference, name="reference")
    results = {name: _compare(base, _figures(values, name=name), name=name) for name, values in others.items()}
    corrected = holm([result["p"] for result in results.values()])
    for result, p_holm in zip(results.values(), corrected, strict=True):
        result["p_holm"] = float(p_holm)
    return results


def _figures(values: ArrayLike, *, name: str) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name}: expected one figure per image, shape (n,), found shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(
            f"{name}: {int((~np.isfinite(array)).sum())} of {array.size} figures are not finite; "
            "leave out images without lesion before comparing"
        )
    return array


def _compare(reference: NDArray[np.float64], other: NDArray[np.float64], *, name: str) -> dict[str, float]:
    if reference.shape != other.shape:
        raise ValueError(
            f"{name}: expected figures of the same images in the same order, found {reference.size} for the "
            f"reference and {other.size} for the other method"
        )
    difference = reference - other
    nonzero = difference[np.abs(difference) > _EQUAL]
    result = {"p": 1.0, "p_holm": 1.0, "effect_size": 0.0}
    if nonzero.size:
        from scipy import stats

        # rounding to the same tolerance keeps equal differences equal, so that they share a rank
        nonzero = np.round(nonzero, 12)
        ranks = stats.rankdata(np.abs(nonzero))
        result["p"] = float(stats.wilcoxon(nonzero, alternative="two-sided", method="auto").pvalue)
        result["effect_size"] = float(np.sum(np.sign(nonzero) * ranks) / ranks.sum())
    return result | {
        "mean_difference": float(difference.mean()),
        "median_difference": float(np.median(difference)),
        "n": difference.size,
    }


def holm(p_values: Sequence[float]) -> NDArray[np.float64]:
    """Holm's step-down correction: the i-th smallest of m times (m - i + 1), never falling, at most 1."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected
