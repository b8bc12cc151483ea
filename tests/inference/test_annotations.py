"""Outlines for annotation tools: written, read back, drawn."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from phnet_monai.data.annotations import AnnotationError, Shape, draw_mask, proposal_digest, read_annotations
from phnet_monai.inference.annotations import (
    Format,
    Proposal,
    coco_document,
    export_proposals,
    labelme_document,
    mask_shapes,
)


def picture(*lines: str) -> np.ndarray:
    return np.array([[letter == "#" for letter in line] for line in lines])


RING_WITH_ISLAND = picture(
    "#######...",
    "#.....#...",
    "#.###.#..#",
    "#.###.#.##",
    "#.....#...",
    "#######..#",
)


def blob(seed: int, shape: tuple[int, int] = (90, 120)) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), 5)
    return noise > np.quantile(noise, 0.7)


@pytest.mark.parametrize(
    "mask", [RING_WITH_ISLAND, blob(1), blob(2), np.zeros((5, 6), dtype=bool), np.ones((5, 6), dtype=bool)]
)
def test_polygons_give_the_mask_back_exactly(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(draw_mask(mask_shapes(mask, 0), mask.shape), mask)


def test_lesions_holes_and_islands_are_told_apart() -> None:
    shapes = mask_shapes(RING_WITH_ISLAND, 0)
    # ring, its hole, the island in it, the three pixels that touch by a corner, the single one
    assert [shape.hole for shape in shapes] == [False, True, False, False, False]
    assert all(len(shape.rings) == 1 for shape in shapes)


def test_points_count_from_the_outer_corner_of_the_first_pixel() -> None:
    mask = np.zeros((20, 30), dtype=bool)
    mask[2:12, 5:25] = True
    [shape] = mask_shapes(mask, 0)
    [ring] = shape.rings
    assert ring.min(axis=0).tolist() == [5, 2]
    assert ring.max(axis=0).tolist() == [25, 12]


@pytest.mark.parametrize("radius", [2, 4, 8, 15, 30])
def test_a_small_lesion_in_a_large_image_keeps_its_outline(radius: int) -> None:
    y, x = np.mgrid[:1000, :1400]
    mask = np.hypot(y - 500.3, 0.8 * (x - 700.6)) < radius
    found = draw_mask(mask_shapes(mask), mask.shape)
    assert (found & mask).sum() >= 0.95 * (found | mask).sum()


@pytest.mark.parametrize("seed", range(4))
def test_simplified_outlines_stay_near_and_are_short(seed: int) -> None:
    mask = blob(seed, (600, 800))
    exact, short = mask_shapes(mask, 0), mask_shapes(mask)
    assert sum(len(s.rings[0]) for s in short) < 0.25 * sum(len(s.rings[0]) for s in exact)
    drawn = draw_mask(short, mask.shape)
    inner = ndimage.binary_erosion(mask, iterations=3, border_value=1)
    outer = ndimage.binary_dilation(mask, iterations=3)
    assert not (drawn & ~outer).any()
    assert not (inner & ~drawn).any()


def test_a_single_pixel_survives_simplification() -> None:
    mask = np.zeros((700, 900), dtype=bool)
    mask[30, 40] = True
    np.testing.assert_array_equal(draw_mask(mask_shapes(mask), mask.shape), mask)


def save(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_labelme_there_and_back(tmp_path: Path) -> None:
    shapes = mask_shapes(RING_WITH_ISLAND, 0)
    document = labelme_document("x.png", RING_WITH_ISLAND.shape, shapes)
    assert [shape["label"] for shape in document["shapes"]] == ["lesion", "hole", "lesion", "lesion", "lesion"]
    assert (document["imagePath"], document["imageHeight"], document["imageWidth"]) == ("x.png", 6, 10)
    assert document["imageData"] is None
    [annotation] = read_annotations(save(tmp_path / "x.json", document)) or []
    assert (annotation.image, annotation.size, annotation.untouched) == ("x.png", (6, 10), True)
    np.testing.assert_array_equal(draw_mask(annotation.shapes, (6, 10)), RING_WITH_ISLAND)


def test_coco_there_and_back(tmp_path: Path) -> None:
    masks = {"a/x.png": RING_WITH_ISLAND, "b.png": np.zeros((4, 4), dtype=bool), "c.jpg": blob(3)}
    document = coco_document([(name, mask.shape, mask_shapes(mask, 0)) for name, mask in masks.items()])
    assert [category["name"] for category in document["categories"]] == ["lesion", "hole"]
    first = document["annotations"][0]
    assert first["bbox"] == [0, 0, 7, 6]
    assert first["area"] == pytest.approx(7 * 6 - 4 / 8)  # the corners are cut at the middles of pixel edges
    ids = [entry["id"] for entry in document["annotations"]]
    assert ids == list(range(1, len(ids) + 1))
    found = read_annotations(save(tmp_path / "all.json", document)) or []
    assert [one.image for one in found] == list(masks)
    for annotation, mask in zip(found, masks.values(), strict=True):
        assert annotation.untouched
        np.testing.assert_array_equal(draw_mask(annotation.shapes, mask.shape), mask)


def labelme(*shapes: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"version": "5.4.1", "flags": {}, "shapes": list(shapes), "imagePath": "x.png", **more}


def labelme_shape(kind: str | None, points: list[list[float]], label: str = "lesion", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}, **more}


def drawn(tmp_path: Path, *shapes: dict[str, Any], size: tuple[int, int] = (20, 30)) -> np.ndarray:
    [annotation] = read_annotations(save(tmp_path / "x.json", labelme(*shapes))) or []
    assert annotation.size is None
    return draw_mask(annotation.shapes, size)


def test_labelme_rectangle_circle_and_polygon(tmp_path: Path) -> None:
    rectangle = np.zeros((20, 30), dtype=bool)
    rectangle[3:9, 5:15] = True
    corners = [[5, 3], [15, 3], [15, 9], [5, 9]]
    for shape in (
        labelme_shape("rectangle", [[5, 3], [15, 9]]),
        labelme_shape("rectangle", [[15, 9], [5, 3]]),
        labelme_shape("rectangle", corners),
        labelme_shape("oriented_rectangle", corners),
        labelme_shape("polygon", corners),
        labelme_shape(None, corners),  # what old versions wrote
        labelme_shape("polygon", corners, label="malignant"),
    ):
        np.testing.assert_array_equal(drawn(tmp_path, shape), rectangle)
    circle = drawn(tmp_path, labelme_shape("circle", [[15, 10], [15, 3]]))
    y, x = np.mgrid[:20, :30] + 0.5
    expected = np.hypot(y - 10, x - 15) <= 7
    assert (circle != expected).sum() <= 4


def test_labelme_mask_shape(tmp_path: Path) -> None:
    bits = np.array([[0, 1, 1], [1, 1, 0]], dtype=np.uint8) * 255
    stream = io.BytesIO()
    Image.fromarray(bits).save(stream, format="PNG")
    text = base64.b64encode(stream.getvalue()).decode("ascii")
    found = drawn(tmp_path, labelme_shape("mask", [[6, 4], [8, 5]], mask=text))
    assert found.sum() == 4
    np.testing.assert_array_equal(found[4:6, 6:9], bits > 0)


def test_shapes_are_painted_in_order(tmp_path: Path) -> None:
    outer, hole, island = (
        labelme_shape("rectangle", [[2, 2], [18, 18]]),
        labelme_shape("rectangle", [[6, 6], [14, 14]], label=" Hole "),
        labelme_shape("rectangle", [[9, 9], [11, 11]], label="rest"),
    )
    assert drawn(tmp_path, outer, hole, island).sum() == 256 - 64 + 4
    assert drawn(tmp_path, outer, island, hole).sum() == 256 - 64
    assert drawn(tmp_path, hole, outer).sum() == 256


def test_outlines_beyond_the_image_are_cut_off(tmp_path: Path) -> None:
    found = drawn(
        tmp_path, labelme_shape("rectangle", [[-5, -5], [4, 3]]), labelme_shape("circle", [[30, 20], [33, 20]])
    )
    assert found[:3, :4].all()
    assert found[:3, :4].size < found.sum() < 25


def coco(*annotations: dict[str, Any], categories: list[dict[str, Any]] | None = None, **image: Any) -> dict[str, Any]:
    entry = {"id": 7, "file_name": "folder\\x.png", "height": 4, "width": 5, **image}
    return {"images": [entry], "annotations": list(annotations), "categories": categories or []}


def coco_drawn(tmp_path: Path, *annotations: dict[str, Any], **more: Any) -> np.ndarray:
    [annotation] = read_annotations(save(tmp_path / "x.json", coco(*annotations, **more))) or []
    assert annotation.image == "folder/x.png"
    return draw_mask(annotation.shapes, (4, 5))


def test_coco_run_lengths(tmp_path: Path) -> None:
    expected = picture(".....", ".##..", ".##..", ".....")
    runs = {"size": [4, 5], "counts": [5, 2, 2, 2, 9]}
    np.testing.assert_array_equal(coco_drawn(tmp_path, {"image_id": 7, "segmentation": runs}), expected)
    compressed = {"size": [4, 5], "counts": "52207"}
    np.testing.assert_array_equal(coco_drawn(tmp_path, {"image_id": 7, "segmentation": compressed}), expected)


def packed(counts: list[int]) -> str:
    """COCO's packing of run lengths, transcribed from its C code (`rleToString`)."""
    text = ""
    for place, count in enumerate(counts):
        value = count - counts[place - 2] if place > 2 else count
        more = True
        while more:
            code = value & 0x1F
            value >>= 5
            more = value != -1 if code & 0x10 else value != 0
            text += chr(48 + (code | 0x20 if more else code))
    return text


