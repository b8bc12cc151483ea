"""BUSI in its original layout.

Al-Dhabyani et al., Dataset of breast ultrasound images, Data in Brief 28:104863 (2020): one folder per class, images
`benign (1).png`, masks `benign (1)_mask.png`, further masks of the same image `benign (1)_mask_1.png` and so on.
"""

from __future__ import annotations

import warnings
from os import PathLike
from pathlib import Path

from phnet_monai.data.decode import IMAGE_SUFFIXES
from phnet_monai.data.mask_names import MASK_STEM
from phnet_monai.data.records import Record, natural_key, shorten

FOLDER_NAME = "Dataset_BUSI_with_GT"
LESION_CLASSES = ("benign", "malignant")
NORMAL_CLASS = "normal"


def read_busi(source: str | PathLike[str], normals: bool = False) -> list[Record]:
    """List the images of BUSI with all their masks.

    Args:
        source: the folder with `benign/` and `malignant/`, or the folder that contains `Dataset_BUSI_with_GT/`.
        normals: also list `normal/`, whose masks are empty.

    Returns:
        records in natural order, class by class; `case_id` is the file's stem, `group_id` is unknown (BUSI has no
        patient ids), `class_name` is the folder. An image without a mask stays in, as an unlabeled record, with a
        warning.

    Raises:
        FileNotFoundError: the folder or one of its class folders is missing or holds no image.
        ValueError: masks whose image is missing.
    """
    root = find_busi(source)
    classes = (*LESION_CLASSES, NORMAL_CLASS) if normals else LESION_CLASSES
    records = [record for name in classes for record in _read_class(root / name, name)]
    bare = [record.case_id for record in records if not record.masks]
    if bare:
        warnings.warn(
            f"{len(bare)} images of {root} have no mask and count as unlabeled: {shorten(bare)}.", stacklevel=2
        )
    return records


def find_busi(source: str | PathLike[str]) -> Path:
    """The folder with `benign/` and `malignant/`: `source` itself or its `Dataset_BUSI_with_GT/`.

    Raises:
        FileNotFoundError: neither has the class folders.
    """
    source = Path(source)
    if not source.is_dir():
        raise FileNotFoundError(f"{source} is not a folder. Give the folder of BUSI ({FOLDER_NAME}).")
    for root in (source, source / FOLDER_NAME):
        if all((root / name).is_dir() for name in LESION_CLASSES):
            return root
    found = shorten(sorted(entry.name for entry in source.iterdir())) or "nothing"
    raise FileNotFoundError(
        f"{source} is not BUSI: expected the folders benign/ and malignant/ in it or in {source / FOLDER_NAME}, "
        f"found {found}. Unpack BUSI with its folders, or use the layout 'folder' for other data."
    )


def pair_files(folder: Path) -> tuple[dict[str, Path], dict[str, list[Path]]]:
    """Images of a class folder by their stem, and masks by the stem of their image, which may be missing."""
    files = [file for file in folder.iterdir() if _is_image(file)]
    masks: dict[str, list[Path]] = {}
    images: dict[str, Path] = {}
    for file in sorted(files, key=lambda file: natural_key(file.name)):
        match = MASK_STEM.match(file.stem)
        if match:
            masks.setdefault(match["image"], []).append(file)
        else:
            if file.stem in images:
                raise ValueError(
                    f"{folder} has images of the same name and different suffix: {images[file.stem].name} and "
                    f"{file.name}. Keep one of each."
                )
            images[file.stem] = file
    return images, masks


def _read_class(folder: Path, class_name: str) -> list[Record]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is missing; BUSI has one folder per class. Unpack it with its folders.")
    images, masks = pair_files(folder)
    if not images:
        raise FileNotFoundError(f"{folder} holds no image. Expected files such as '{class_name} (1).png'.")
    orphans = [file.name for stem, found in masks.items() if stem not in images for file in found]
    if orphans:
        raise ValueError(
            f"{folder} has {len(orphans)} masks without an image: {shorten(orphans)}. Add the images, or remove "
            "the masks."
        )
    return [
        Record(image=image, masks=tuple(masks.get(stem, ())), case_id=stem, class_name=class_name)
        for stem, image in images.items()
    ]


def _is_image(file: Path) -> bool:
    # names that begin with a dot are left behind by file managers and archive tools, not images
    return file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".") and file.is_file()
