"""`ranking.csv` and `ranking.json`: every image of a pool by rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from phnet_monai.files import atomic_writer, csv_text, write_json
from phnet_monai.inference.lesion_table import csv_line
from phnet_monai.inference.rank_inputs import SETTINGS_FILE, TABLE_FILE

_DIGITS = 6
"""Digits that count: disagreements may be small."""


@dataclass(frozen=True)
class RankedImage:
    """One line; what the numbers mean is said in `ranking`.

    Attributes:
        rank: from 1.
        image: name below the input.
        chosen: whether it is among those asked for.
        value: score times distance to the power of the diversity's weight: what the choice went by.
        score: mean place in the pool by uncertainty and disagreement, in (0, 1].
        uncertainty, disagreement: in [0, 1].
        distance: how different it is from `nearest`; 1 is as different as any two images. None: nothing was there yet.
        nearest: the image nearest to it of those outlined or chosen before it.
    """

    rank: int
    image: str
    chosen: bool
    value: float
    score: float
    uncertainty: float
    disagreement: float
    distance: float | None
    nearest: str | None


COLUMNS: tuple[str, ...] = tuple(column.name for column in fields(RankedImage))


def write_ranking(
    out: str | Path, images: Sequence[RankedImage], settings: dict[str, Any], failed: Sequence[tuple[str, str]]
) -> None:
    """Write both files into `out`, the table last, each completely or not at all.

    The table is made for spreadsheets as `lesions.csv` is (UTF-8 with a mark, names that look like formulas with an
    apostrophe); `chosen` is 1 or 0. `ranking.json` holds the exact names, settings, and the files that failed.
    """
    out = Path(out)
    rows = [[_shortened(value) for value in astuple(i)] for i in images]
    content = {
        "settings": settings,
        "failed": [{"image": name, "reason": reason} for name, reason in failed],
        "images": [dict(zip(COLUMNS, row, strict=True)) for row in rows],
    }
    write_json(out / SETTINGS_FILE, content)
    with atomic_writer(out / TABLE_FILE) as stream:
        stream.write(b"\xef\xbb\xbf" + csv_line(COLUMNS))
        for row in rows:
            stream.write(csv_line([_cell(value) for value in row]))


def _shortened(value: Any) -> Any:
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def _cell(value: Any) -> Any:
    return csv_text(value) if isinstance(value, str) else int(value) if isinstance(value, bool) else value
