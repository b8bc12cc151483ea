"""Any folder of images, with or without masks or annotation files."""

from __future__ import annotations

import os
import posixpath
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path, PurePosixPath

from phnet_monai.data.annotations import ANNOTATION_SUFFIX, Annotation, read_annotations
from phnet_monai.data.decode import IMAGE_SUFFIXES
from phnet_monai.data.drawn_masks import draw_annotations
from phnet_monai.data.mask_names import MASK_ENDINGS, image_of_mask
from phnet_monai.data.records import Record, natural_key, shorten
from phnet_monai.files import files_below

COCO_FILE, COCO_FOLDER = "annotations.json", "annotations"
"""Where COCO's outlines lie beside the folder `images/`."""


def read_folder(
    images: str | PathLike[str],
    masks: str | PathLike[str] | None = None,
    *,
    drawn: str | PathLike[str] | None = None,
    drawn_at_first: str | PathLike[str] | None = None,
) -> list[Record]:
    """Pair the images of a folder with masks, or with outlines of an annotation tool.

    Subfolders are kept: `a/x.png` belongs to `a/x.png`, `a/x_mask.tif`, `a/x_seg.png` or `a/x_label.png` below `masks`,
    to labelme's `a/x.json` there or beside it, or to the entry `a/x.png` of a COCO file. Without a folder of masks
    those beside their images count, `a/x_mask.png`, `a/x_mask_1.png` ... (their union). Outlines are drawn into masks
    (`annotations.draw_mask`). An annotation without outlines is an image without lesion; an image that no file speaks
    of is unlabeled.

    Args:
        images: folder of images; where `masks` is not given, masks and annotation files beside the images count, and
            if it has the subfolder `images/` besides `masks/`, `annotations/` or `annotations.json`, then these.
        masks: folder of masks or annotation files, or a COCO file; then nothing else counts.
        drawn: folder into which outlines are drawn as masks, `a/x.png`; needed where there are annotation files.
        drawn_at_first: draw them there, since `drawn` must not change yet; the caller moves them.

    Returns:
        records in natural order; `case_id` is the path below `images` without suffix, group and class are unknown.
        Images without a mask are unlabeled records.

    Raises:
        FileNotFoundError: a folder is missing, or holds no image.
        PermissionError: a folder may not be looked into: without its images the datalist would look complete.
        ValueError: two images with one stem, two masks for one image, masks or annotations without image, of another
            size than their image, or that cannot be read; all are listed.
    """
    images, sources = find_sources(images, masks)
    pictures = pictures_by_case(images, sources)
    if not pictures:
        raise FileNotFoundError(f"{images} holds no image. Expected files ending in {', '.join(IMAGE_SUFFIXES)}.")
    doubles = [f"{files[0].name} and {files[1].name}" for files in pictures.values() if len(files) > 1]
    if doubles:
        raise ValueError(
            f"{images} has images of the same name and different suffix: {shorten(doubles)}. Keep one of each."
        )
    outlines = _match(images, sources, set(pictures), explicit=masks is not None)
    paths = {case: files[0] for case, files in pictures.items()}
    drawings = draw_annotations(outlines.annotations, paths, drawn, images, at_first=drawn_at_first)
    found = outlines.masks | {case: (path,) for case, path in drawings.items()}
    return [
        Record(image=image, masks=found.get(case, ()), case_id=case)
        for case, image in sorted(paths.items(), key=lambda item: natural_key(item[0]))
    ]


def find_sources(images: str | PathLike[str], masks: str | PathLike[str] | None = None) -> tuple[Path, list[Path]]:
    """The folder of images, and the folders and files of masks that `read_folder` reads.

    Raises:
        FileNotFoundError: one of those given is missing.
    """
    images, masks = Path(images), None if masks is None else Path(masks)
    if not images.is_dir():
        raise FileNotFoundError(f"{images} is not a folder. Give a folder of images.")
    if masks is not None:
        if not masks.is_dir() and not (masks.is_file() and masks.suffix.lower() == ANNOTATION_SUFFIX):
            raise FileNotFoundError(f"{masks} is not a folder. Give a folder of masks or annotations, or a COCO file.")
        return images, [masks]
    inner = images / "images"
    beside = [images / "masks", images / COCO_FOLDER, images / COCO_FILE]
    present = [path for path in beside if path.is_dir() or (path.name == COCO_FILE and path.is_file())]
    return (inner, [*present, inner]) if inner.is_dir() and present else (images, [images])


