"""Which files of a folder are masks of others by their names: data sets are handed over as they are."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

MASK_STEM = re.compile(r"^(?P<image>.+)_mask(_\d+)?$")
"""Stem of a mask beside its image, as in BUSI: that of the image and `_mask`, or `_mask_1` and so on."""

MASK_ENDINGS = ("", "_mask", "_seg", "_label")
"""What may follow the image's stem in the name of its mask in another folder."""

IMAGES, MASKS = "images", "masks"
"""Names of the folders that `phnet prepare folder` reads side by side."""


def without_masks(scans: Sequence[Path], stems: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Scans, and those among them that are masks of others, both in the given order.

    A mask is `x_mask.png` or `x_mask_1.png` beside `x.png`, as in BUSI, and `masks/x.png`, `masks/x_mask.png`,
    `masks/x_seg.png` or `masks/x_label.png` where `images/x.png` is, too, with any endings. Without the image it is a
    scan like others.

    Args:
        scans: relative paths; stems: their names without the ending that makes each a scan.
    """
    known = {scan.with_name(stem) for scan, stem in zip(scans, stems, strict=True)}
    masks = {scan for scan, stem in zip(scans, stems, strict=True) if _is_mask(scan.with_name(stem), known)}
    return [scan for scan in scans if scan not in masks], [scan for scan in scans if scan in masks]


def image_of_mask(path: Path) -> Path | None:
    """The image beside which a file would be a mask by its name, both without ending; None where it is no such name."""
    match = MASK_STEM.match(path.name)
    return path.with_name(match["image"]) if match else None


def _is_mask(path: Path, known: Collection[Path]) -> bool:
    if image_of_mask(path) in known:
        return True
    names = [path.name.removesuffix(ending) for ending in MASK_ENDINGS]
    above = path.parent.parts
    folders = [Path(*above[:n], IMAGES, *above[n + 1 :]) for n, part in enumerate(above) if part == MASKS]
    return any(folder / name in known for folder in folders for name in names if name)
