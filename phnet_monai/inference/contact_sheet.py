"""The chosen images on a few pages, with their ranks and the model's contours."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from phnet_monai.inference.overlay import draw_overlay
from phnet_monai.inference.writers import write_png

COLUMNS, ROWS = 5, 5
TILE = 256
_CAPTION, _GAP = 22, 8
_PAGE = re.compile(r"contact_sheet(_\d+)?\.png")
_GROUND, _INK = 24, 235


def write_contact_sheet(folder: str | Path, tiles: Iterable[tuple[str, np.ndarray, np.ndarray]]) -> list[Path]:
    """Write `contact_sheet.png` and, beyond 25 images, `contact_sheet_2.png` and so on; pages of an earlier sheet go.

    Args:
        tiles: (caption, image uint8 (H, W), mask bool (H, W)); taken page by page.

    Returns:
        the pages; none without a tile.
    """
    folder = Path(folder)
    pages: list[Path] = []
    waiting = iter(tiles)
    while page := list(islice(waiting, COLUMNS * ROWS)):
        number = len(pages) + 1
        path = folder / ("contact_sheet.png" if number == 1 else f"contact_sheet_{number}.png")
        write_png(path, _draw_page(page))
        pages.append(path)
    for old in folder.glob("contact_sheet*.png"):
        if old not in pages and _PAGE.fullmatch(old.name):
            old.unlink()
    return pages


def _draw_page(tiles: list[tuple[str, np.ndarray, np.ndarray]]) -> np.ndarray:
    columns = min(COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    size = (_GAP + columns * (TILE + _GAP), _GAP + rows * (TILE + _CAPTION + _GAP))
    page = Image.new("RGB", size, (_GROUND,) * 3)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(14)
    for (left, top), (caption, image, mask) in zip(_places(columns), tiles, strict=False):
        picture = _thumbnail(image, mask)
        page.paste(picture, (left + (TILE - picture.width) // 2, top + (TILE - picture.height) // 2))
        pen.text((left, top + TILE + 3), _cut(caption, pen, font), fill=(_INK,) * 3, font=font)
    return np.asarray(page)


def _places(columns: int) -> Iterator[tuple[int, int]]:
    number = 0
    while True:
        yield _GAP + number % columns * (TILE + _GAP), _GAP + number // columns * (TILE + _CAPTION + _GAP)
        number += 1


def _thumbnail(image: np.ndarray, mask: np.ndarray) -> Image.Image:
    """Shrunk (never enlarged) to the tile first, so that contours have the same width in all tiles."""
    scale = min(1.0, TILE / max(image.shape))
    size = tuple(max(1, round(side * scale)) for side in image.shape[::-1])
    small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
    covered = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)) > 127
    return Image.fromarray(draw_overlay(small, covered))


def _cut(caption: str, pen: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """The caption, without its middle where it is too long: letters without accents, which Pillow's own font lacks,
    line ends as spaces."""
    plain = unicodedata.normalize("NFKD", caption.encode("utf-8", "replace").decode("utf-8"))
    text = " ".join("".join(sign for sign in plain if not unicodedata.combining(sign)).split())
    if pen.textlength(text, font=font) <= TILE:
        return text
    kept = len(text)
    while kept and pen.textlength(_shortened(text, kept), font=font) > TILE:
        kept -= 1
    return _shortened(text, kept)


def _shortened(text: str, kept: int) -> str:
    """So many signs of a text, more of its end: file names begin alike."""
    head = kept // 3
    return f"{text[:head]}...{text[len(text) - kept + head :]}"
