"""Outlines as annotation tools save them: labelme (one JSON per image) and COCO (one JSON for all).

Points are (x, y) in pixels of the upright image, (0, 0) being the outer corner of its first pixel: pixel (row r, column
c) is the square from (c, r) to (c + 1, r + 1), and belongs to an outline if its middle lies in it or on it. Shapes are
painted in the order of the file: a shape labelled `hole` takes lesion away, any other adds it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from skimage.draw import polygon

from phnet_monai.data.decode import MAX_PIXELS, MAX_STACK_PIXELS, DecodeError, decode_picture

LESION, HOLE = "lesion", "hole"
"""Labels that this package writes; on reading, all labels but `hole` (in any case) mean lesion."""

PROPOSAL = "phnet_proposal"
"""Key under which `phnet rank` notes the digest of the outlines that the model proposed."""

ANNOTATION_SUFFIX = ".json"
_CIRCLE_POINTS = 180


class AnnotationError(ValueError):
    """An annotation file cannot be used; the message names the file and what was found."""


@dataclass(frozen=True)
class Shape:
    """One outline.

    Attributes:
        hole: it takes lesion away.
        rings: closed polygons, each float (K, 2) of (x, y); their union counts.
        bitmap: instead of rings, bool (h, w) and the (row, column) of its first pixel.
        size: (H, W) of the image, where the shape tells it.
    """

    hole: bool
    rings: tuple[np.ndarray, ...] = ()
    bitmap: tuple[np.ndarray, tuple[int, int]] | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Annotation:
    """All outlines of one image; none of them means that it shows no lesion.

    Attributes:
        source: the file that says so.
        image: file name of the image as written there.
        size: (H, W) of the image as written there; None where it is not.
        shapes: in the order of painting.
        untouched: these are still the outlines that the model proposed.
        of_many: the file may speak of many images (COCO), so that its own name says nothing.
    """

    source: Path
    image: str
    size: tuple[int, int] | None
    shapes: tuple[Shape, ...]
    untouched: bool = False
    of_many: bool = False


def read_annotations(path: str | Path) -> list[Annotation] | None:
    """The annotations in a JSON file: one of labelme, any number of COCO; None if it is neither.

    Read are labelme's polygons, rectangles, circles and masks, and COCO's polygons and run-length codes.

    Raises:
        AnnotationError: it is no JSON (a truncated file), or holds something else in the place of an outline.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise AnnotationError(
            f"{path} is no JSON ({error}). Save the annotations again, or remove the file."
        ) from error
    if not isinstance(content, dict):
        return None
    try:
        if isinstance(content.get("shapes"), list):
            return [_labelme(path, content)]
        if isinstance(content.get("images"), list) and isinstance(content.get("annotations"), list):
            return list(_coco(path, content))
    except AnnotationError:
        raise
    except DecodeError as error:
        raise AnnotationError(
            f"{path} is not as labelme or COCO write it: a mask in it cannot be read ({error})"
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OSError, OverflowError) as error:
        raise AnnotationError(
            f"{path} is not as labelme or COCO write it ({type(error).__name__}: {error}). Save the annotations again."
        ) from error
    return None


def draw_mask(shapes: Sequence[Shape], size: tuple[int, int]) -> np.ndarray:
    """Paint shapes in order: bool (H, W) of `size`, True in lesions. What lies outside the image is cut off."""
    mask = np.zeros(size, dtype=bool)
    for shape in shapes:
        for ring in shape.rings:
            mask[polygon(ring[:, 1] - 0.5, ring[:, 0] - 0.5, size)] = not shape.hole
        if shape.bitmap is not None:
            bits, (top, left) = shape.bitmap
            rows, columns = np.nonzero(bits)
            rows, columns = rows + top, columns + left
            inside = (rows >= 0) & (columns >= 0) & (rows < size[0]) & (columns < size[1])
            mask[rows[inside], columns[inside]] = not shape.hole
    return mask


