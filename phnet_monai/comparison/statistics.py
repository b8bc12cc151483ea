"""Paired statistics of a comparison: one row against all others, and Dice by lesion size, image by image."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from phnet_monai.comparison.results import Result, Results, Run, common_runs
from phnet_monai.comparison.tables import markdown, p_text
from phnet_monai.metrics import holm, weighted_interval, wilcoxon_holm

RESAMPLES = 10_000
QUARTERS = 4
_COUNTS = ("tp", "fp", "fn")
Groups = Mapping[str, str]
"""Group (patient, near-duplicates) by case."""


class PerImage(NamedTuple):
    """Scores of some runs, image by image.

    Attributes:
        cases: the images with lesion, sorted.
        dice: (n,) Dice of each image, averaged over the runs in which it was tested.
        counts: (seeds, 3, n) tp, fp, fn of each image and seed, 0 where that seed did not test it; folds of one seed
            are put together.
        area: (n,) area of the lesion as a fraction of the image.
    """

    cases: list[str]
    dice: NDArray[np.float64]
    counts: NDArray[np.float64]
    area: NDArray[np.float64]

    def pooled(self, weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Pooled Dice, averaged over seeds: (1,), or (r,) with weights (r, n) of the images."""
        weights = np.ones((1, len(self.cases))) if weights is None else weights
        tp, fp, fn = (weights @ self.counts[:, index].T for index in range(3))  # (r, seeds)
        with np.errstate(invalid="ignore"):
            return np.asarray((2 * tp / (2 * tp + fp + fn)).mean(axis=1))


def per_image(results: Sequence[Result], runs: Sequence[Run], part: str, checkpoint: str) -> PerImage | None:
    """Scores of the given runs; None where one of them has no table.

    With folds, an image is tested once per seed, so averaging over runs puts the folds side by side.
    """
    tables = {result.run: result.per_image(part, checkpoint) for result in results if result.run in set(runs)}
    if not tables or any(table is None for table in tables.values()):
        return None
    rows = [
        (seed, case, row)
        for (seed, _), table in tables.items()
        for case, row in (table or {}).items()
        if math.isfinite(row["dice"])  # an image without lesion has no Dice
    ]
    cases = sorted({case for _, case, _ in rows})
    column = {case: index for index, case in enumerate(cases)}
    seeds = {seed: index for index, seed in enumerate(sorted({seed for seed, _, _ in rows}))}
    dice, tested, area = (np.zeros(len(cases)) for _ in range(3))
    counts = np.zeros((len(seeds), 3, len(cases)))
    for seed, case, row in rows:
        index = column[case]
        dice[index] += row["dice"]
        tested[index] += 1
        area[index] = row["lesion_area_fraction"]
        counts[seeds[seed], :, index] = [row[key] for key in _COUNTS]
    return PerImage(cases, dice / np.maximum(tested, 1), counts, area) if cases else None


