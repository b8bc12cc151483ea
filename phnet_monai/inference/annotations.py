"""Masks as files that annotation tools open: the model's outlines as a start that a person corrects.

`data.annotations` reads them back, and says what points mean. Lesions are polygons labelled `lesion`, their holes
polygons labelled `hole`, largest first: painted in that order they give the mask back, an island in a hole included.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal

import numpy as np
from skimage.measure import approximate_polygon, find_contours

from phnet_monai import __version__
from phnet_monai.data.annotations import HOLE, LESION, PROPOSAL, Shape, proposal_digest
from phnet_monai.data.folder import COCO_FILE
from phnet_monai.files import write_json

Format = Literal["labelme", "coco"]

TOLERANCE_SHARE = 0.0015
"""How far a polygon may run beside the mask's contour: share of the image's longest side; half a pixel at least."""
OWN_SHARE = 0.02
"""The same as a share of the square root of the lesion's area: a small lesion in a large image keeps its outline."""

_LABELME_VERSION = "5.0.0"


@dataclass(frozen=True)
class Proposal:
    """One image to be corrected.

    Attributes:
        source: its file.
        name: what its copy is called, relative, with ending.
        mask: the model's answer, bool (H, W) of the upright image.
    """

    source: Path
    name: PurePath
    mask: np.ndarray


def mask_shapes(mask: np.ndarray, tolerance: float | None = None) -> list[Shape]:
    """Polygons around the lesions of a mask and around their holes, largest first.

    Args:
        mask: bool (H, W). Pixels that touch by a corner are one lesion.
        tolerance: how far, in pixels, the polygons may run beside the contour (0: they give the mask back exactly);
            by `TOLERANCE_SHARE` where not given, but not above `OWN_SHARE` of the lesion itself.

    Returns:
        one shape of one ring each, (x, y) with two digits after the point; empty for a mask without lesion.
    """
    usual = max(0.5, TOLERANCE_SHARE * max(mask.shape))
    contours = find_contours(np.pad(mask, 1).astype(np.float32), 0.5, fully_connected="high")
    outlines = []
    for contour in contours:
        area = _signed_area(contour)
        own = min(usual, OWN_SHARE * abs(area) ** 0.5) if tolerance is None else tolerance
        points = approximate_polygon(contour, own)
        if len(points) < 4:  # closed: the first point again at the end
            points = contour
        # the padding moved pixel middles to row + 1, this format's points have them at row + 0.5
        ring = np.round(points[:-1, ::-1] - 0.5, 2)
        outlines.append((abs(area), Shape(hole=area < 0, rings=(ring,))))
    outlines.sort(key=lambda outline: outline[0], reverse=True)
    return [shape for _, shape in outlines]


def _signed_area(contour: np.ndarray) -> float:
    """Positive where the higher values lie inside, as `find_contours` turns."""
    rows, columns = contour[:, 0], contour[:, 1]
    return float(np.dot(rows[1:], columns[:-1]) - np.dot(rows[:-1], columns[1:])) / 2


def export_proposals(folder: str | Path, proposals: Iterable[Proposal], file_format: Format) -> int:
    """Write images and outlines for an annotation tool; the folder is there completely or not at all.

    `labelme`: each image with its JSON beside it. `coco`: `images/` and one `annotations.json`. `phnet prepare folder`
    reads both folders back.

    Args:
        folder: to be made.
        proposals: taken one by one; names must differ, for labelme without their endings.

    Returns:
        number of images.

    Raises:
        FileExistsError: the folder is there; it may hold what somebody has corrected.
        OSError: a file cannot be copied or written.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(
            f"{folder} exists and may hold corrected outlines. Move it away, or choose another folder."
        )
    partial = folder.with_name(f".{uuid.uuid4().hex}.part")
    try:
        partial.mkdir(parents=True)
        count = _write_labelme(partial, proposals) if file_format == "labelme" else _write_coco(partial, proposals)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return count


def _write_labelme(folder: Path, proposals: Iterable[Proposal]) -> int:
    count = 0
    for proposal in proposals:
        copy = _copy(proposal, folder)
        write_json(
            copy.with_suffix(".json"), labelme_document(copy.name, proposal.mask.shape, mask_shapes(proposal.mask))
        )
        count += 1
    return count


def _write_coco(folder: Path, proposals: Iterable[Proposal]) -> int:
    entries = []
    for proposal in proposals:
        _copy(proposal, folder / "images")
        entries.append((proposal.name.as_posix(), proposal.mask.shape, mask_shapes(proposal.mask)))
    write_json(folder / COCO_FILE, coco_document(entries))
    return len(entries)


def _copy(proposal: Proposal, folder: Path) -> Path:
    target = folder / proposal.name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(proposal.source, target)
    return target


def labelme_document(image: str, size: tuple[int, ...], shapes: Sequence[Shape]) -> dict[str, Any]:
    """Content of labelme's JSON for an image that lies beside it; `size` is (H, W)."""
    return {
        "version": _LABELME_VERSION,
        "flags": {},
        "shapes": [
            {
                "label": HOLE if shape.hole else LESION,
                "points": ring.tolist(),
                "group_id": None,
                "shape_type": "polygon",
                "flags": {},
            }
            for shape in shapes
            for ring in shape.rings
        ],
        "imagePath": image,
        "imageData": None,
        "imageHeight": size[0],
        "imageWidth": size[1],
        PROPOSAL: proposal_digest(shapes),
    }


def coco_document(entries: Sequence[tuple[str, tuple[int, ...], Sequence[Shape]]]) -> dict[str, Any]:
    """Content of a COCO file: (file name, (H, W), shapes) of each image. Categories: 1 lesion, 2 hole."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (name, size, shapes) in enumerate(entries, start=1):
        image = {"id": image_id, "file_name": name, "height": size[0], "width": size[1]}
        images.append({**image, PROPOSAL: proposal_digest(shapes)})
        for shape in shapes:
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **_coco_entry(shape)})
    categories = [{"id": number, "name": name} for number, name in enumerate((LESION, HOLE), start=1)]
    about = {"description": f"outlines proposed by phnet-monai {__version__}"}
    return {"info": about, "licenses": [], "images": images, "annotations": annotations, "categories": categories}


def _coco_entry(shape: Shape) -> dict[str, Any]:
    [ring] = shape.rings
    (left, top), (right, bottom) = ring.min(axis=0), ring.max(axis=0)
    return {
        "category_id": 2 if shape.hole else 1,
        "segmentation": [ring.ravel().tolist()],
        "area": round(abs(_signed_area(np.concatenate([ring, ring[:1]]))), 2),
        "bbox": [round(float(one), 2) for one in (left, top, right - left, bottom - top)],
        "iscrowd": 0,
    }