def idle_shapes(shapes: Sequence[Shape], size: tuple[int, int]) -> tuple[list[int], list[int]]:
    """Numbers, from 1, of the lesions that cover no pixel of the image, and of the holes that take none away.

    A hole takes none away, too, if a lesion is painted over it: the order of the file counts.
    """
    areas = [draw_mask([Shape(False, shape.rings, shape.bitmap)], size) for shape in shapes]
    final = draw_mask(shapes, size)
    empty = [n for n, (shape, area) in enumerate(zip(shapes, areas, strict=True), 1) if not (shape.hole or area.any())]
    painted = np.zeros(size, dtype=bool)
    idle = []
    for number, (shape, area) in enumerate(zip(shapes, areas, strict=True), 1):
        if shape.hole and (not (painted & area).any() or final[area].all()):
            idle.append(number)
        painted = painted & ~area if shape.hole else painted | area
    return empty, idle


def proposal_digest(shapes: Sequence[Shape]) -> str:
    """Digest of outlines, the same after a tool has saved them unchanged."""
    rings = [[int(shape.hole), *[_rounded(ring) for ring in shape.rings]] for shape in shapes]
    return hashlib.sha256(json.dumps(rings).encode("ascii")).hexdigest()


def _rounded(ring: np.ndarray) -> list[list[float]]:
    return (np.round(np.asarray(ring, dtype=np.float64), 2) + 0.0).tolist()  # -0.0 becomes 0.0


def _labelme(path: Path, content: dict[str, Any]) -> Annotation:
    numbered = enumerate(content["shapes"], start=1)
    shapes = tuple(_bounded(path, (_labelme_shape(path, number, shape) for number, shape in numbered)))
    # tools for other systems write a\b.png
    name = str(content.get("imagePath") or "").replace("\\", "/")
    return Annotation(
        source=path,
        image=name,
        size=_size(content.get("imageHeight"), content.get("imageWidth")),
        shapes=shapes,
        untouched=content.get(PROPOSAL) == proposal_digest(shapes),
    )


def _labelme_shape(path: Path, number: int, shape: dict[str, Any]) -> Shape:
    kind = shape.get("shape_type") or "polygon"
    points = _points(path, number, shape["points"])
    hole = _is_hole(shape.get("label"))
    if kind == "polygon" or (kind in ("rectangle", "oriented_rectangle") and len(points) == 4):
        return Shape(hole, (_ring(path, number, points),))
    if kind in ("rectangle", "circle", "mask") and len(points) != 2:
        raise AnnotationError(f"{path}: shape {number}, a {kind}, has {len(points)} points, expected 2.")
    (x0, y0), (x1, y1) = points[0], points[-1]
    if kind == "rectangle":
        return Shape(hole, (np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]),))
    if kind == "circle":
        angles = np.linspace(0, 2 * math.pi, _CIRCLE_POINTS, endpoint=False)
        circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        return Shape(hole, (points[0] + math.dist(points[0], points[1]) * circle,))
    if kind == "mask":
        values = decode_picture(path, io.BytesIO(base64.b64decode(shape["mask"])), any_scale=True)
        if not np.abs(points).max() < MAX_PIXELS:
            raise AnnotationError(f"{path}: shape {number}, a mask, lies at {points.tolist()}, outside of any image.")
        return Shape(hole, bitmap=(values > 0, (round(min(y0, y1)), round(min(x0, x1)))))
    raise AnnotationError(
        f"{path}: shape {number} is a {kind}, which has no inside. Outline lesions with polygons, rectangles, "
        "circles or masks."
    )


