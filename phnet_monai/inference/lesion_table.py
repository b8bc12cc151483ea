"""`lesions.csv` and `lesions.json`: one row per lesion of a run."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from phnet_monai.files import atomic_writer, csv_text
from phnet_monai.inference.measure import LESION_FIELDS, Lesion

CSV_FILE, JSON_FILE = "lesions.csv", "lesions.json"
COLUMNS: tuple[str, ...] = ("image", "frame", *LESION_FIELDS)
_DIGITS = 4


@dataclass(frozen=True)
class LesionRow:
    """One lesion and where it was found: the shown name of the image, and the frame, counted from 1."""

    image: str
    frame: int
    lesion: Lesion

    def values(self) -> list[Any]:
        """Values in the order of `COLUMNS`; lengths, areas and shares with four digits after the point."""
        numbers = (getattr(self.lesion, name) for name in LESION_FIELDS)
        return [self.image, self.frame, *(round(n, _DIGITS) if isinstance(n, float) else n for n in numbers)]


def write_lesion_tables(folder: str | Path, rows: Iterable[LesionRow]) -> None:
    """Write `lesions.csv` and `lesions.json` into `folder`, each completely or not at all.

    The rows are written as they come, so that a run of any length needs no memory for them. Both files have the
    columns `COLUMNS`, in pixels and, where the spacing is known, in mm.

    `lesions.csv`: UTF-8 with the mark by which Excel knows it, commas, CRLF; an empty field where the spacing is
    unknown. Excel takes text that begins with = + - or @ (a tab, or a line end) for a formula: such image names stand
    there with an apostrophe before them. `lesions.json`: a list of objects with the exact names, and null for unknown.

    Raises:
        OSError: the folder cannot be made, or a file cannot be written.
    """
    folder = Path(folder)
    with atomic_writer(folder / CSV_FILE) as table, atomic_writer(folder / JSON_FILE) as objects:
        table.write(b"\xef\xbb\xbf" + csv_line(COLUMNS))
        before = b"[\n"
        for row in rows:
            values = row.values()
            table.write(csv_line([csv_text(row.image), *values[1:]]))
            before = _write_object(objects, before, values)
        objects.write(b"[]\n" if before == b"[\n" else b"\n]\n")


def _write_object(stream: IO[bytes], before: bytes, values: list[Any]) -> bytes:
    stream.write(before + json.dumps(dict(zip(COLUMNS, values, strict=True)), ensure_ascii=True).encode("ascii"))
    return b",\n"


def csv_line(values: Iterable[Any]) -> bytes:
    """One line of a CSV file, quoted where needed. None is an empty field; bytes that are no UTF-8 become \\udcXX."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerow(values)
    return text.getvalue().encode("utf-8", errors="backslashreplace")