@dataclass
class Outlines:
    """What was found for each case, and what does not fit.

    Attributes:
        masks, annotations: by case; several masks of an image, which lie beside it, mean their union.
        files: names of all masks and annotations of a case (those that make a union as one); more are too many.
        orphans: names without an image.
        broken: what is wrong with files that cannot be read.
    """

    masks: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    annotations: dict[str, Annotation] = field(default_factory=dict)
    files: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    orphans: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return sum(map(len, self.files.values())) + len(self.orphans) + len(self.broken)


def collect_outlines(images: Path, sources: list[Path], cases: set[str], *, explicit: bool) -> Outlines:
    """Match masks and annotations with the images they belong to; what does not fit is listed, not refused.

    Args:
        images, sources: as `find_sources` gives them.
        cases: paths of the images below `images`, without suffix.
        explicit: the user named the folder of masks, so that it counts even if it is that of the images.

    Raises:
        FileNotFoundError: one of the sources holds neither masks nor annotations.
    """
    found = Outlines()
    for source in sources:
        among_images = source.resolve() == images.resolve()
        before = found.count
        if among_images and len(sources) == 1:
            _add_masks_beside(found, images, cases)
        if among_images and not explicit:
            _add_annotations(found, images, source, cases, demanded=False)
            continue
        if not among_images:
            _add_masks(found, source, cases)
        _add_annotations(found, images, source, cases, demanded=True)
        if found.count == before:
            raise FileNotFoundError(
                f"{source} holds no image and no annotation. Expected masks ending in {', '.join(IMAGE_SUFFIXES)}, or "
                "JSON files of labelme or COCO."
            )
    return found


def _match(images: Path, sources: list[Path], cases: set[str], *, explicit: bool) -> Outlines:
    found = collect_outlines(images, sources, cases, explicit=explicit)
    where = ", ".join(map(str, sources))
    double = [f"{case} ({', '.join(files)})" for case, files in found.files.items() if len(files) > 1]
    problems = list(found.broken)
    if found.orphans:
        problems.append(f"{len(found.orphans)} masks have no image in {images}: {shorten(found.orphans)}")
    if double:
        problems.append(f"{len(double)} images have several masks: {shorten(double)}")
    if problems:
        raise ValueError(
            f"{where}: {'; '.join(problems)}. One mask or annotation per image, with the image's name or that followed "
            f"by {', '.join(MASK_ENDINGS[1:])}."
        )
    return found


def _add_masks(found: Outlines, source: Path, cases: set[str]) -> None:
    for name, files in images_by_case(source).items() if source.is_dir() else ():
        owner = _owner(name, cases)
        if owner is None:
            found.orphans += [file.name for file in files]
        else:
            found.masks[owner] = (files[0],)
            found.files[owner] += [file.name for file in files]


def _add_masks_beside(found: Outlines, images: Path, cases: set[str]) -> None:
    for case, files in masks_beside(images_by_case(images)).items():
        if case in cases:
            found.masks[case] = tuple(files)
            found.files[case].append(", ".join(file.name for file in files))


def _add_annotations(found: Outlines, images: Path, source: Path, cases: set[str], *, demanded: bool) -> None:
    """Add labelme's and COCO's outlines. Other JSON files are an error only where annotations are `demanded`."""
    short = _unique_names(cases)
    folders, names_of_cases = ({part(case) for case in cases} for part in (posixpath.dirname, posixpath.basename))
    for file in _annotation_files(source):
        try:
            entries = read_annotations(file)
        except ValueError as error:
            found.broken.append(str(error))
            continue
        if entries is None:
            if demanded:
                found.broken.append(f"{file} is neither of labelme nor of COCO")
            continue
        folder = source if source.is_dir() else source.parent
        own_name = file.relative_to(folder).with_suffix("").as_posix()
        for entry in entries:
            name = _without_ending(entry.image, names_of_cases)
            names = _names(entry, own_name, name, among_images=posixpath.dirname(own_name) in folders)
            told = _case_below(images, file.parent / name) if name else None
            owners = [case for name in (*names, told) if name and (case := _owner(name, cases)) is not None]
            others = {name for name in (names[-2], told) if name in cases} - set(owners[:1])
            if others and not entry.of_many:
                found.broken.append(
                    f"{file} lies beside {owners[0]} and says that it is of {entry.image}, and both images are there"
                )
                continue
            # without a folder of its own, and only then, may a name be that of an image in any folder
            written = names[-1]
            bare = posixpath.dirname(written) in ("", images.name) and (entry.of_many or "/" not in own_name)
            owner = owners[0] if owners else short.get(posixpath.basename(written)) if bare else None
            if owner is None:
                found.orphans.append(entry.image or file.name)
            else:
                found.annotations[owner] = entry
                found.files[owner].append(file.name)