def _coco(path: Path, content: dict[str, Any]) -> Iterator[Annotation]:
    names = {entry["id"]: entry.get("name") for entry in content.get("categories", [])}
    shapes: dict[Any, list[Shape]] = {image["id"]: [] for image in content["images"]}
    if len(shapes) < len(content["images"]):
        raise AnnotationError(f"{path}: several images have the same id.")
    for number, entry in enumerate(content["annotations"], start=1):
        if entry["image_id"] not in shapes:
            raise AnnotationError(
                f"{path}: annotation {number} is of image {entry['image_id']!r}, which is not listed."
            )
    outlines = (
        _coco_shape(path, number, entry.get("segmentation"), _is_hole(names.get(entry.get("category_id"))))
        for number, entry in enumerate(content["annotations"], start=1)
    )
    for entry, shape in zip(content["annotations"], _bounded(path, outlines), strict=True):
        shapes[entry["image_id"]].append(shape)
    for image in content["images"]:
        of_image = tuple(shapes[image["id"]])
        size = _size(image.get("height"), image.get("width"))
        size = next((shape.size for shape in of_image if shape.size and size is None), size)
        for shape in of_image:
            if shape.size is not None and size not in (None, shape.size):
                raise AnnotationError(
                    f"{path}: a run-length code of {image['file_name']} has another size than the image."
                )
        yield Annotation(
            source=path,
            image=str(image["file_name"]).replace("\\", "/"),
            size=size,
            shapes=of_image,
            untouched=image.get(PROPOSAL) == proposal_digest(of_image),
            of_many=True,
        )


def _coco_shape(path: Path, number: int, outline: Any, hole: bool) -> Shape:
    if isinstance(outline, dict):
        height, width = (int(side) for side in outline["size"])
        if height * width > MAX_PIXELS:
            raise AnnotationError(f"{path}: annotation {number} is of {width} x {height} pixels, too many to read.")
        runs = outline["counts"]
        counts = runs if isinstance(runs, list) else _decode_counts(runs)
        if sum(counts) != height * width or min(counts, default=0) < 0:
            raise AnnotationError(f"{path}: annotation {number} has run lengths that do not fill {width} x {height}.")
        # runs of 0, 1, 0, ... down the columns
        bits = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T
        return Shape(hole, bitmap=_cropped(bits), size=(height, width))
    if not isinstance(outline, list) or not outline:
        raise AnnotationError(
            f"{path}: annotation {number} has no outline (`segmentation`), expected polygons or a run-length code. A "
            "box is not enough: outline the lesion."
        )
    flat = [outline] if not isinstance(outline[0], list) else outline
    rings = (_points(path, number, list(zip(ring[::2], ring[1::2], strict=True))) for ring in flat)
    return Shape(hole, tuple(_ring(path, number, ring) for ring in rings))


def _cropped(bits: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """What is set, in memory of its own, and where it begins: the codes of a whole data set are held together."""
    rows, columns = np.flatnonzero(bits.any(axis=1)), np.flatnonzero(bits.any(axis=0))
    if not len(rows):
        return bits[:0, :0].copy(), (0, 0)
    box = bits[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return box.copy(), (int(rows[0]), int(columns[0]))


def _bounded(path: Path, shapes: Iterable[Shape]) -> Iterator[Shape]:
    """The shapes, as long as their bitmaps together are not more than `MAX_STACK_PIXELS`."""
    held = 0
    for shape in shapes:
        held += 0 if shape.bitmap is None else shape.bitmap[0].size
        if held > MAX_STACK_PIXELS:
            raise AnnotationError(
                f"{path}: its masks have together more than the {MAX_STACK_PIXELS // 1_000_000} million pixels that "
                "are read. Divide it into several files."
            )
        yield shape


def _decode_counts(text: str) -> list[int]:
    """COCO's compressed run lengths: groups of 5 bits from 48 on, low group first, signed; from the third on, the
    difference to the run before the last."""
    counts: list[int] = []
    place = 0
    while place < len(text):
        value, shift, more = 0, 0, True
        while more:
            code = ord(text[place]) - 48
            value |= (code & 0x1F) << shift
            more = bool(code & 0x20)
            place += 1
            shift += 5
        if code & 0x10:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    return counts


def _points(path: Path, number: int, points: Any) -> np.ndarray:
    array = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    if not np.isfinite(array).all():
        raise AnnotationError(f"{path}: shape {number} has points that are no finite numbers.")
    return array


def _ring(path: Path, number: int, points: np.ndarray) -> np.ndarray:
    if len(points) < 3:
        raise AnnotationError(f"{path}: shape {number} has {len(points)} points, expected a polygon of at least 3.")
    return points


def _size(height: Any, width: Any) -> tuple[int, int] | None:
    return None if height is None or width is None else (int(height), int(width))


def _is_hole(label: Any) -> bool:
    return str(label).strip().lower() == HOLE