@pytest.mark.parametrize("seed", range(3))
def test_coco_packed_run_lengths(seed: int, tmp_path: Path) -> None:
    mask = blob(seed, (200, 310))
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat]).astype(np.int8)) != 0)
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    code = {"size": [200, 310], "counts": packed(counts)}
    content = coco({"image_id": 7, "segmentation": code}, height=200, width=310)
    [annotation] = read_annotations(save(tmp_path / "x.json", content)) or []
    np.testing.assert_array_equal(draw_mask(annotation.shapes, mask.shape), mask)


def test_coco_several_polygons_are_one_lesion_and_holes_are_a_category(tmp_path: Path) -> None:
    polygons = [[0, 0, 2, 0, 2, 2, 0, 2], [3, 0, 5, 0, 5, 4, 3, 4]]
    lesion = {"image_id": 7, "category_id": 1, "segmentation": polygons}
    hole = {"image_id": 7, "category_id": 5, "segmentation": [[3, 1, 5, 1, 5, 2, 3, 2]]}
    categories = [{"id": 1, "name": "tumour"}, {"id": 5, "name": "hole"}]
    found = coco_drawn(tmp_path, lesion, hole, categories=categories)
    np.testing.assert_array_equal(found, picture("##.##", "##...", "...##", "...##"))