def _names(entry: Annotation, own_name: str, written: str, *, among_images: bool) -> tuple[str, ...]:
    """What the image of an annotation may be called, likeliest first; the last two are the name that is written in it,
    beside the annotation's file and below the folder of images.

    Args:
        own_name: of the annotation's file, below its folder and without ending.
        written: in it, without ending.
        among_images: images lie in the same subfolder.
    """
    folder = posixpath.dirname(own_name)
    beside = posixpath.normpath(posixpath.join(folder, written)) if written else ""
    if not entry.of_many:
        return own_name, beside, written
    # of a file beside images a mere name is that of one of them
    return (beside, beside if folder and among_images and "/" not in written else written)


def _without_ending(name: str, known: set[str]) -> str:
    """Name of an image, with folders, as cases have it; what is behind a point is a part of it if `known` has it so."""
    path = PurePosixPath(name)
    whole = not name or (path.suffix.lower() not in IMAGE_SUFFIXES and path.name in known)
    return name if whole else path.with_suffix("").as_posix()


def _case_below(images: Path, file: Path) -> str | None:
    """The path below `images` of a file, which may get there by another way (`labels/../images/x`)."""
    place, root = (Path(os.path.normpath(path.absolute())) for path in (file, images))
    return place.relative_to(root).as_posix() if place.is_relative_to(root) else None


def _annotation_files(source: Path) -> Iterator[Path]:
    if source.is_file():
        yield source
        return
    for file in files_below(source):
        if file.suffix.lower() == ANNOTATION_SUFFIX:
            yield file


def _unique_names(cases: set[str]) -> dict[str, str]:
    """Last part of a case -> the case, where it tells them apart: annotation tools tend to forget folders."""
    by_name: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        by_name[PurePosixPath(case).name].append(case)
    return {name: owners[0] for name, owners in by_name.items() if len(owners) == 1}


def pictures_by_case(images: Path, sources: Sequence[Path]) -> dict[str, list[Path]]:
    """`images_by_case` without masks, which may lie beside their images or in a folder below that of the images."""
    inner = [source.resolve() for source in sources if source.is_dir() and source.resolve() != images.resolve()]
    found = images_by_case(images)
    if not inner and all(source.is_dir() for source in sources):
        masks = {mask for files in masks_beside(found).values() for mask in files}
        found = {case: [file for file in files if file not in masks] for case, files in found.items()}
        return {case: files for case, files in found.items() if files}
    if not any(folder.is_relative_to(images.resolve()) for folder in inner):
        return found
    kept = {
        case: [file for file in files if not any(file.resolve().is_relative_to(folder) for folder in inner)]
        for case, files in found.items()
    }
    return {case: files for case, files in kept.items() if files}


def images_by_case(folder: Path) -> dict[str, list[Path]]:
    """Image files below a folder by their path without suffix; names that begin with a dot are passed over."""
    found: dict[str, list[Path]] = defaultdict(list)
    for file in files_below(folder):
        if file.suffix.lower() in IMAGE_SUFFIXES:
            found[file.relative_to(folder).with_suffix("").as_posix()].append(file)
    return found


def masks_beside(pictures: Mapping[str, Sequence[Path]]) -> dict[str, list[Path]]:
    """Masks among the pictures of `images_by_case` that lie beside their images, by the image's path without suffix."""
    found: dict[str, list[Path]] = defaultdict(list)
    for name, files in pictures.items():
        image = image_of_mask(Path(name))
        if image is not None and image.as_posix() in pictures:
            found[image.as_posix()] += files
    return found


def _owner(name: str, cases: set[str]) -> str | None:
    """The image that a mask of this name belongs to."""
    # the exact name wins: `x_mask` may be the name of an image itself
    return next((case for end in MASK_ENDINGS if (case := _strip(name, end)) in cases), None)


def _strip(name: str, ending: str) -> str | None:
    return name[: len(name) - len(ending)] if name.endswith(ending) else None
