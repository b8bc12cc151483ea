"""Outlines of annotation files as mask files, which is what datalists name."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image

from phnet_monai.data.annotations import Annotation, draw_mask, idle_shapes
from phnet_monai.data.decode import DecodeError, read_image
from phnet_monai.data.records import shorten
from phnet_monai.files import atomic_writer


def draw_annotations(
    annotations: Mapping[str, Annotation],
    images: Mapping[str, Path],
    drawn: str | PathLike[str] | None,
    folder: Path,
    *,
    at_first: str | PathLike[str] | None = None,
) -> dict[str, Path]:
    """Draw each annotation as a mask of its image's size.

    Args:
        annotations: by case.
        images: the image of every case.
        drawn: folder for the masks (0 and 255): case `a/x` becomes `a/x.png` there.
        folder: where the images lie.
        at_first: draw there instead, while `drawn` must not change yet.

    Returns:
        mask file by case. A case whose image cannot be read is left out.

    Raises:
        ValueError: annotations are of another size than their image or cover no pixel of it (all are listed; nothing
            is drawn), or `drawn` is missing or among the images.
    """
    if not annotations:
        return {}
    if drawn is None:
        example = next(iter(annotations.values())).source
        raise ValueError(f"{example} is an annotation file: name a folder into which its mask can be drawn (drawn).")
    if Path(drawn).resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"the masks of the annotations would be drawn into {drawn}, among the images of {folder}, and be taken for "
            "images the next time. Choose another output folder."
        )
    sizes = {case: size for case in annotations if (size := _size_of(images[case])) is not None}
    wrong = misfits(annotations, images, sizes)
    if wrong:
        raise ValueError(f"{len(wrong)} annotations do not fit their image: {shorten(wrong)}. Mend or remove them.")
    _warn_of_untouched(annotations)
    _warn_of_bare(annotations)
    _warn_of_holes(annotations, sizes)
    target = Path(drawn if at_first is None else at_first)
    return {case: _draw(annotations[case], size, target / f"{case}.png") for case, size in sizes.items()}


def misfits(
    annotations: Mapping[str, Annotation],
    images: Mapping[str, Path],
    sizes: Mapping[str, tuple[int, int]] | None = None,
) -> list[str]:
    """What is wrong with annotations: another size than their image has, outlines of lesions that cover no pixel.

    Args:
        annotations, images: by case; sizes: (H, W) of the images, where known already. Images that cannot be read are
            passed over.
    """
    if sizes is None:
        sizes = {case: size for case in annotations if (size := _size_of(images[case])) is not None}
    found = []
    for case, size in sizes.items():
        entry = annotations[case]
        if entry.size not in (None, size):
            found.append(f"{entry.source} is for {_text(entry.size)}, {images[case]} has {_text(size)}")
        elif empty := idle_shapes(entry.shapes, size)[0]:
            numbers = ", ".join(map(str, empty))
            found.append(f"{entry.source}: outline {numbers} of {images[case].name} covers no pixel of it")
    return found


def _draw(annotation: Annotation, size: tuple[int, int], path: Path) -> Path:
    mask = Image.fromarray(draw_mask(annotation.shapes, size).astype(np.uint8) * 255)
    with atomic_writer(path) as stream:
        mask.save(stream, format="PNG")
    return path


def _size_of(image: Path) -> tuple[int, int] | None:
    """(H, W) as displayed; None for a file that cannot be read, which `prepare` reports together with all others."""
    try:
        height, width = read_image(image).shape
    except DecodeError:
        return None
    return height, width


def _text(size: tuple[int, int] | None) -> str:
    return "no size" if size is None else f"{size[1]} x {size[0]}"


def _warn_of_untouched(annotations: Mapping[str, Annotation]) -> None:
    names = [case for case, entry in annotations.items() if entry.untouched]
    if names:
        warnings.warn(
            f"{len(names)} images have the outlines that the model proposed, unchanged: {shorten(names)}. They count "
            "as outlined; remove the annotation files of those that nobody has checked.",
            UserWarning,
            stacklevel=4,
        )


def _warn_of_bare(annotations: Mapping[str, Annotation]) -> None:
    """COCO lists images that nobody has got to, and images without lesion, in the same way."""
    names = [case for case, entry in annotations.items() if entry.of_many and not entry.shapes and not entry.untouched]
    if names:
        warnings.warn(
            f"{len(names)} images are listed without any annotation: {shorten(names)}. They count as images without "
            "lesion; take those that nobody has looked at out of the file.",
            UserWarning,
            stacklevel=4,
        )


def _warn_of_holes(annotations: Mapping[str, Annotation], sizes: Mapping[str, tuple[int, int]]) -> None:
    names = [case for case, size in sizes.items() if idle_shapes(annotations[case].shapes, size)[1]]
    if names:
        warnings.warn(
            f"{len(names)} images have holes that take nothing away: {shorten(names)}. Shapes are painted in the order "
            "of the file: a hole comes after the lesion that it is in.",
            UserWarning,
            stacklevel=4,
        )
