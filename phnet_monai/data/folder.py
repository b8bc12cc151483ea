"""Any folder of images, with or without a folder of masks."""

from __future__ import annotations

from collections import defaultdict
from os import PathLike
from pathlib import Path

from phnet_monai.data.decode import IMAGE_SUFFIXES
from phnet_monai.data.records import Record, natural_key, shorten

MASK_ENDINGS = ("", "_mask", "_seg", "_label")
"""What may follow the image's stem in the name of its mask."""


def read_folder(images: str | PathLike[str], masks: str | PathLike[str] | None = None) -> list[Record]:
    """Pair the images of a folder with masks of the same name.

    Subfolders are kept: `a/x.png` belongs to `a/x.png`, `a/x_mask.tif`, `a/x_seg.png` or `a/x_label.png` below `masks`.

    Args:
        images: folder of images; where `masks` is not given and it has the subfolders `images/` and `masks/`, these.
        masks: folder of masks; without it nobody has outlined the images.

    Returns:
        records in natural order; `case_id` is the path below `images` without suffix, group and class are unknown.
        Images without a mask are unlabeled records.

    Raises:
        FileNotFoundError: a folder is missing, or holds no image.
        ValueError: two images with one stem, two masks for one image, or masks without image; all are listed.
    """
    images, masks = find_folders(images, masks)
    pictures = _by_case(images)
    doubles = [f"{files[0].name} and {files[1].name}" for files in pictures.values() if len(files) > 1]
    if doubles:
        raise ValueError(
            f"{images} has images of the same name and different suffix: {shorten(doubles)}. Keep one of each."
        )
    outlines = {} if masks is None else _match_masks(images, masks, set(pictures))
    return [
        Record(image=files[0], masks=tuple(outlines.get(case, ())), case_id=case)
        for case, files in sorted(pictures.items(), key=lambda item: natural_key(item[0]))
    ]


def find_folders(images: str | PathLike[str], masks: str | PathLike[str] | None = None) -> tuple[Path, Path | None]:
    """The folders that `read_folder` reads. Raises FileNotFoundError where one is missing."""
    images, masks = Path(images), None if masks is None else Path(masks)
    for folder in (images, masks):
        if folder is not None and not folder.is_dir():
            raise FileNotFoundError(f"{folder} is not a folder. Give a folder of images.")
    if masks is None and (images / "images").is_dir() and (images / "masks").is_dir():
        return images / "images", images / "masks"
    return images, masks


def _by_case(folder: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = defaultdict(list)
    for file in sorted(folder.rglob("*")):
        relative = file.relative_to(folder)
        hidden = any(piece.startswith(".") for piece in relative.parts)
        if file.suffix.lower() in IMAGE_SUFFIXES and not hidden and file.is_file():
            found[relative.with_suffix("").as_posix()].append(file)
    if not found:
        raise FileNotFoundError(f"{folder} holds no image. Expected files ending in {', '.join(IMAGE_SUFFIXES)}.")
    return found


def _match_masks(images: Path, masks: Path, cases: set[str]) -> dict[str, list[Path]]:
    outlines: dict[str, list[Path]] = defaultdict(list)
    orphans = []
    for name, files in _by_case(masks).items():
        # the exact name wins: `x_mask` may be the name of an image itself
        owner = next((_strip(name, end) for end in MASK_ENDINGS if _strip(name, end) in cases), None)
        if owner is None:
            orphans += [file.name for file in files]
        else:
            outlines[owner] += files
    double = [
        f"{case} ({', '.join(file.name for file in files)})" for case, files in outlines.items() if len(files) > 1
    ]
    problems = []
    if orphans:
        problems.append(f"{len(orphans)} masks have no image in {images}: {shorten(orphans)}")
    if double:
        problems.append(f"{len(double)} images have several masks: {shorten(double)}")
    if problems:
        raise ValueError(
            f"{masks}: {'; '.join(problems)}. One mask per image, with the image's name or that followed by "
            f"{', '.join(MASK_ENDINGS[1:])}."
        )
    return outlines


def _strip(name: str, ending: str) -> str | None:
    return name[: len(name) - len(ending)] if name.endswith(ending) else None
