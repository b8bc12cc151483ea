"""`audit.html` of `phnet audit`: findings by kind, with the pictures that they are about. One file without a script."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment
from markupsafe import Markup

from phnet_monai import __version__
from phnet_monai.data import CHECKS, Audit, DecodeError, Finding, read_image
from phnet_monai.data.decode import read_colours
from phnet_monai.files import atomic_writer
from phnet_monai.inference.report_items import number_text, shown_name
from phnet_monai.inference.report_page import TEMPLATES, Tile, content_policy, template_environment, time_of
from phnet_monai.inference.thumbnail import jpeg_thumbnail, thumbnail_size

GROUPS = ("leak", "leak-allowed", "duplicates-across-classes", "duplicates")
PICTURED = (
    *("marks", "colour", "specks", "full-masks", "inverted-masks", "mask-values"),
    *("normal-with-lesion", "borders", "sizes", "blank"),
)
MOST_MEMBERS, MOST_CARDS = 6, 24
"""Pictures of a group, and cards of a kind (groups of near-duplicates are all shown)."""


class Section(NamedTuple):
    """Findings of one kind as the page shows them.

    Attributes:
        key, title, advice, weight: of the check; near misses have a key of their own.
        total: how many findings there are.
        cards: those shown with pictures, each made when it is asked for.
        lines: (names, text) of those shown as text.
    """

    key: str
    title: str
    advice: str
    weight: str
    total: int
    cards: Iterator[dict[str, Any]]
    lines: Sequence[tuple[str, str]]


def write_audit_page(path: str | Path, audit: Audit, *, pictures: bool = True, created: datetime | None = None) -> None:
    """Write the findings as one HTML page that asks nothing of any network.

    Args:
        path: the file, which appears whole or not at all.
        audit: the findings; their files are read again for the pictures, a card at a time.
        pictures: without, the page holds names and numbers only.
        created: time shown; None: now.

    Raises:
        OSError: the page cannot be written.
    """
    environment, policy, style = _assets()
    sections = [_section(audit, key, audit.of(key), pictures) for key in CHECKS if audit.of(key)]
    if audit.near_misses:
        sections.append(_near_misses(audit, pictures))
    chunks = environment.get_template("audit.html").generate(
        policy=policy,
        style=style,
        version=__version__,
        title=f"Audit of {shown_name(_name(audit))}",
        time=time_of(created),
        layout=audit.layout,
        tiles=_tiles(audit),
        counts=[(name, count) for name, count in {**audit.classes, **audit.parts}.items() if name != "-"],
        refused=audit.refused,
        sections=sections,
    )
    with atomic_writer(path) as stream:
        for chunk in chunks:
            stream.write(chunk.encode("utf-8"))


@cache
def _assets() -> tuple[Environment, str, Markup]:
    style = "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "audit.css"))
    return template_environment(), content_policy(style), Markup(style)


def _name(audit: Audit) -> str:
    """Of a dataset its folder, of a datalist the folder that it lies in: most are called `datalist.json`."""
    path = Path(audit.source).resolve()
    return path.parent.name if audit.layout == "datalist" else path.name


def _tiles(audit: Audit) -> list[Tile]:
    refused = sum(CHECKS[finding.check].weight == "refused" for finding in audit.findings)
    groups = {finding.files for name in ("duplicates-across-classes", "duplicates") for finding in audit.of(name)}
    # a leak may be a group of two classes, too
    leaks = {finding.files for name in ("leak", "leak-allowed") for finding in audit.of(name)}
    tiles = [
        Tile("Images", number_text(audit.images)),
        Tile("Masks", number_text(audit.masks)),
        Tile("Refused", number_text(refused), "by phnet prepare or train", alert=refused > 0),
        Tile("Near-duplicates", number_text(len(groups | leaks)), "groups"),
        Tile("In two classes", number_text(len(audit.of("duplicates-across-classes"))), "groups"),
        Tile("Burned-in marks", number_text(len(audit.of("marks"))), "images"),
    ]
    if audit.layout == "datalist":
        tiles.insert(3, Tile("On two sides", number_text(len(leaks)), "of the split", alert=bool(audit.of("leak"))))
    return tiles


def _section(audit: Audit, key: str, findings: Sequence[Finding], pictures: bool) -> Section:
    check = CHECKS[key]
    shown: Sequence[Finding] = ()
    if pictures and key in GROUPS:
        shown = findings
    elif pictures and key in PICTURED:
        shown = findings[:MOST_CARDS]
    lines = [_line(finding) for finding in findings[len(shown) :]]
    title = check.title[0].upper() + check.title[1:]
    cards = (_card(audit, finding) for finding in shown)
    return Section(key, title, check.advice, check.weight, len(findings), cards, lines)


def _near_misses(audit: Audit, pictures: bool) -> Section:
    cards = (_card(audit, finding) for finding in audit.near_misses) if pictures else iter(())
    lines = [] if pictures else [_line(finding) for finding in audit.near_misses]
    advice = "Pairs just below the threshold, most alike first: they do not count as near-duplicates."
    return Section("near-misses", "Near misses", advice, "note", len(audit.near_misses), cards, lines)


def _line(finding: Finding) -> tuple[str, str]:
    return shown_name(", ".join(finding.files)), shown_name(finding.text)


def _card(audit: Audit, finding: Finding) -> dict[str, Any]:
    labels = _labels(finding)
    members = [
        _picture(Path(audit.root) / name, shown_name(name), label, finding)
        for name, label in zip(finding.files[:MOST_MEMBERS], labels, strict=False)
    ]
    return {
        "text": shown_name(finding.text),
        "members": members,
        "more": [shown_name(name) for name in finding.files[MOST_MEMBERS:]],
    }


def _labels(finding: Finding) -> list[str]:
    """What stands below each picture besides its name: class and part."""
    empty = [None] * len(finding.files)
    pairs = zip(finding.data.get("classes") or empty, finding.data.get("parts") or empty, strict=True)
    return [", ".join(word for word in pair if word) for pair in pairs]


def _picture(path: Path, name: str, label: str, finding: Finding) -> dict[str, Any]:
    """A member of a card; without its picture where the file cannot be read (any more)."""
    member: dict[str, Any] = {"name": name, "label": label, "thumbnail": None, "size": (1, 1), "boxes": []}
    try:
        image = read_image(path)
        colours = read_colours(path) if finding.check == "colour" else None
    except (DecodeError, OSError):
        return member
    height, width = thumbnail_size(*image.shape)
    scale = width / image.shape[1]
    boxes = [[scale * edge for edge in box] for box in finding.data.get("boxes", ())]
    return member | {
        "thumbnail": jpeg_thumbnail(image if colours is None else colours),
        "size": (width, height),
        "boxes": [
            {
                "x": round(left - 2, 1),
                "y": round(top - 2, 1),
                "width": round(right - left + 4, 1),
                "height": round(bottom - top + 4, 1),
            }
            for top, left, bottom, right in boxes
        ],
    }