def test_an_annotation_without_outlines_is_an_image_without_lesion(tmp_path: Path) -> None:
    assert not drawn(tmp_path).any()
    assert not coco_drawn(tmp_path).any()


def test_what_is_no_annotation(tmp_path: Path) -> None:
    for content in ({"labeled": [], "unlabeled": []}, [1, 2], "text", {"images": "a", "annotations": []}):
        assert read_annotations(save(tmp_path / "other.json", content)) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (labelme(labelme_shape("line", [[0, 0], [5, 5]])), "shape 1 is a line, which has no inside"),
        (labelme(labelme_shape("polygon", [[0, 0], [5, 5]])), "2 points, expected a polygon of at least 3"),
        (labelme(labelme_shape("circle", [[0, 0]])), "a circle, has 1 points, expected 2"),
        (labelme(labelme_shape("polygon", [[0, 0], [5, 5], [float("nan"), 1]])), "no finite numbers"),
        (labelme({"label": "lesion"}), r"not as labelme or COCO write it \(KeyError"),
        (labelme(labelme_shape("mask", [[0, 0], [2, 2]], mask="AAAA")), "not as labelme or COCO write it"),
        (coco({"image_id": 8, "segmentation": [[0, 0, 1, 0, 1, 1]]}), "of image 8, which is not listed"),
        (coco({"image_id": 7, "bbox": [0, 0, 3, 3]}), "no outline .* A box is not enough"),
        (coco({"image_id": 7, "segmentation": [[0, 0, 1]]}), "not as labelme or COCO write it"),
        (coco({"image_id": 7, "segmentation": {"size": [4, 5], "counts": [3]}}), "do not fill 5 x 4"),
        (coco({"image_id": 7, "segmentation": {"size": [2, 2], "counts": [4]}}), "another size than the image"),
        (coco({"image_id": 7, "segmentation": {"size": [10**6, 10**6], "counts": [10**12]}}), "too many to read"),
        ({**coco(), "images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}]}, "have the same id"),
    ],
)
def test_broken_annotations_are_named(content: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=rf"x\.json.*{message}"):
        read_annotations(save(tmp_path / "x.json", content))


