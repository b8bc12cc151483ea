"""Contact sheets for judging by eye how far the findings of `phnet audit` can be trusted.

    python scripts/audit_sheets.py BUSI OUT

writes to OUT, each with N pairs or images (default 24):

    above.png      pairs that count as near-duplicates, beginning with the one nearest to its threshold
    below.png      pairs that just do not, beginning with the one nearest to its threshold
    sample.png     pairs drawn at random among all that count
    marks.png      images drawn at random among those with burned-in marks, the marks boxed
    weakest.png    images with marks, beginning with the smallest total area of marks
    unmarked.png   images drawn at random among those without

What was seen on BUSI and BUS-BRA stands in `docs/audit.md`. The sheets show the images: not for publication.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from phnet_monai.data import Audit, Finding, audit

WIDTH, HEIGHT, CAPTION = 330, 250, 15
Entry = tuple[Sequence[str], str, Sequence[Sequence[int]]]
"""Images beside each other, caption, boxes (top, left, bottom, right) in the first of them."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="data set in its original layout, or a datalist")
    parser.add_argument("out", type=Path, help="folder of the sheets")
    parser.add_argument("--count", type=int, default=24, help="pairs or images a sheet")
    parser.add_argument("--seed", type=int, default=0, help="of the random samples")
    options = parser.parse_args(argv)
    if options.count < 1:
        parser.error("--count must be at least 1")
    found = audit(options.source, near_misses=True)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, entries in sheets(found, options.count, np.random.default_rng(options.seed)).items():
        draw_sheet(Path(found.root), entries, options.out / f"{name}.png")
        print(f"{options.out / name}.png: {len(entries)}")


def sheets(found: Audit, count: int, rng: np.random.Generator) -> dict[str, list[Entry]]:
    """The entries of each sheet."""
    pairs = unique_pairs(found)
    marks = found.of("marks")
    marked = {finding.files[0] for finding in marks}
    unmarked = [name for name in all_images(found) if name not in marked]
    return {
        "above": [pair_entry(pair) for pair in sorted(pairs, key=lambda pair: pair["similarity"])[:count]],
        "below": [(f.files, f"{f.data['similarity']:.3f} {f.data['how']}", ()) for f in found.near_misses[:count]],
        "sample": [pair_entry(pair) for pair in drawn(pairs, count, rng)],
        "marks": [mark_entry(finding) for finding in drawn(marks, count, rng)],
        "weakest": [mark_entry(finding) for finding in sorted(marks, key=marked_area)[:count]],
        "unmarked": [((name,), "", ()) for name in drawn(unmarked, count, rng)],
    }


def unique_pairs(found: Audit) -> list[dict[str, Any]]:
    """All pairs of near-duplicates, each once: a group may be among the findings of two kinds."""
    kinds = ("leak", "leak-allowed", "duplicates-across-classes", "duplicates")
    pairs = {tuple(pair["files"]): pair for kind in kinds for f in found.of(kind) for pair in f.data.get("pairs", ())}
    return list(pairs.values())


def all_images(found: Audit) -> list[str]:
    from phnet_monai.data.audit_listing import list_dataset

    listing = list_dataset(found.source, layout=found.layout)
    return [listing.shown(item.image) for item in listing.items]


def drawn(entries: Sequence[Any], count: int, rng: np.random.Generator) -> list[Any]:
    return [entries[place] for place in rng.permutation(len(entries))[:count]]


def pair_entry(pair: dict[str, Any]) -> Entry:
    return pair["files"], f"{pair['similarity']:.3f} {pair['how']}", ()


def mark_entry(finding: Finding) -> Entry:
    return finding.files, finding.text, finding.data["boxes"]


def marked_area(finding: Finding) -> int:
    return sum((bottom - top) * (right - left) for top, left, bottom, right in finding.data["boxes"])


def draw_sheet(root: Path, entries: Sequence[Entry], path: Path) -> None:
    """Write the entries as a grid, about square."""
    across = max((len(files) for files, _, _ in entries), default=1)
    columns = max(1, 6 // across)
    rows = -(-max(1, len(entries)) // columns)
    sheet = Image.new("RGB", (columns * across * WIDTH, rows * HEIGHT))
    pen = ImageDraw.Draw(sheet)
    for place, (files, caption, boxes) in enumerate(entries):
        left, top = place % columns * across * WIDTH, place // columns * HEIGHT
        pen.text((left, top), f"{' | '.join(Path(f).stem for f in files)}  {caption}", fill="yellow")
        for number, name in enumerate(files):
            sheet.paste(small(root / name, boxes if not number else ()), (left + number * WIDTH, top + CAPTION))
    sheet.save(path)


def small(path: Path, boxes: Sequence[Sequence[int]]) -> Image.Image:
    with Image.open(path) as image:
        picture = image.convert("RGB")
    pen = ImageDraw.Draw(picture)
    for top, left, bottom, right in boxes:
        pen.rectangle((left - 2, top - 2, right + 2, bottom + 2), outline="red")
    picture.thumbnail((WIDTH - 6, HEIGHT - CAPTION - 4))
    return picture


if __name__ == "__main__":
    main()