def paired_records(
    results: Results,
    profile: str,
    labeled: str,
    *,
    part: str = "test",
    checkpoint: str = "last",
    groups: Groups | None = None,
    n_resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """The reference row against every other one under one profile and fraction.

    Dice of an image is averaged over the seeds (and folds) that both rows have finished. Two-sided Wilcoxon signed-rank
    test over images (`p`) and over the means of groups (`p_groups`; images of one group are not independent), each with
    Holm's correction over all rows of the fraction; matched-pairs rank-biserial correlation over images; bootstrap
    intervals over images, or over whole groups where `groups` knows them.

    Returns:
        One record per other row, in the order of the matrix; empty while the reference has no scores. Differences are
        reference minus other, as fractions.
    """
    rows = results.of(profile, labeled)
    base = rows.pop(results.reference, None)
    if base is None:
        return []
    labels = results.labels()
    records: list[dict[str, Any]] = []
    for name, finished in rows.items():
        runs = common_runs(base, finished)
        ours, theirs = (per_image(found, runs, part, checkpoint) for found in (base, finished))
        if ours is None or theirs is None:
            continue
        if ours.cases != theirs.cases:
            raise ValueError(
                f"{results.reference} and {name} ({profile}, {labeled}) were scored on different {part} images; "
                "one of them was trained with another split. Remove its files in results/ and its folders cells/ and "
                "data/ of the work folder, and it is trained anew."
            )
        record = {
            "profile": profile,
            "labeled": labeled,
            "part": part,
            "checkpoint": checkpoint,
            "reference": results.reference,
            "other": name,
            "label": labels[name],
            "runs": len(runs),
        }
        records.append(record | _compare(ours, theirs, name, groups, n_resamples, seed))
    for key in ("p", "p_groups"):
        corrected = holm([record[key] for record in records])
        for record, p in zip(records, corrected, strict=True):
            record[f"{key}_holm"] = float(p)
    return records


def _compare(
    ours: PerImage, theirs: PerImage, name: str, groups: Groups | None, n_resamples: int, seed: int
) -> dict[str, Any]:
    members = group_list(ours.cases, groups)
    difference = ours.dice - theirs.dice

    def interval(statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> tuple[float, float]:
        return weighted_interval(statistic, len(ours.cases), groups=members, n_resamples=n_resamples, seed=seed)

    test = wilcoxon_holm(ours.dice, {name: theirs.dice})[name]
    of_groups = wilcoxon_holm(group_means(ours.dice, members), {name: group_means(theirs.dice, members)})[name]
    low, high = interval(lambda weights: weights @ difference / weights.sum(axis=1))
    pooled_low, pooled_high = interval(lambda weights: ours.pooled(weights) - theirs.pooled(weights))
    return {
        "images": len(ours.cases),
        "groups": len(set(members)) if members else len(ours.cases),
        "dice_reference": float(ours.dice.mean()),
        "dice_other": float(theirs.dice.mean()),
        "difference": test["mean_difference"],
        "difference_low": low,
        "difference_high": high,
        "median_difference": test["median_difference"],
        "p": test["p"],
        "p_holm": math.nan,
        "p_groups": of_groups["p"],
        "p_groups_holm": math.nan,
        "rank_biserial": test["effect_size"],
        "pooled_difference": float((ours.pooled() - theirs.pooled())[0]),
        "pooled_difference_low": pooled_low,
        "pooled_difference_high": pooled_high,
    }


def group_list(cases: Sequence[str], groups: Groups | None) -> list[str] | None:
    """Group of each case; a case that is in none is a group of its own."""
    return None if not groups else [groups.get(case, f"case {case}") for case in cases]


def group_means(values: NDArray[np.float64], members: Sequence[str] | None) -> NDArray[np.float64]:
    """Mean of the values (n,) in each group; the values themselves without groups."""
    if members is None:
        return values
    numbers: dict[str, int] = {}
    group = [numbers.setdefault(name, len(numbers)) for name in members]
    return np.bincount(group, weights=values) / np.bincount(group)


def paired_table(records: Sequence[Mapping[str, Any]], reference: str) -> str:
    """Markdown table of `paired_records`, in points of Dice."""
    header = [
        f"{reference} against",
        "runs",
        "Dice per image: difference",
        "95 % interval",
        "p (Wilcoxon)",
        "p (Holm)",
        "p (Holm), group means",
        "rank-biserial r",
        "pooled Dice: difference",
        "95 % interval ",
    ]
    lines = [
        [
            record["label"],
            str(record["runs"]),
            points(record["difference"]),
            interval_text(record["difference_low"], record["difference_high"]),
            p_text(record["p"]),
            p_text(record["p_holm"]),
            p_text(record["p_groups_holm"]),
            f"{record['rank_biserial']:+.2f}",
            points(record["pooled_difference"]),
            interval_text(record["pooled_difference_low"], record["pooled_difference_high"]),
        ]
        for record in records
    ]
    return markdown(header, lines)


def points(difference: float) -> str:
    """`+2.0` of 0.02."""
    return f"{100 * difference:+.1f}"


def interval_text(low: float, high: float) -> str:
    return "-" if math.isnan(low) or math.isnan(high) else f"{points(low)} to {points(high)}"


def size_records(
    results: Results,
    profile: str,
    labeled: str,
    *,
    part: str = "test",
    checkpoint: str = "last",
    groups: Groups | None = None,
    n_resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Dice per image of every row in each quarter of the lesions, by their area in the image.

    The quarters are those of all images that any row of this profile and fraction was tested on, so that rows can be
    compared. Intervals are bootstrapped as in `paired_records`.

    Returns:
        One record per row and quarter (1: smallest lesions).
    """
    labels = results.labels_with_runs(profile, labeled)
    found = {
        name: per_image(finished, [result.run for result in finished], part, checkpoint)
        for name, finished in results.of(profile, labeled).items()
    }
    scored = {name: table for name, table in found.items() if table is not None}
    areas = {case: area for table in scored.values() for case, area in zip(table.cases, table.area, strict=True)}
    if len(areas) < QUARTERS:
        return []
    edges = np.quantile(list(areas.values()), np.linspace(0, 1, QUARTERS + 1))
    records = []
    for name, table in scored.items():
        # a lesion on an edge belongs to the lower quarter
        quarter = np.clip(np.searchsorted(edges, table.area, side="left"), 1, QUARTERS)
        for number in range(1, QUARTERS + 1):
            chosen = np.flatnonzero(quarter == number)
            if chosen.size == 0:
                continue
            values = table.dice[chosen]
            low, high = weighted_interval(
                lambda weights, values=values: weights @ values / weights.sum(axis=1),  # type: ignore[misc]
                chosen.size,
                groups=group_list([table.cases[index] for index in chosen], groups),
                n_resamples=n_resamples,
                seed=seed,
            )
            records.append(
                {
                    "profile": profile,
                    "labeled": labeled,
                    "part": part,
                    "checkpoint": checkpoint,
                    "row": name,
                    "label": labels[name],
                    "quarter": number,
                    "area_low": float(edges[number - 1]),
                    "area_high": float(edges[number]),
                    "images": int(chosen.size),
                    "dice": float(values.mean()),
                    "dice_low": low,
                    "dice_high": high,
                }
            )
    return records
