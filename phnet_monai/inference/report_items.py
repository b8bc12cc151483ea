"""A frame of a record -> what the page shows of it: values to sort by, texts, outlines, links."""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from phnet_monai.inference.report_colours import hardness_png
from phnet_monai.inference.thumbnail import thumbnail_size

FAILED, BLANK, LESION, CLEAR, MISSED, FALSE_ALARM = "failed", "blank", "lesion", "clear", "missed", "false-alarm"
"""Tags of an item, by which the page filters."""

LINK_NAMES = {"masks": "Mask", "overlays": "Overlay", "hardness": "Hardness", "probabilities": "Probabilities"}
OUTLINE_SCALE = 4
"""Steps a thumbnail pixel in which outlines are written, as whole numbers."""

DASH = "–"
Item = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of the table: `key` of the item's values, heading, what it means, and how a value is written."""

    key: str
    label: str
    hint: str
    digits: int | None = None
    """Digits after the point; None: text."""

    def text(self, value: Any) -> str:
        if self.digits is None:
            return DASH if value is None else str(value)
        return number_text(value, self.digits)


def number_text(value: float | None, digits: int = 0) -> str:
    """`12,345` or `0.873`; a dash for None and NaN."""
    return DASH if missing(value) else f"{value:,.{digits}f}"


def missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def record_items(record: dict[str, Any]) -> Iterator[Item]:
    """Items of one record of `phnet infer`: one a frame, or one for a failed file."""
    if record.get("status") == FAILED:
        yield failed_item(record)
        return
    frames = record["frames"]
    links = _links(record.get("outputs") or {}, len(frames))
    for place, frame in enumerate(frames):
        item = _frame_item(frame, record["image"], several=len(frames) > 1)
        blank = bool(frame.get("blank"))
        item["tags"] = [LESION if frame["lesions"] else CLEAR] + [BLANK] * blank
        other = record.get("other_modality")
        pill = "blank image" if blank else f"no ultrasound ({other})" if other else _count_text(len(frame["lesions"]))
        item |= {"pill": shown_name(pill), "alert": blank or bool(other)}
        item["links"] = links[place]
        yield item


def failed_item(record: dict[str, Any]) -> Item:
    """The item of a file that could not be segmented: its name and the reason."""
    return {
        "name": shown_name(record["image"]),
        "reason": shown_name(str(record.get("reason") or "no reason was recorded")),
        "tags": [FAILED],
        "values": {},
    }


def evaluation_item(card: dict[str, Any]) -> Item:
    """The item of one scored frame: as for `phnet infer`, with the annotation's outlines, Dice and class."""
    dice = None if missing(card.get("dice")) else float(card["dice"])
    has_truth = dice is not None
    missed = bool(card.get("missed")) and has_truth
    counted = card.get("false_lesions")
    false_lesions = int(counted) if counted is not None else 0 if has_truth else len(card["lesions"])
    item = _frame_item(card, card["image"])
    item["values"] |= {
        "dice": dice,
        "iou": None if missing(card.get("iou")) else float(card["iou"]),
        "class": None if card.get("class") is None else shown_name(str(card["class"])),
        "truth_px": card.get("truth_pixels"),
        "pixels": card["height"] * card["width"],
    }
    item["tags"] = [LESION if has_truth else CLEAR] + [MISSED] * missed + [FALSE_ALARM] * (false_lesions > 0)
    item["truth"] = outline_path(card.get("truth_contours") or [], card["height"], card["width"])
    found = item["values"]["lesions"]
    without = "no lesion" if not found else "false lesion" if found == 1 else "false lesions"
    item["pill"] = without if not has_truth else "missed" if missed else f"Dice {number_text(dice, 3)}"
    item["alert"] = missed or (not has_truth and found > 0)
    item["links"] = _links(card.get("outputs") or {}, 1)[0]
    return item


