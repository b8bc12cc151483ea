"""Unlabeled images by their place: those that lie beside the labeled ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from phnet_monai.data.decode import IMAGE_SUFFIXES
from phnet_monai.data.mask_names import without_masks

Items = Sequence[Mapping[str, Any]]


def images_beside(labeled: Items, validation: Items | None = None) -> list[dict[str, str]]:
    """Pictures in the folders of listed images that stand in neither list, as unlabeled items. Names that begin with a
    dot and masks of images, by their names, are passed over.

    MONAI Label hands a training the outlined images only; the others of the same study lie in the same folder.

    Args:
        labeled, validation: items with `image`, a path.

    Returns:
        `[{"image": path}]`, sorted by folder and name.
    """
    known = {Path(str(item["image"])).resolve() for item in (*labeled, *(validation or ()))}
    folders = sorted({path.parent for path in known})
    beside = [
        path
        for folder in folders
        for path in sorted(folder.iterdir())
        if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    ]
    pictures, _ = without_masks(beside, [path.stem for path in beside])
    return [{"image": str(path)} for path in pictures if path not in known]
