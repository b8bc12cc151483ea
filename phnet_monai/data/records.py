"""One image of a dataset, as the layout readers hand it on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Record:
    """One image, its masks and what is known of it.

    Attributes:
        image: path of the image file.
        masks: paths of its mask files; several masks mean their union, none means that nobody outlined the image.
            An image without a lesion has a mask that is empty, not no mask.
        case_id: name of the image, unique within its dataset.
        group_id: images with the same group (one patient, or near-duplicates) must stay on one side of a split;
            None where nothing is known.
        class_name: for example "benign"; None where nothing is known.
        details: what else the dataset tells (scanner, BI-RADS ...); copied into the datalist, not used in training.
    """

    image: Path
    masks: tuple[Path, ...]
    case_id: str
    group_id: str | None = None
    class_name: str | None = None
    details: Mapping[str, str] = field(default_factory=dict, hash=False)


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key under which "benign (2)" comes before "benign (10)"."""
    pieces = re.findall(r"\d+|\D+", text)
    return tuple((0, int(piece), piece) if piece.isdecimal() else (1, 0, piece) for piece in pieces)


def shorten(names: list[str], limit: int = 5) -> str:
    """First few names of a list for an error message, and how many more there are."""
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
