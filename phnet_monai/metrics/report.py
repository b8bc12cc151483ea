"""Scores as files and as text."""

from __future__ import annotations

import csv
import io
import math
import os
from pathlib import Path
from typing import Any

from phnet_monai.files import atomic_writer, csv_text, without_csv_mark, write_json
from phnet_monai.metrics.scores import Row, SegmentationScores

PER_IMAGE_FILE = "per_image.csv"
SUMMARY_FILE = "summary.json"
# never read as numbers, so that case "007" stays "007"
_TEXT_COLUMNS = ("case_id", "class", "group", "size")


def write_scores(
    scores: SegmentationScores, out_dir: str | os.PathLike[str], *, bootstrap: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Write `per_image.csv` and `summary.json` into a folder, which is made if it is not there.

    Each file appears whole or not at all. NaN is an empty cell in the CSV and null in the JSON.

    Args:
        scores: with at least one image.
        out_dir: the folder; files of an earlier call are replaced.
        bootstrap: resamples for the intervals of `SegmentationScores.summary`.
        seed: of the resampling.

    Returns:
        The summary, with NaN (not None) as `SegmentationScores.summary` gives it.

    Raises:
        ValueError: no image was scored.
    """
    summary = scores.summary(bootstrap=bootstrap, seed=seed)
    folder = Path(out_dir)
    with atomic_writer(folder / PER_IMAGE_FILE) as stream:
        stream.write(_csv_text(scores.rows()).encode("utf-8", errors="surrogateescape"))  # names need not be UTF-8
    write_json(folder / SUMMARY_FILE, _plain(summary))
    return summary


def read_per_image(path: str | os.PathLike[str]) -> list[Row]:
    """Read a `per_image.csv` back: numbers as float, empty cells as NaN.

    The columns case_id, class, group and size stay text, None where empty; so do other cells that are not numbers.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file without a case_id column.
    """
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as stream:
        reader = csv.DictReader(stream)
        if "case_id" not in (reader.fieldnames or ()):
            raise ValueError(f"{path}: expected a table with a column case_id, found {reader.fieldnames}")
        return [{key: _parsed(key, cell) for key, cell in row.items()} for row in reader]


def _parsed(key: str, cell: str) -> Any:
    if key in _TEXT_COLUMNS:
        return without_csv_mark(cell) or None
    if cell == "":
        return math.nan
    try:
        return float(cell)
    except ValueError:
        return without_csv_mark(cell)


def _csv_text(rows: list[Row]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return stream.getvalue()


def _cell(value: Any) -> Any:
    return csv_text(value) if isinstance(value, str) else _plain(value)


def _plain(value: Any) -> Any:
    """Plain Python numbers, lists and dicts; None for what is not finite."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy and torch, scalars and arrays
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def format_summary(summary: dict[str, Any]) -> str:
    """A table of a summary for the terminal: first the whole set, then a line for each class and size."""
    lines = [*_overall(summary), ""]
    header = ("group", "images", "pooled Dice", "Dice", "IoU", "HD95", "missed", "ECE")
    groups = {"all": summary}
    for key in ("by_class", "by_size"):
        groups |= summary.get(key, {})
    table = [header, *(_group_cells(name, core) for name, core in groups.items())]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    for row in table:
        cells = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]))
    return "\n".join(lines)


def _overall(summary: dict[str, Any]) -> list[str]:
    with_lesion = summary["images"] - summary["images_without_lesion"]
    grouped = f", {summary['groups']} patients or scans" if summary["groups"] < summary["images"] else ""
    unit = summary.get("distance_unit") or ""
    entries = [
        ("images", f"{summary['images']} ({with_lesion} with lesion{grouped})"),
        ("pooled Dice", f"{_number(summary['pooled_dice'], 4)} {_interval(summary['pooled_dice_ci'])}"),
        ("pooled IoU", _number(summary["pooled_iou"], 4)),
        ("Dice per image", _mean_std_interval(summary, "dice")),
        ("IoU per image", _mean_std_interval(summary, "iou")),
    ]
    for key, name in (("hd95", "HD95"), ("assd", "ASSD")):
        if f"{key}_mean" in summary:
            mean, median = _number(summary[f"{key}_mean"], 2), _number(summary[f"{key}_median"], 2)
            entries.append((name, f"{mean} {unit} (median {median})"))
    entries += [
        ("missed", f"{summary['missed']} of {with_lesion} ({_percent(summary['missed_rate'])})"),
        ("lesions detected", f"{_percent(summary['lesion_sensitivity'])} of {summary['lesions']}"),
        ("false lesions per image", _number(summary["false_positives_per_image"], 3)),
        ("ECE", _number(summary["ece"], 4)),
    ]
    if summary["images_without_lesion"]:
        rate = _percent(summary["false_positive_rate_without_lesion"])
        entries.append(("false alarms", f"{rate} of {summary['images_without_lesion']} images without lesion"))
    width = max(len(name) for name, _ in entries)
    return [f"{name.ljust(width)}  {text}" for name, text in entries]


def _group_cells(name: str, core: dict[str, Any]) -> tuple[str, ...]:
    return (
        name,
        str(core["images"]),
        _number(core["pooled_dice"], 4),
        _number(core["dice_mean"], 4),
        _number(core["iou_mean"], 4),
        _number(core.get("hd95_mean"), 1),
        str(core["missed"]),
        _number(core["ece"], 4),
    )


def _missing(value: float | None) -> bool:
    return value is None or math.isnan(value)


def _number(value: float | None, digits: int) -> str:
    return "-" if _missing(value) else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f} %"


def _interval(limits: Any) -> str:
    return "" if any(_missing(limit) for limit in limits) else f"[{limits[0]:.4f}, {limits[1]:.4f}]"


def _mean_std_interval(summary: dict[str, Any], key: str) -> str:
    mean, std = _number(summary[f"{key}_mean"], 4), _number(summary[f"{key}_std"], 4)
    return f"{mean} +- {std} {_interval(summary[f'{key}_ci'])}".rstrip()
