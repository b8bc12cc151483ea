"""What lies in a dataset, listed without refusing anything: the audit tells of all flaws, not of the first."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

from phnet_monai.data.annotations import Annotation
from phnet_monai.data.busbra import IMAGES, MASKS, TABLE, find_busbra, image_stem, read_table
from phnet_monai.data.busi import LESION_CLASSES, NORMAL_CLASS, find_busi, pair_files
from phnet_monai.data.datalist import FILE_NAME, load_datalist, load_meta, mask_of
from phnet_monai.data.drawn_masks import misfits
from phnet_monai.data.folder import collect_outlines, find_sources, images_by_case, pictures_by_case
from phnet_monai.data.leaks import Leak, find_leaks, recorded_digests, why_allowed
from phnet_monai.data.records import natural_key
from phnet_monai.data.splits import PARTS

LAYOUTS = ("busi", "busbra", "folder", "datalist")


@dataclass(frozen=True)
class Item:
    """An image of a dataset and what belongs to it.

    Attributes:
        image: its file.
        masks: mask files; none where nobody outlined it, or where its outlines stand in an annotation file.
        class_name, group_id: as in `Record`.
        part: of the datalist; None for a dataset that is not divided.
    """

    image: Path
    masks: tuple[Path, ...] = ()
    class_name: str | None = None
    group_id: str | None = None
    part: str | None = None


@dataclass
class Listing:
    """All of a dataset.

    Attributes:
        source: the folder of the dataset, or the file of the datalist.
        root: file names are shown relative to it; the same but for datalists, where it is the folder of all images.
        layout: one of `LAYOUTS`.
        orphans: masks without an image.
        doubles: (image, names of its masks) where there should be one.
        annotated: outlines of annotation files, by image.
        mismatches: what else does not fit, in words.
        leaks: same files and groups on two sides of a datalist.
        leak_allowed: why the datalist may leak; None where it may not.
    """

    source: Path
    root: Path
    layout: str
    items: list[Item] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    doubles: list[tuple[Path, list[str]]] = field(default_factory=list)
    annotated: dict[Path, Annotation] = field(default_factory=dict)
    mismatches: list[str] = field(default_factory=list)
    leaks: list[Leak] = field(default_factory=list)
    leak_allowed: str | None = None

    def shown(self, path: Path) -> str:
        """Name of a file relative to the root, where it lies below it."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)


def find_layout(source: str | PathLike[str]) -> str:
    """Tell the layout of a dataset by what lies in its folder.

    Returns:
        one of `LAYOUTS`; "folder" where nothing tells.

    Raises:
        FileNotFoundError: `source` is neither a folder nor a JSON file.
    """
    source = Path(source)
    if source.is_file() and source.suffix.lower() == ".json":
        return "datalist"
    if not source.is_dir():
        raise FileNotFoundError(f"{source}: expected the folder of a dataset, or a datalist (JSON).")
    if (source / FILE_NAME).is_file():
        return "datalist"
    if any((root / TABLE).is_file() for root in (source, source / "BUSBRA")):
        return "busbra"
    if any((root / name).is_dir() for root in (source, source / "Dataset_BUSI_with_GT") for name in LESION_CLASSES):
        return "busi"
    return "folder"


def list_dataset(
    source: str | PathLike[str], *, layout: str = "auto", masks: str | PathLike[str] | None = None
) -> Listing:
    """List the images of a dataset with their masks, and what does not fit together.

    Args:
        source: as for the readers of the layouts, or a datalist.
        layout: one of `LAYOUTS`, or "auto".
        masks: folder of masks; for the layout "folder" only.

    Raises:
        FileNotFoundError: the source, or parts of it that the layout needs, are missing.
        ValueError: an unknown layout, or `masks` for another one than "folder".
    """
    found = find_layout(source) if layout == "auto" else layout
    if found not in LAYOUTS:
        raise ValueError(f"layout is {found!r}, expected one of auto, {', '.join(LAYOUTS)}.")
    if masks is not None and found != "folder":
        raise ValueError(f"masks are given for the layout {found}, which has its own; leave them out or use 'folder'.")
    if found == "folder":
        return _list_folder(Path(source), masks)
    return {"busi": _list_busi, "busbra": _list_busbra, "datalist": _list_datalist}[found](Path(source))


