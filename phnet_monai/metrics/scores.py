"""Collect scores image by image; summarise them pooled and per image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phnet_monai.metrics.calibration import calibration_bins, ece_from_bins
from phnet_monai.metrics.masks import BoolMask, as_mask, to_numpy
from phnet_monai.metrics.overlap import dice_iou_from_counts
from phnet_monai.metrics.per_image import Spacing, lesion_wise, per_image_scores
from phnet_monai.metrics.statistics import weighted_interval

# lesion area as a fraction of the image, from (included) and to (excluded); fixed bounds, so that the groups
# of two data sets can be compared
SIZE_GROUPS = {"small": (0.0, 0.05), "medium": (0.05, 0.15), "large": (0.15, math.inf)}
# room for the rounding of a softmax and an interpolation
_TOLERANCE = 1e-4

Row = dict[str, Any]


class SegmentationScores:
    """Scores of a set of images, each at its original size.

    Args:
        distances: whether to compute HD95 and ASSD (most of the time that an update takes).
        threshold: a pixel is lesion if its probability is above this; 0.5 is the argmax of two classes.
    """

    def __init__(self, *, distances: bool = True, threshold: float = 0.5) -> None:
        if not 0 <= threshold < 1:
            raise ValueError(f"threshold: expected a probability in [0, 1), found {threshold}")
        self.distances = distances
        self.threshold = threshold
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._rows: dict[str, Row] = {}
        self._bins: dict[str, NDArray[np.float64]] = {}
        self._unit: str | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def update(
        self,
        case_id: str,
        probs: Any,
        target: Any,
        *,
        class_name: str | None = None,
        group: str | None = None,
        spacing_mm: Spacing | None = None,
        **extra: Any,
    ) -> Row:
        """Add one image.

        Args:
            case_id: unique name of the image.
            probs: array or tensor (H, W), lesion probability in [0, 1] at the image's original size.
            target: bool (H, W).
            class_name: class of the image, such as "benign"; classes are summarised apart.
            group: what the image shares with others, such as its patient or scan: they are no independent evidence,
                and intervals draw them together. None: the image is on its own.
            spacing_mm: size of a pixel, one number or (row, column); for all images or for none.
            extra: further columns of the row, such as the model's uncertainty.

        Returns:
            The row, as `rows()` has it.

        Raises:
            ValueError: case seen before, shapes that differ, probabilities that are NaN or outside [0, 1],
                images with and without spacing mixed, or an extra column named like one of ours. The message
                names the case, and nothing is added.
        """
        case_id = str(case_id)
        if case_id in self._rows:
            raise ValueError(f"{case_id}: this case was scored before; case ids must be unique")
        unit = "px" if spacing_mm is None else "mm"
        if self._unit not in (None, unit):
            raise ValueError(f"{case_id}: distances so far are in {self._unit}, here in {unit}; give all or no spacing")
        try:
            row, bins = self._score(probs, target, spacing_mm)
        except ValueError as error:
            raise ValueError(f"{case_id}: {error}") from error
        row = {"case_id": case_id, "class": class_name, "group": group} | row
        if clash := sorted(row.keys() & extra.keys()):
            raise ValueError(f"{case_id}: extra columns {clash} are named like columns of the scores; rename them")
        self._unit, self._rows[case_id], self._bins[case_id] = unit, row | extra, bins
        return dict(self._rows[case_id])

    def _score(self, probs: Any, target: Any, spacing_mm: Spacing | None) -> tuple[Row, NDArray[np.float64]]:
        lesion = _checked_probs(probs)
        mask: BoolMask = as_mask(target, name="target")
        if lesion.shape != mask.shape:
            raise ValueError(
                f"probs {lesion.shape} and target {mask.shape} differ in shape; "
                "bring the probabilities back to the size of the original image first"
            )
        prediction = lesion > self.threshold
        scores = per_image_scores(prediction, mask, distances=self.distances, spacing_mm=spacing_mm)
        row: Row = {"height": mask.shape[0], "width": mask.shape[1]} | scores | lesion_wise(prediction, mask)
        row["size"] = _size_group(scores["lesion_area_fraction"])
        return row, calibration_bins(lesion, mask)

    def content(self) -> list[tuple[Row, NDArray[np.float64]]]:
        """Row and calibration counts of each image, for `merge`."""
        return [(row, self._bins[case_id]) for case_id, row in self._rows.items()]

    def merge(self, shares: Sequence[Sequence[tuple[Row, NDArray[np.float64]]]]) -> None:
        """Hold the images of all `shares` instead, in the order of the list that every n-th image was taken from.

        Args:
            shares: `content()` of each of n processes, by rank.
        """
        self._rows, self._bins = {}, {}
        for row, bins in (entry for turn in zip_longest(*shares) for entry in turn if entry is not None):
            self._rows[row["case_id"]], self._bins[row["case_id"]] = row, bins

    def rows(self) -> list[Row]:
        """One dict per image in the order of the updates.

        Keys: case_id, class, group, height, width, those of `per_image_scores` and `lesion_wise`, size (small,
        medium, large; None without lesion), and the extra columns.
        """
        return [dict(row) for row in self._rows.values()]

    def quick(self) -> dict[str, float]:
        """pooled_dice, pooled_iou, dice_mean and iou_mean over the images with lesion, without intervals.

        NaN if there are none. Raises ValueError if no image was added.
        """
        rows = self._scored()
        with_lesion = [row for row in rows if not math.isnan(row["dice"])]
        dice, iou = dice_iou_from_counts(*_counts(with_lesion).sum(axis=1))
        means = {f"{key}_mean": _moments(with_lesion, key)[0] for key in ("dice", "iou")}
        return {"pooled_dice": float(dice), "pooled_iou": float(iou)} | means

    def summary(self, *, bootstrap: int = 1000, seed: int = 0) -> dict[str, Any]:
        """Figures of the whole set, and the same by class and by lesion size.

        Only images with lesion enter the pooled figures, means and distances. Images without lesion enter
        pooled_dice_all_images (their false pixels count), false_positives_per_image, ece, and a rate of their
        own.

        Args:
            bootstrap: resamples for the 95 % percentile intervals, of whole groups; 0 for none (NaN).
            seed: of the resampling.

        Returns:
            images, images_without_lesion, groups: counts.
            pooled_dice, pooled_dice_ci, pooled_iou, pooled_dice_all_images: from the pixels of the set as a
            whole. dice_mean, dice_std, dice_ci, iou_mean, iou_std, iou_ci: over images; std is the sample's
                (n - 1), an interval is (low, high).
            hd95_mean, hd95_median, hd95_std, assd_mean, assd_median, assd_std: absent without distances.
            missed, missed_rate: images whose lesion the prediction does not touch.
            lesions, lesion_sensitivity, false_positives_per_image: connected components, see `lesion_wise`.
            false_positive_rate_without_lesion: part of the images without lesion with any pixel predicted.
            ece: expected calibration error over pixels.
            distance_unit ("px" or "mm"), threshold, by_class {name: ...}, by_size {name: ...}: at the top
            only. What cannot be computed is NaN.

        Raises:
            ValueError: no image was added.
        """
        rows = self._scored()

        def core(chosen: list[Row]) -> dict[str, Any]:
            bins = sum((self._bins[row["case_id"]] for row in chosen), np.zeros((3, 1)))
            ece = ece_from_bins(np.asarray(bins))
            return _core(chosen, distances=self.distances, bootstrap=bootstrap, seed=seed) | {"ece": ece}

        def groups(key: str, names: Sequence[str]) -> dict[str, Any]:
            return {name: core([row for row in rows if row[key] == name]) for name in names}

        classes = sorted({row["class"] for row in rows if row["class"] is not None})
        sizes = [name for name in SIZE_GROUPS if any(row["size"] == name for row in rows)]
        return core(rows) | {
            "distance_unit": self._unit,
            "threshold": self.threshold,
            "by_class": groups("class", classes),
            "by_size": groups("size", sizes),
        }

    def _scored(self) -> list[Row]:
        if not self._rows:
            raise ValueError("no image was scored; call update() for each image first")
        return list(self._rows.values())


def _checked_probs(probs: Any) -> NDArray[np.float32]:
    array = to_numpy(probs)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"probs: expected lesion probabilities of shape (H, W), found shape {array.shape}")
    array = array.astype(np.float32, copy=False)
    low, high = float(array.min()), float(array.max())  # a NaN anywhere makes both NaN
    if math.isnan(low):
        raise ValueError(f"probs: {int(np.isnan(array).sum())} of {array.size} pixels are NaN")
    if low < -_TOLERANCE or high > 1 + _TOLERANCE:
        raise ValueError(f"probs: expected probabilities in [0, 1], found {low:g} to {high:g}; apply softmax first")
    return np.clip(array, 0.0, 1.0)


def _size_group(fraction: float) -> str | None:
    if fraction == 0:
        return None
    return next(name for name, (low, high) in SIZE_GROUPS.items() if low <= fraction < high)


def _counts(rows: list[Row]) -> NDArray[np.float64]:
    """(3, n): tp, fp, fn of each image."""
    return np.array([[row[key] for row in rows] for key in ("tp", "fp", "fn")], dtype=np.float64)


def _column(rows: list[Row], key: str) -> NDArray[np.float64]:
    return np.array([row[key] for row in rows], dtype=np.float64)


def _moments(rows: list[Row], key: str) -> tuple[float, float, float]:
    """Mean, median and sample standard deviation of a column; NaN where there are too few images."""
    values = _column(rows, key)
    if not values.size:
        return math.nan, math.nan, math.nan
    std = float(values.std(ddof=1)) if values.size > 1 else math.nan
    return float(values.mean()), float(np.median(values)), std


def _ratio(count: float, total: float) -> float:
    return count / total if total else math.nan


def _groups(rows: list[Row]) -> list[tuple[str, str]]:
    return [("image", row["case_id"]) if row["group"] is None else ("group", row["group"]) for row in rows]


def _core(rows: list[Row], *, distances: bool, bootstrap: int, seed: int) -> dict[str, Any]:
    """The figures that are the same for the whole set and for a group of it."""
    with_lesion = [row for row in rows if not math.isnan(row["dice"])]
    without = [row for row in rows if math.isnan(row["dice"])]

    def interval(statistic: Callable[[NDArray[np.float64]], Any]) -> tuple[float, float]:
        if bootstrap == 0:
            return math.nan, math.nan
        return weighted_interval(
            statistic, len(with_lesion), groups=_groups(with_lesion), n_resamples=bootstrap, seed=seed
        )

    def interval_of_mean(values: NDArray[np.float64]) -> tuple[float, float]:
        return interval(lambda weights: weights @ values / weights.sum(axis=1))

    counts = _counts(with_lesion)
    dice, iou = dice_iou_from_counts(*counts.sum(axis=1))
    result: dict[str, Any] = {
        "images": len(rows),
        "images_without_lesion": len(without),
        "groups": len(set(_groups(rows))),
        "pooled_dice": float(dice),
        "pooled_dice_ci": interval(lambda weights: dice_iou_from_counts(*(weights @ counts.T).T)[0]),
        "pooled_iou": float(iou),
        "pooled_dice_all_images": float(dice_iou_from_counts(*_counts(rows).sum(axis=1))[0]),
    }
    for key in ("dice", "iou"):
        result[f"{key}_mean"], _, result[f"{key}_std"] = _moments(with_lesion, key)
        result[f"{key}_ci"] = interval_of_mean(_column(with_lesion, key))
    for key in ("hd95", "assd") if distances else ():
        result[f"{key}_mean"], result[f"{key}_median"], result[f"{key}_std"] = _moments(with_lesion, key)
    missed = sum(row["missed"] for row in with_lesion)
    lesions = sum(row["lesions"] for row in rows)
    return result | {
        "missed": missed,
        "missed_rate": _ratio(missed, len(with_lesion)),
        "lesions": lesions,
        "lesion_sensitivity": _ratio(sum(row["lesions_detected"] for row in rows), lesions),
        "false_positives_per_image": _ratio(sum(row["false_positive_components"] for row in rows), len(rows)),
        "false_positive_rate_without_lesion": _ratio(sum(row["false_positive"] for row in without), len(without)),
    }
