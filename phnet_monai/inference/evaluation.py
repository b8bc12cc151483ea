"""The page of `phnet evaluate --report`: every scored image with both outlines, worst Dice first."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phnet_monai.data import load_part, read_image, read_mask
from phnet_monai.data.datalist import mask_of
from phnet_monai.inference.frames import FrameSettings, find_lesions
from phnet_monai.inference.predictor import Predictor, chunks
from phnet_monai.inference.report import REPORT_FILE, write_evaluation_report
from phnet_monai.inference.thumbnail import mask_contours
from phnet_monai.metrics.report import PER_IMAGE_FILE, read_per_image


def report_evaluation(
    predictor: Predictor, datalist: str | Path, scores: str | Path, summary: Mapping[str, Any], *, part: str
) -> Path:
    """Write `scores`/report.html of a part that `evaluate_run` has scored into the folder `scores`.

    The images are segmented once more, batch by batch, so that only their thumbnails are held.

    Raises:
        FileNotFoundError, ValueError: the datalist or `scores`/per_image.csv does not fit.
    """
    items = [item for item in load_part(datalist, part) if mask_of(item) is not None]
    rows = {str(row["case_id"]): row for row in read_per_image(Path(scores) / PER_IMAGE_FILE)}
    lost = [item["case_id"] for item in items if item["case_id"] not in rows]
    if lost:
        raise ValueError(f"{Path(scores) / PER_IMAGE_FILE} has no row for {lost[0]!r}; evaluate this datalist first")
    path = Path(scores) / REPORT_FILE
    write_evaluation_report(
        path,
        _cards(predictor, items, rows),
        title=f"Evaluation, {part} part",
        summary=summary,
        settings={**predictor.settings, "part": part},
    )
    return path


def _cards(
    predictor: Predictor, items: Sequence[Mapping[str, Any]], rows: Mapping[str, Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    for batch in chunks(items, predictor.batch_size):
        images = [read_image(item["image"]) for item in batch]
        for item, image, probs in zip(batch, images, predictor.predict(images), strict=True):
            yield _card(item, image, probs, rows[item["case_id"]])


def _card(item: Mapping[str, Any], image: np.ndarray, probs: np.ndarray, row: Mapping[str, Any]) -> dict[str, Any]:
    truth = read_mask(str(mask_of(item)))
    frame = find_lesions(image, probs, number=1, spacing=None, settings=FrameSettings())
    return {
        **frame.record,
        "image": item["case_id"],
        "class": item.get("class"),
        "dice": _number(row.get("dice")),
        "iou": _number(row.get("iou")),
        "missed": bool(truth.any() and not (truth & frame.mask).any()),
        "truth_contours": mask_contours(truth),
        "truth_pixels": int(np.count_nonzero(truth)),
        "false_lesions": int(row["false_positive_components"]),
    }


def _number(value: Any) -> float | None:
    """A score, None where it is not defined (an empty cell is NaN)."""
    return None if value is None or math.isnan(value) else float(value)