def _list_busi(source: Path) -> Listing:
    root = find_busi(source)
    listing = Listing(root, root, "busi")
    for name in (*LESION_CLASSES, NORMAL_CLASS):
        if not (root / name).is_dir():
            continue
        images, masks = pair_files(root / name)
        listing.items += [Item(image, tuple(masks.get(stem, ())), name) for stem, image in images.items()]
        listing.orphans += [
            listing.shown(file) for stem, files in masks.items() if stem not in images for file in files
        ]
    return listing


def _list_busbra(source: Path) -> Listing:
    root = find_busbra(source)
    listing, rows = Listing(root, root, "busbra"), read_table(root / TABLE)
    images, masks = images_by_case(root / IMAGES), images_by_case(root / MASKS)
    outlines = {image_stem(stem): files for stem, files in masks.items()}
    for stem, files in sorted(images.items(), key=lambda item: natural_key(item[0])):
        _note_double_image(listing, files)
        row, own = rows.get(stem), outlines.get(stem, [])
        patient, pathology = (f"patient {row['Case']}", row["Pathology"]) if row else (None, None)
        listing.items.append(Item(files[0], tuple(own[:1]), pathology, patient))
        if len(own) > 1:
            listing.doubles.append((files[0], [listing.shown(file) for file in own]))
        if row is None:
            listing.mismatches.append(f"{listing.shown(files[0])} has no row in {TABLE}, so its patient is unknown")
    listing.orphans += [listing.shown(file) for stem, found in outlines.items() if stem not in images for file in found]
    listing.mismatches += [f"{TABLE} names {stem}, which is not in {IMAGES}/" for stem in rows if stem not in images]
    return listing


def _list_folder(source: Path, masks: str | PathLike[str] | None) -> Listing:
    images, sources = find_sources(source, masks)
    listing, pictures = Listing(source, source, "folder"), pictures_by_case(images, sources)
    if not pictures:
        return listing
    outlines = collect_outlines(images, sources, set(pictures), explicit=masks is not None)
    for case, files in sorted(pictures.items(), key=lambda item: natural_key(item[0])):
        _note_double_image(listing, files)
        own = outlines.files.get(case, [])
        listing.items.append(Item(files[0], outlines.masks.get(case, ())))
        if case in outlines.annotations:
            listing.annotated[files[0]] = outlines.annotations[case]
        if len(own) > 1:
            listing.doubles.append((files[0], own))
    listing.orphans = outlines.orphans
    paths = {case: files[0] for case, files in pictures.items()}
    listing.mismatches += [*outlines.broken, *misfits(outlines.annotations, paths)]
    return listing


def _note_double_image(listing: Listing, files: list[Path]) -> None:
    if len(files) > 1:
        listing.mismatches.append(f"{' and '.join(map(listing.shown, files))} have one name; one of them is read")


def _list_datalist(source: Path) -> Listing:
    parts, meta = load_datalist(source), load_meta(source)
    file = source / FILE_NAME if source.is_dir() else source
    folders = {str(Path(entry["image"]).parent) for entries in parts.values() for entry in entries}
    listing = Listing(file, _common_folder(folders, file), "datalist")
    places: dict[str, list[str]] = defaultdict(list)
    for part in PARTS:
        for entry in parts[part]:
            mask = mask_of(entry)
            places[entry["image"]].append(part)
            if len(places[entry["image"]]) == 1:  # one that stands twice is read once
                item = Item(
                    Path(entry["image"]), (Path(mask),) if mask else (), entry.get("class"), entry["group_id"], part
                )
                listing.items.append(item)
    listing.mismatches = [
        f"{listing.shown(Path(image))} stands {len(found)} times: {', '.join(found)}"
        for image, found in places.items()
        if len(found) > 1
    ]
    listing.leaks = find_leaks(parts, recorded_digests(file, meta))
    listing.leak_allowed = why_allowed(meta)
    return listing


def _common_folder(folders: set[str], file: Path) -> Path:
    """The innermost folder that holds all of them; that of the datalist where there is none, or only the whole disk."""
    try:
        common = Path(os.path.commonpath(folders))
    except ValueError:  # no image, or several drives under Windows
        return file.resolve().parent
    return common if common != Path(common.anchor) else file.resolve().parent
