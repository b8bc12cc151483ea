"""Tables that come with a data set."""

from __future__ import annotations

import csv
from pathlib import Path


def read_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Names of the columns and rows of a CSV file, values without surrounding blanks; missing ones are empty.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read as a table; the message names it.
    """
    try:
        # spreadsheet programs put a byte order mark before the first column's name
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns = list(reader.fieldnames or ())
            return columns, [{key: (row[key] or "").strip() for key in columns} for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as a table ({error}). Save it as CSV in UTF-8.") from error
