"""Writes a page: one HTML file that asks nothing of any network, its cards read back from a scratch file one by one."""

from __future__ import annotations

import base64
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from phnet_monai import __version__
from phnet_monai.files import atomic_writer
from phnet_monai.inference.report_colours import legend_stops
from phnet_monai.inference.report_items import DASH, Column, Item, missing, number_text, shown_name

TEMPLATES = Path(__file__).parent / "templates"
_LIGHT = ("name", "frame", "tags", "values", "reason")
"""Parts of an item that stay in memory: the table's. Pictures wait in the scratch file."""


class Tile(NamedTuple):
    """A figure of the summary; `note` stands below it, `alert` colours it."""

    label: str
    value: str
    note: str = ""
    alert: bool = False


class Choice(NamedTuple):
    """A filter (tag of items; empty: all) or a layer of the pictures, with what its button says."""

    key: str
    label: str
    pressed: bool = False


class Order(NamedTuple):
    """A way to sort, by a column, as the list of choices names it."""

    column: str
    descending: bool
    label: str


class ItemStore:
    """Items in a scratch file, with what the table needs of them in memory.

    Used as a context; the scratch file is gone at its end. After `number`, `rows` have their `number`, from 1.
    """

    def __init__(self) -> None:
        self.rows: list[Item] = []

    def __enter__(self) -> ItemStore:
        self._file = tempfile.TemporaryFile()
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, item: Item) -> None:
        place = self._file.tell()
        self._file.write(json.dumps(item).encode("ascii"))
        light = {name: item[name] for name in _LIGHT if name in item}
        self.rows.append(light | {"place": place, "bytes": self._file.tell() - place})

    def number(self, key: Callable[[Item], Any]) -> None:
        """Sort the rows by `key` and number them."""
        self.rows.sort(key=key)
        for number, row in enumerate(self.rows, start=1):
            row["number"] = number

    def cards(self) -> Iterator[Item]:
        """The whole items in the order of the rows, each read when it is asked for; failed files have no card."""
        for row in self.rows:
            if "reason" not in row:
                self._file.seek(row["place"])
                yield json.loads(self._file.read(row["bytes"])) | {"number": row["number"]}


def write_page(path: str | Path, store: ItemStore, *, columns: Sequence[Column], page: dict[str, Any]) -> None:
    """Render the page to `path`, which appears whole or not at all.

    Args:
        store: numbered items.
        columns: of the table, the first being the name.
        page: the rest of what `templates/page.html` shows.
    """
    environment, policy, style, script = _assets()
    chunks = environment.get_template("page.html").generate(
        policy=policy,
        style=style,
        script=script,
        version=__version__,
        columns=columns,
        rows=store.rows,
        cards=store.cards(),
        stops=legend_stops(),
        **page,
    )
    with atomic_writer(path) as stream:
        for chunk in chunks:
            stream.write(chunk.encode("utf-8"))


@cache
def _assets() -> tuple[Environment, str, Markup, Markup]:
    """Templates, the page's Content-Security-Policy, its style sheet and its script.

    The policy forbids every request and every script or style but these two, known by their hashes: had a file
    name broken out of its place, the browser would still not run it.
    """
    environment = template_environment()
    environment.globals |= {"cell": cell_text, "keys": sort_keys}
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return environment, content_policy(style, script), Markup(style), Markup(script)


def template_environment() -> Environment:
    """Where the templates come from, and what every one of them may call."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"breakable": breakable, "number_text": number_text}
    return environment


def content_policy(style: str, script: str | None = None) -> str:
    """Content-Security-Policy of a page with this style sheet and this script, or none, and nothing from elsewhere."""
    return "; ".join(
        (
            "default-src 'none'",
            "img-src data:",
            f"style-src '{_hash(style)}'",
            f"script-src '{_hash(script)}'" if script is not None else "script-src 'none'",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def breakable(name: str) -> Markup:
    """The name, escaped, with places after each slash where a line may end."""
    return Markup("/<wbr>").join(escape(part) for part in name.split("/"))


def cell_text(column: Column, row: Item) -> str:
    """What the table shows of a row in a column."""
    return column.text(row["values"].get(column.key))


def sort_keys(columns: Iterable[Column], row: Item) -> str:
    """Numbers of a row to sort by, `-` where there is none; text columns are sorted by what they show."""
    values = (None if column.digits is None else row["values"].get(column.key) for column in columns)
    return " ".join("-" if missing(value) else f"{value:.6g}" for value in values)


def settings_rows(settings: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """(name, value) of each setting as text; nested ones as `outer.inner`."""
    rows: list[tuple[str, str]] = []
    for name, value in settings.items():
        label = shown_name(f"{prefix}{name}")
        if isinstance(value, dict):
            rows += settings_rows(value, f"{label}.")
        else:
            rows.append((label, _setting_text(value)))
    return rows


def _setting_text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_setting_text(part) for part in value) or DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    return DASH if missing(value) else shown_name(str(value))


def time_of(created: datetime | None) -> dict[str, str]:
    """The time for people and for machines; now if it is None."""
    moment = (created or datetime.now()).astimezone()
    return {"text": f"{moment:%Y-%m-%d %H:%M}", "machine": moment.isoformat(timespec="seconds")}