def _frame_item(frame: dict[str, Any], image: str, *, several: bool = False) -> Item:
    lesions = frame["lesions"]
    height, width = frame["height"], frame["width"]
    small = thumbnail_size(height, width)
    known = frame.get("spacing_mm") is not None
    return {
        "name": shown_name(image),
        "frame": frame["frame"] if several else None,
        "values": {
            "frame": frame["frame"] if several else None,
            "lesions": len(lesions),
            "area_px": frame["lesion_pixels"],
            "area_mm2": sum(lesion["area_mm2"] or 0 for lesion in lesions) if known else None,
            "confidence": _mean_confidence(lesions),
            "uncertainty": None if missing(frame["uncertainty"]) else float(frame["uncertainty"]),
        },
        "size": f"{width} × {height}",
        "thumbnail": frame["thumbnail"],
        "thumbnail_size": [small[1], small[0]],
        "view_box": f"0 0 {small[1] * OUTLINE_SCALE} {small[0] * OUTLINE_SCALE}",
        "heat": hardness_png(base64.b64decode(frame["hardness"]), frame["grid"]),
        "prediction": outline_path(frame["contours"], height, width),
        "truth": "",
        "lesions": [_lesion_texts(lesion) for lesion in lesions],
    }


def _mean_confidence(lesions: Sequence[dict[str, Any]]) -> float | None:
    """Mean over the pixels of all lesions; None without any."""
    total = sum(lesion["area_px"] for lesion in lesions)
    return sum(lesion["area_px"] * lesion["mean_confidence"] for lesion in lesions) / total if total else None


def _lesion_texts(lesion: dict[str, Any]) -> dict[str, str]:
    """Cells of the lesion's row on its card, in mm where the spacing is known."""
    if lesion.get("area_mm2") is not None:
        area = f"{number_text(lesion['area_mm2'], 1)} mm²"
        axes = f"{number_text(lesion['long_axis_mm'], 1)} × {number_text(lesion['short_axis_mm'], 1)} mm"
    else:
        area = f"{number_text(lesion['area_px'])} px"
        axes = f"{number_text(lesion['long_axis_px'])} × {number_text(lesion['short_axis_px'])} px"
    return {
        "number": str(lesion["number"]),
        "area": area,
        "axes": axes,
        "confidence": number_text(lesion["mean_confidence"], 3),
        "boundary": number_text(lesion["boundary_hardness"], 3),
    }


def _count_text(lesions: int) -> str:
    return "no lesion" if not lesions else "1 lesion" if lesions == 1 else f"{lesions} lesions"


def outline_path(contours: Sequence[Sequence[Sequence[float]]], height: int, width: int) -> str:
    """Path data of closed outlines, for an SVG of `OUTLINE_SCALE` steps a thumbnail pixel."""
    small = thumbnail_size(height, width)
    down, across = small[0] * OUTLINE_SCALE, small[1] * OUTLINE_SCALE
    return "".join(
        "M" + "L".join(f"{round(float(x) * across)} {round(float(y) * down)}" for x, y in contour) + "Z"
        for contour in contours
        if contour
    )


def _links(outputs: dict[str, Any], frames: int) -> list[list[dict[str, str]]]:
    """Links of each frame to its files, relative to the report.

    `frames/KEY/overlays/0003.jpg` belongs to the third frame, `masks/KEY.png` to all.
    """
    links: list[list[dict[str, str]]] = [[] for _ in range(frames)]
    for name in outputs:
        parts = PurePosixPath(name).parts
        own = parts[0] == "frames" and len(parts) > 3 and PurePosixPath(name).stem.isdecimal()
        kind = parts[-2] if own else parts[0]
        link = {"label": LINK_NAMES.get(kind, shown_name(kind)), "href": file_url(name)}
        for frame in range(frames):
            if not own or int(PurePosixPath(name).stem) == frame + 1:
                links[frame].append(link)
    return links


def file_url(name: str) -> str:
    """URL of a file relative to the page. `#`, `?`, `%`, spaces and bytes that are no UTF-8 survive.

    The leading `./` keeps a name such as `javascript:x` or `//host/x` from being read as anything but a file.
    """
    return "./" + quote(os.fsencode(name), safe="/")


def shown_name(name: str) -> str:
    """The name as UTF-8 can hold it: bytes that are none (Linux allows them in names) become replacement characters."""
    return name.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
