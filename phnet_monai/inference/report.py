"""`report.html` of `phnet infer` and the page of `phnet evaluate --report`: what is on them.

Each is one file without any reference to another place. `report_items` turns records into what is shown,
`report_page` and `templates/` into HTML, `report_plots` draws.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from phnet_monai.inference.report_items import (
    BLANK,
    CLEAR,
    FAILED,
    FALSE_ALARM,
    LESION,
    MISSED,
    Column,
    Item,
    evaluation_item,
    failed_item,
    missing,
    number_text,
    record_items,
)
from phnet_monai.inference.report_page import (
    Choice,
    ItemStore,
    Order,
    Tile,
    settings_rows,
    time_of,
    write_page,
)
from phnet_monai.inference.report_plots import Plot, PlotPoint, bland_altman, dice_by_size, legend, point_groups

REPORT_FILE = "report.html"
RESEARCH_ONLY = "Research use only. Not a medical device: no finding on this page may decide about a patient."

NAME = Column("name", "Image", "Name of the file")
FRAME = Column("frame", "Frame", "Frame of the file, from 1", 0)
CLASS = Column("class", "Class", "Class of the image in the data list")
DICE = Column("dice", "Dice", "Overlap of prediction and annotation, 0 to 1", 3)
LESIONS = Column("lesions", "Lesions", "Lesions found", 0)
AREA_PX = Column("area_px", "Area px", "Area of all lesions in pixels", 0)
AREA_MM2 = Column("area_mm2", "Area mm²", "Area of all lesions, where the pixel spacing is known", 1)
CONFIDENCE = Column("confidence", "Confid.", "Confidence: mean probability inside the lesions", 3)
UNCERTAINTY = Column("uncertainty", "Uncert.", "Uncertainty: mean hardness of the hardest tenth of the frame", 3)


def write_report(
    path: str | Path,
    records: Iterable[Mapping[str, Any]],
    *,
    title: str,
    settings: Mapping[str, Any],
    failed: Sequence[Mapping[str, Any]] = (),
    notes: Sequence[str] = (),
    created: datetime | None = None,
) -> None:
    """Write the page of `phnet infer`, least certain frame first.

    Args:
        path: the file, in the output folder: links to masks and overlays are relative to it.
        records: one a file, see `inference.records`; read once, one at a time.
        title: heading of the page.
        settings: what the results depend on, shown as given; `model` also at the top.
        failed: records of failed files ("image", "reason"); those among `records` are shown too.
        notes: sentences for the reader; "Research use only" is put first unless one of them says so.
        created: time shown; None: now.

    Raises:
        KeyError: a record lacks a part.
        OSError: the file cannot be written.
    """
    images = 0
    with ItemStore() as store:
        for record in records:
            images += record.get("status") != FAILED
            for item in record_items(dict(record)):
                store.add(item)
        for record in failed:
            store.add(failed_item(dict(record)))
        store.number(_least_certain_first)
        filters = ((LESION, "With lesion"), (CLEAR, "Without"), (BLANK, "Blank"), (FAILED, "Failed"))
        page = _page(title, settings, notes, created) | {
            "kind": "infer",
            "tiles": infer_tiles(store.rows, images),
            "filters": _filters(store.rows, filters),
            "layers": [Choice("prediction", "Contour", True), Choice("hardness", "Hardness")],
            "orders": [
                Order("uncertainty", True, "Least certain first"),
                Order("uncertainty", False, "Most certain first"),
                Order("area_px", True, "Largest area first"),
                Order("lesions", True, "Most lesions first"),
                Order("name", False, "Name"),
            ],
        }
        columns = _columns(store.rows, [NAME, FRAME, UNCERTAINTY, LESIONS, AREA_PX, AREA_MM2, CONFIDENCE])
        write_page(path, store, columns=columns, page=page)


def write_evaluation_report(
    path: str | Path,
    cards: Iterable[Mapping[str, Any]],
    *,
    title: str,
    summary: Mapping[str, Any],
    settings: Mapping[str, Any],
    plots: bool = True,
    notes: Sequence[str] = (),
    created: datetime | None = None,
) -> None:
    """Write the page of `phnet evaluate --report`, worst Dice first.

    Args:
        path: the file.
        cards: one a scored frame: a frame record (see `inference.records`) with "image", "class" or None, "dice" and
            "iou" (None without annotated lesion), "missed", "truth_contours" (as "contours"), "truth_pixels" (area of
            the annotation), and optionally "false_lesions" (predicted lesions that touch none; without it they are
            counted in images without lesion only) and "outputs". Read once, one at a time.
        title, settings, notes, created: as in `write_report`.
        summary: as `SegmentationScores.summary` gives it.
        plots: whether to draw agreement of areas and Dice by size.

    Raises:
        KeyError: a card lacks a part.
        OSError: the file cannot be written.
    """
    with ItemStore() as store:
        for card in cards:
            store.add(evaluation_item(dict(card)))
        store.number(_worst_first)
        points = _points(store.rows) if plots else []
        filters = ((LESION, "With lesion"), (CLEAR, "Without"), (MISSED, "Missed"), (FALSE_ALARM, "False lesion"))
        page = _page(title, settings, notes, created) | {
            "kind": "evaluation",
            "tiles": evaluation_tiles(summary),
            "groups": _group_rows(summary),
            "filters": _filters(store.rows, filters),
            "layers": [
                Choice("prediction", "Prediction", True),
                Choice("truth", "Annotation", True),
                Choice("hardness", "Hardness"),
            ],
            "orders": [
                Order("dice", False, "Worst Dice first"),
                Order("dice", True, "Best Dice first"),
                Order("uncertainty", True, "Least certain first"),
                Order("area_px", True, "Largest area first"),
                Order("name", False, "Name"),
            ],
            "plots": _draw(points),
            "plot_groups": legend(point_groups(points)),
        }
        wanted = [NAME, FRAME, DICE, CLASS, UNCERTAINTY, LESIONS, AREA_PX, AREA_MM2, CONFIDENCE]
        write_page(path, store, columns=_columns(store.rows, wanted), page=page)


def _page(title: str, settings: Mapping[str, Any], notes: Sequence[str], created: datetime | None) -> dict[str, Any]:
    """What both pages have."""
    return {
        "title": title,
        "time": time_of(created),
        "model": dict(settings_rows({"model": settings.get("model")}))["model"] if settings.get("model") else None,
        "settings": settings_rows(dict(settings)),
        "notes": [*([] if any("research use only" in note.lower() for note in notes) else [RESEARCH_ONLY]), *notes],
        "groups": [],
        "plots": [],
        "plot_groups": [],
    }


def _columns(rows: Sequence[Item], wanted: Sequence[Column]) -> list[Column]:
    """The wanted columns; those that not every page needs only where a row has a value."""
    optional = {FRAME.key, CLASS.key, AREA_MM2.key}
    return [c for c in wanted if c.key not in optional or any(not missing(r["values"].get(c.key)) for r in rows)]


def _filters(rows: Sequence[Item], kinds: Iterable[tuple[str, str]]) -> list[Choice]:
    """All, and each kind that some row is of, with their numbers."""
    counts = [(key, label, sum(key in row["tags"] for row in rows)) for key, label in kinds]
    found = [Choice(key, f"{label} {number_text(count)}") for key, label, count in counts if count]
    return [Choice("", f"All {number_text(len(rows))}", True), *found]


def _least_certain_first(row: Item) -> tuple[float, str, int]:
    """Failed files come last."""
    uncertainty = row["values"].get("uncertainty")
    return math.inf if missing(uncertainty) else -uncertainty, row["name"], row.get("frame") or 0


def _worst_first(row: Item) -> tuple[float, bool, float, str, int]:
    """By Dice; then images without annotated lesion, false alarms before the clean ones, larger ones first."""
    dice, area = row["values"]["dice"], row["values"]["area_px"]
    without = dice is None
    return 2.0 if without else dice, without and not area, -area if without else 0, row["name"], row.get("frame") or 0


def infer_tiles(rows: Sequence[Item], images: int) -> list[Tile]:
    """The summary of `phnet infer` from the rows of its page; `images` are the files that were segmented."""
    frames = [row for row in rows if FAILED not in row["tags"]]
    failed = len(rows) - len(frames)
    uncertainties = [row["values"]["uncertainty"] for row in frames if not missing(row["values"]["uncertainty"])]
    median = statistics.median(uncertainties) if uncertainties else None
    lesions = sum(row["values"]["lesions"] for row in frames)
    with_lesion = sum(LESION in row["tags"] for row in frames)
    what = "frames" if len(frames) != images else "images"
    return [
        Tile("Images", number_text(images)),
        *([Tile("Frames", number_text(len(frames)))] if len(frames) != images else []),
        Tile("Lesions", number_text(lesions), f"in {number_text(with_lesion)} {what}"),
        Tile("Without lesion", number_text(len(frames) - with_lesion), f"of {number_text(len(frames))} {what}"),
        Tile("Median uncertainty", number_text(median, 3), "0 = certain, 1 = undecided"),
        Tile("Failed", number_text(failed), "files" if failed != 1 else "file", alert=failed > 0),
    ]


def evaluation_tiles(summary: Mapping[str, Any]) -> list[Tile]:
    """The summary of an evaluation from `SegmentationScores.summary`; what it lacks is left out."""
    images, without = summary["images"], summary.get("images_without_lesion") or 0
    with_lesion = images - without
    missed = int(summary.get("missed") or 0)
    deviation = number_text(summary.get("dice_std"), 3)
    mean_note = f"± {deviation}; {interval_text(summary.get('dice_ci'))}".strip("; ")
    tiles = [
        Tile("Images", number_text(images), f"{number_text(with_lesion)} with lesion"),
        Tile("Pooled Dice", number_text(summary.get("pooled_dice"), 3), interval_text(summary.get("pooled_dice_ci"))),
        Tile("Dice per image", number_text(summary.get("dice_mean"), 3), mean_note),
        Tile("Missed", number_text(missed), f"of {number_text(with_lesion)} with lesion", alert=missed > 0),
        Tile("False lesions", number_text(summary.get("false_positives_per_image"), 2), "per image"),
    ]
    if without:
        rate = summary.get("false_positive_rate_without_lesion")
        alarms = number_text(None if rate is None else 100 * rate)
        tiles.append(Tile("False alarms", f"{alarms} %", f"of {number_text(without)} without lesion"))
    if not missing(summary.get("hd95_median")):
        unit = summary.get("distance_unit") or "px"
        tiles.append(Tile("HD95, median", number_text(summary["hd95_median"], 1), f"{unit}, 95 % boundary distance"))
    return tiles


def interval_text(limits: Sequence[float] | None) -> str:
    """`95 % 0.701 to 0.843`; empty where it is not known."""
    if limits is None or any(missing(limit) for limit in limits):
        return ""
    return f"95 % {number_text(limits[0], 3)} to {number_text(limits[1], 3)}"


def _group_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the table by class and size: name, images, pooled Dice, Dice, IoU, missed."""
    groups = dict(summary.get("by_class") or {}) | dict(summary.get("by_size") or {})
    return [
        [
            name,
            number_text(group["images"]),
            number_text(group.get("pooled_dice"), 3),
            number_text(group.get("dice_mean"), 3),
            number_text(group.get("iou_mean"), 3),
            number_text(None if missing(group.get("dice_mean")) else group.get("missed")),
        ]
        for name, group in groups.items()
    ]


def _points(rows: Iterable[Item]) -> list[PlotPoint]:
    """Rows with an annotated lesion of known area."""
    return [
        PlotPoint(
            row["number"],
            row["name"] if row.get("frame") is None else f"{row['name']}, frame {row['frame']}",
            values["class"],
            values["truth_px"],
            values["area_px"],
            values["truth_px"] / values["pixels"],
            values["dice"],
        )
        for row in rows
        if (values := row["values"])["dice"] is not None and values["truth_px"]
    ]


def _draw(points: Sequence[PlotPoint]) -> list[Plot]:
    return [bland_altman(points), dice_by_size(points)] if points else []