def test_a_truncated_file_is_no_image_without_lesion(tmp_path: Path) -> None:
    text = json.dumps(labelme(labelme_shape("rectangle", [[5, 3], [15, 9]])))
    (tmp_path / "x.json").write_text(text[: len(text) // 2])
    with pytest.raises(AnnotationError, match=r"x\.json is no JSON"):
        read_annotations(tmp_path / "x.json")


def test_proposals_that_somebody_changed(tmp_path: Path) -> None:
    document = labelme_document("x.png", (90, 120), mask_shapes(blob(1)))
    document["shapes"][0]["points"][0][0] += 1
    [annotation] = read_annotations(save(tmp_path / "x.json", document)) or []
    assert not annotation.untouched
    document["shapes"] = []
    [emptied] = read_annotations(save(tmp_path / "x.json", document)) or []
    assert not emptied.untouched
    assert proposal_digest([]) != proposal_digest([Shape(False, (np.zeros((3, 2)),))])


@pytest.fixture
def proposals(tmp_path: Path) -> list[Proposal]:
    made = []
    for number, name in enumerate(["a b/x#1.png", "Größe,2.png"]):
        mask = blob(number)
        source = tmp_path / "source" / f"{number}.png"
        source.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full(mask.shape, 50 + number, dtype=np.uint8)).save(source)
        made.append(Proposal(source, PurePosixPath(name), mask))
    return made


def tree(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize(
    ("file_format", "files"),
    [
        ("labelme", ["Größe,2.json", "Größe,2.png", "a b/x#1.json", "a b/x#1.png"]),
        ("coco", ["annotations.json", "images/Größe,2.png", "images/a b/x#1.png"]),
    ],
)
def test_exported_folders(file_format: Format, files: list[str], proposals: list[Proposal], tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    assert export_proposals(out, iter(proposals), file_format) == 2
    assert tree(out) == files
    assert [p.name for p in out.parent.iterdir()] == ["out"]
    with pytest.raises(FileExistsError, match="may hold corrected outlines"):
        export_proposals(out, proposals, file_format)


def test_an_export_that_fails_leaves_nothing(proposals: list[Proposal], tmp_path: Path) -> None:
    broken = [*proposals, Proposal(tmp_path / "gone.png", PurePosixPath("z.png"), blob(1))]
    for file_format in ("labelme", "coco"):
        with pytest.raises(FileNotFoundError):
            export_proposals(tmp_path / "o" / file_format, broken, file_format)  # type: ignore[arg-type]
        assert list((tmp_path / "o").iterdir()) == []


def test_a_mask_in_an_annotation_is_read_by_the_decoders_of_pictures_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow's decoder for EPS starts a program."""
    from PIL import EpsImagePlugin

    started: list[Any] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **options: started.append(args))
    picture, content = Image.new("L", (8, 8), 255), io.BytesIO()
    picture.save(content, format="EPS")
    shape = {"label": "lesion", "shape_type": "mask", "points": [[0, 0], [7, 7]]}
    for pixels, message in ((content.getvalue(), "its content is of no known kind"), (b"", "is empty")):
        shape["mask"] = base64.b64encode(pixels).decode()
        (tmp_path / "a.json").write_text(json.dumps({"imagePath": "a.png", "shapes": [shape]}))
        with pytest.raises(AnnotationError, match=f"a mask in it cannot be read .*{message}"):
            read_annotations(tmp_path / "a.json")
    assert not started


def test_the_bundle_s_own_reader_opens_pictures_alone(tmp_path: Path) -> None:
    from phnet_monai.data.decode import DecodeError, to_grey_image

    Image.new("L", (8, 8), 255).save(tmp_path / "a.png", format="EPS")
    with Image.open(tmp_path / "a.png") as picture, pytest.raises(DecodeError, match="a picture of the kind EPS"):
        to_grey_image(picture)
