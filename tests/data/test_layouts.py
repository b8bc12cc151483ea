"""Folders in the layouts that people have."""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from phnet_monai.data import audit, prepare_folder, read_mask
from phnet_monai.data.annotations import AnnotationError, Shape, draw_mask, proposal_digest, read_annotations
from phnet_monai.data.audit_listing import list_dataset
from phnet_monai.data.busbra import DETAILS, read_busbra
from phnet_monai.data.busi import read_busi
from phnet_monai.data.folder import read_folder
from phnet_monai.data.patients import PATIENT


def _picture(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 5), value, np.uint8)).save(path)
    return path


@pytest.fixture
def busi(tmp_path: Path) -> Path:
    root = tmp_path / "parent" / "Dataset_BUSI_with_GT"
    for name, count in (("benign", 11), ("malignant", 2), ("normal", 1)):
        for number in range(1, count + 1):
            _picture(root / name / f"{name} ({number}).png", 9)
            _picture(root / name / f"{name} ({number})_mask.png")
    _picture(root / "benign" / "benign (2)_mask_1.png", 255)
    return root


def test_busi_in_natural_order(busi: Path) -> None:
    records = read_busi(busi)
    names = [f"benign ({n})" for n in range(1, 12)] + ["malignant (1)", "malignant (2)"]
    assert [record.case_id for record in records] == names
    assert Counter(record.class_name for record in records) == {"benign": 11, "malignant": 2}


def test_busi_is_found_from_its_parent_and_normals_are_optional(busi: Path) -> None:
    assert read_busi(busi.parent) == read_busi(busi)
    assert [record.case_id for record in read_busi(busi, normals=True)][-1] == "normal (1)"


def test_busi_joins_several_masks(busi: Path) -> None:
    by_name = {record.case_id: record for record in read_busi(busi)}
    assert [mask.name for mask in by_name["benign (2)"].masks] == ["benign (2)_mask.png", "benign (2)_mask_1.png"]
    assert read_mask(by_name["benign (2)"].masks).all()
    assert len(by_name["benign (1)"].masks) == 1


def test_busi_orphan_masks_are_listed(busi: Path) -> None:
    _picture(busi / "malignant" / "malignant (7)_mask_1.png")
    with pytest.raises(ValueError, match=r"1 masks without an image: malignant \(7\)_mask_1\.png"):
        read_busi(busi)


def test_busi_image_without_mask_is_unlabeled(busi: Path) -> None:
    _picture(busi / "benign" / "benign (99).png")
    with pytest.warns(UserWarning, match=r"benign \(99\)"):
        records = read_busi(busi)
    assert [record.case_id for record in records if not record.masks] == ["benign (99)"]


def test_busi_ignores_other_files(busi: Path) -> None:
    (busi / "benign" / "Thumbs.db").touch()
    (busi / "benign" / "._benign (1).png").touch()
    assert len(read_busi(busi)) == 13


def test_not_busi(tmp_path: Path) -> None:
    (tmp_path / "else").mkdir()
    with pytest.raises(FileNotFoundError, match=r"is not BUSI.*found else"):
        read_busi(tmp_path)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        read_busi(tmp_path / "none")


def test_busi_with_an_empty_class(busi: Path) -> None:
    for file in (busi / "malignant").iterdir():
        file.unlink()
    with pytest.raises(FileNotFoundError, match="malignant holds no image"):
        read_busi(busi)


@pytest.mark.parametrize("mask", ["x.png", "x_mask.png", "x_seg.tif", "x_label.bmp"])
def test_folder_mask_names(tmp_path: Path, mask: str) -> None:
    image = _picture(tmp_path / "images" / "x.jpg")
    outline = _picture(tmp_path / "masks" / mask)
    (record,) = read_folder(tmp_path / "images", tmp_path / "masks")
    assert (record.image, record.masks, record.case_id) == (image, (outline,), "x")
    assert read_folder(tmp_path) == [record]


def test_folder_without_masks_is_unlabeled(tmp_path: Path) -> None:
    for name in ("b10.png", "b9.PNG", "notes.txt", ".hidden.png"):
        _picture(tmp_path / "a.png").rename(tmp_path / name)
    records = read_folder(tmp_path)
    assert [record.case_id for record in records] == ["b9", "b10"]
    assert all(record.masks == () for record in records)


def test_folder_with_some_masks(tmp_path: Path) -> None:
    for number in range(3):
        _picture(tmp_path / "images" / f"{number}.png")
    _picture(tmp_path / "masks" / "1.png")
    assert [bool(record.masks) for record in read_folder(tmp_path)] == [False, True, False]


def test_subfolders_are_kept_apart(tmp_path: Path) -> None:
    for side in ("left", "right"):
        _picture(tmp_path / "images" / side / "x.png")
    outline = _picture(tmp_path / "masks" / "right" / "x_mask.png")
    records = read_folder(tmp_path)
    assert [(record.case_id, record.masks) for record in records] == [("left/x", ()), ("right/x", (outline,))]


def test_an_image_may_be_named_like_a_mask(tmp_path: Path) -> None:
    for name in ("x", "x_mask"):
        _picture(tmp_path / "images" / f"{name}.png")
        _picture(tmp_path / "masks" / f"{name}.png")
    assert all(record.masks[0].stem == record.case_id for record in read_folder(tmp_path))


def test_masks_beside_their_images(tmp_path: Path) -> None:
    names = ("a/x.png", "a/x_mask.tif", "a/x_mask_1.png", "b/x.png", "y_mask.png", "y_mask_2.png")
    first, *masks, unlabeled, alone, _ = (_picture(tmp_path / name) for name in names)
    records = read_folder(tmp_path)
    assert {record.case_id: record.image for record in records} == {
        "a/x": first,
        "b/x": unlabeled,
        "y_mask": alone,  # of no image: an image itself
        "y_mask_2": tmp_path / "y_mask_2.png",
    }
    assert {record.case_id: set(record.masks) for record in records if record.masks} == {"a/x": set(masks)}
    assert read_folder(tmp_path, tmp_path) == records  # named as the folder of masks, too
    listed = {item.image: set(item.masks) for item in list_dataset(tmp_path, layout="folder").items if item.masks}
    assert listed == {first: set(masks)}


def test_a_mask_and_an_annotation_beside_one_image_are_too_many(tmp_path: Path) -> None:
    for name in ("x.png", "x_mask.png"):
        _picture(tmp_path / name)
    _labelme(tmp_path / "x.json", (0, 0, 2, 2))
    with pytest.raises(ValueError, match=r"1 images have several masks: x \(x_mask\.png, x\.json\)"):
        read_folder(tmp_path, drawn=tmp_path / "drawn")


def test_images_of_one_stem_are_ambiguous(tmp_path: Path) -> None:
    _picture(tmp_path / "x.png")
    _picture(tmp_path / "x.jpg")
    with pytest.raises(ValueError, match=r"x\.jpg and x\.png"):
        read_folder(tmp_path)


def test_orphans_and_double_masks_are_listed_together(tmp_path: Path) -> None:
    _picture(tmp_path / "images" / "x.png")
    for name in ("x.png", "x_seg.png", "y.png"):
        _picture(tmp_path / "masks" / name)
    with pytest.raises(
        ValueError, match=r"1 masks have no image .*y\.png; 1 images have several masks: x \(x\.png, x_seg\.png\)"
    ):
        read_folder(tmp_path)


def test_empty_and_missing_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no image"):
        read_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        read_folder(tmp_path / "none")


def _labelme(path: Path, *boxes: tuple[int, int, int, int], image: str = "", **more: Any) -> Path:
    """labelme's file with boxes (left, top, right, bottom) as polygons."""
    corners = [[[x0, y0], [x1, y0], [x1, y1], [x0, y1]] for x0, y0, x1, y1 in boxes]
    shapes = [{"label": "lesion", "points": points, "shape_type": "polygon"} for points in corners]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"shapes": shapes, "imagePath": image or f"{path.stem}.png", **more}))
    return path


def _coco(path: Path, boxes: dict[str, list[tuple[int, int, int, int]]], **size: int) -> Path:
    images, annotations = [], []
    for number, (name, of_image) in enumerate(boxes.items()):
        images.append({"id": number, "file_name": name, **size})
        for x0, y0, x1, y1 in of_image:
            annotations.append({"image_id": number, "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]]})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))
    return path


def test_labelme_beside_the_images(tmp_path: Path) -> None:
    for name in ("a/x.png", "a/y.png", "z.png"):
        _picture(tmp_path / "in" / name)
    _labelme(tmp_path / "in" / "a" / "x.json", (0, 0, 2, 2), (3, 1, 5, 4), imageHeight=4, imageWidth=5)
    _labelme(tmp_path / "in" / "z.json")
    (tmp_path / "in" / "a" / "y.json").write_text('{"patient": 3}')  # another program's file says nothing of lesions
    x, y, z = read_folder(tmp_path / "in", drawn=tmp_path / "out")
    assert [(r.case_id, r.masks) for r in (x, y, z)] == [
        ("a/x", (tmp_path / "out" / "a" / "x.png",)),
        ("a/y", ()),
        ("z", (tmp_path / "out" / "z.png",)),
    ]
    expected = np.zeros((4, 5), dtype=bool)
    expected[:2, :2] = expected[1:4, 3:5] = True
    np.testing.assert_array_equal(read_mask(x.masks), expected)
    assert not read_mask(z.masks).any()
    assert read_mask(z.masks).shape == (4, 5)


def test_masks_and_annotations_in_one_folder(tmp_path: Path) -> None:
    for name in ("x", "y", "z"):
        _picture(tmp_path / "images" / f"{name}.jpg")
    mask = _picture(tmp_path / "masks" / "x_mask.png")
    _labelme(tmp_path / "masks" / "y.json", (0, 0, 2, 2), image="elsewhere/y.jpg")
    _labelme(tmp_path / "masks" / "other name.json", (0, 0, 1, 1), image="z.jpg")
    x, y, z = read_folder(tmp_path, drawn=tmp_path / "out")
    assert x.masks == (mask,)
    assert (read_mask(y.masks).sum(), read_mask(z.masks).sum()) == (4, 1)
    assert read_folder(tmp_path / "images", tmp_path / "masks", drawn=tmp_path / "out") == [x, y, z]


@pytest.mark.parametrize("place", ["annotations.json", "annotations/instances_default.json", "images/_all.coco.json"])
def test_coco_where_tools_put_it(tmp_path: Path, place: str) -> None:
    for name in ("a/x.png", "a/y.png", "z.png"):
        _picture(tmp_path / "images" / name)
    boxes: dict[str, list[tuple[int, int, int, int]]] = {"a/x.png": [(0, 0, 2, 2), (3, 0, 5, 1)], "z.png": []}
    _coco(tmp_path / place, boxes, height=4, width=5)
    folder = tmp_path / "images" if place.startswith("images") else tmp_path
    x, y, z = read_folder(folder, drawn=tmp_path / "out")
    assert [bool(record.masks) for record in (x, y, z)] == [True, False, True]
    assert (read_mask(x.masks).sum(), read_mask(z.masks).sum()) == (6, 0)


def test_a_coco_file_by_its_path_that_forgot_the_folders(tmp_path: Path) -> None:
    for name in ("a/x.png", "b/x.png", "b/y.png"):
        _picture(tmp_path / "in" / name)
    file = _coco(tmp_path / "c.json", {"y.png": [(0, 0, 1, 1)]})
    records = read_folder(tmp_path / "in", file, drawn=tmp_path / "out")
    assert [record.case_id for record in records if record.masks] == ["b/y"]
    _coco(file, {"x.png": []})  # could be either
    with pytest.raises(ValueError, match=r"1 masks have no image .*x\.png"):
        read_folder(tmp_path / "in", file, drawn=tmp_path / "out")


def test_a_coco_file_in_a_subfolder_speaks_of_its_neighbours(tmp_path: Path) -> None:
    """As Roboflow exports: one file in each folder, with mere names."""
    for name in ("1.png", "a/1.png", "b/1.png"):
        _picture(tmp_path / "in" / name)
    _coco(tmp_path / "in" / "a" / "_annotations.coco.json", {"1.png": [(0, 0, 2, 2)]})
    records = {record.case_id: record for record in read_folder(tmp_path / "in", drawn=tmp_path / "out")}
    assert [case for case, record in records.items() if record.masks] == ["a/1"]
    _coco(tmp_path / "in" / "b" / "_annotations.coco.json", {"1.png": [(0, 0, 1, 1)]})
    records = {record.case_id: record for record in read_folder(tmp_path / "in", drawn=tmp_path / "out")}
    assert [int(read_mask(records[case].masks).sum()) for case in ("a/1", "b/1")] == [4, 1]
    _coco(tmp_path / "in" / "a" / "_annotations.coco.json", {"1.png": [], "2.png": [(0, 0, 2, 2)]})
    _picture(tmp_path / "in" / "b" / "2.png")
    with pytest.raises(ValueError, match=r"1 masks have no image .*2\.png"):
        read_folder(tmp_path / "in", drawn=tmp_path / "out")


@pytest.mark.parametrize("place", ["annotations/instances.json", "annotations/train/instances.json", "labels/c.json"])
def test_a_coco_file_in_a_folder_without_images_may_name_any(tmp_path: Path, place: str) -> None:
    for name in ("a/x.png", "b/y.png"):
        _picture(tmp_path / "in" / name)
    _coco(tmp_path / "in" / place, {"y.png": [(0, 0, 2, 2)], "x.dcm": [(0, 0, 1, 1)]})  # one was converted
    records = read_folder(tmp_path / "in", drawn=tmp_path / "out")
    assert [int(read_mask(record.masks).sum()) for record in records] == [1, 4]


def test_only_the_ending_of_an_image_is_no_part_of_its_name(tmp_path: Path) -> None:
    for name in ("1.2.png", "1.2.840.png"):
        _picture(tmp_path / "in" / name)
    _coco(tmp_path / "in" / "c.json", {"1.2.840": [(0, 0, 2, 2)]})
    records = read_folder(tmp_path / "in", drawn=tmp_path / "out")
    assert [record.case_id for record in records if record.masks] == ["1.2.840"]


def test_labelme_in_a_folder_of_its_own_that_speaks_of_another_image(tmp_path: Path) -> None:
    for name in ("x", "y"):
        _picture(tmp_path / "images" / f"{name}.png")
    _labelme(tmp_path / "labels" / "x.json", (0, 0, 2, 2), image="..\\images\\y.png")
    with pytest.raises(ValueError, match=r"x\.json lies beside x and says that it is of \.\./images/y\.png"):
        read_folder(tmp_path / "images", tmp_path / "labels", drawn=tmp_path / "out")
    (tmp_path / "images" / "x.png").rename(tmp_path / "images" / "z.png")  # then what it says counts
    records = read_folder(tmp_path / "images", tmp_path / "labels", drawn=tmp_path / "out")
    assert [record.case_id for record in records if record.masks] == ["y"]


def test_only_the_given_masks_count(tmp_path: Path) -> None:
    _picture(tmp_path / "in" / "x.png")
    _labelme(tmp_path / "in" / "x.json", (0, 0, 2, 2))
    mask = _picture(tmp_path / "masks" / "x.png")
    assert read_folder(tmp_path / "in", tmp_path / "masks")[0].masks == (mask,)
    [record] = read_folder(tmp_path / "in", tmp_path / "in", drawn=tmp_path / "out")  # no image is its own mask
    assert read_mask(record.masks).sum() == 4


def test_annotations_that_are_refused(tmp_path: Path) -> None:
    images, out = tmp_path / "in", tmp_path / "out"
    for name in ("x.png", "y.png"):
        _picture(images / name)
    first, second = _labelme(images / "x.json", (0, 0, 2, 2)), images / "y.json"
    with pytest.raises(ValueError, match=r"x\.json is an annotation file: name a folder"):
        read_folder(images)
    with pytest.raises(ValueError, match="among the images of"):
        read_folder(images, drawn=images / "labels")
    _labelme(second, imageHeight=5, imageWidth=4)
    with pytest.raises(ValueError, match=r"1 annotations .*y\.json is for 4 x 5, .*y\.png has 5 x 4"):
        read_folder(images, drawn=out)
    second.write_text(first.read_text()[:20])
    _labelme(images / "gone.json")
    with pytest.raises(ValueError, match=r"y\.json is no JSON .*; 1 masks have no image in .*gone\.png"):
        read_folder(images, drawn=out)
    (images / "gone.json").unlink()
    second.unlink()
    _coco(images / "all.json", {"x.png": []})
    with pytest.raises(ValueError, match=r"1 images have several masks: x \(all\.json, x\.json\)"):
        read_folder(images, drawn=out)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match=r"other\.json is neither of labelme nor of COCO"):
        read_folder(images, tmp_path / "other.json", drawn=out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no image and no annotation"):
        read_folder(images, tmp_path / "empty", drawn=out)
    assert not out.exists()


def test_outlines_that_nobody_changed_are_told(tmp_path: Path) -> None:
    _picture(tmp_path / "in" / "x.png")
    digest = proposal_digest([Shape(False, (np.array([[0, 0], [2, 0], [2, 2], [0, 2]]),))])
    _labelme(tmp_path / "in" / "x.json", (0, 0, 2, 2), phnet_proposal=digest)
    with pytest.warns(UserWarning, match="1 images have the outlines that the model proposed, unchanged: x"):
        [record] = read_folder(tmp_path / "in", drawn=tmp_path / "out")
    assert read_mask(record.masks).sum() == 4


def test_an_annotation_is_not_given_to_another_image(tmp_path: Path) -> None:
    """Whoever wrote the folder meant it; only a bare name may belong to an image in any folder."""
    _picture(tmp_path / "in" / "p1" / "img1.png")
    lost = _labelme(tmp_path / "in" / "p2" / "img1.json", (0, 0, 2, 2))
    with pytest.raises(ValueError, match=r"1 masks have no image .*img1\.png"):
        read_folder(tmp_path / "in", drawn=tmp_path / "out")
    lost.unlink()
    file = _coco(tmp_path / "c.json", {"p2/img1.png": [(0, 0, 1, 1)]})
    with pytest.raises(ValueError, match=r"1 masks have no image .*p2/img1\.png"):
        read_folder(tmp_path / "in", file, drawn=tmp_path / "out")
    _coco(file, {"in/img1.png": [(0, 0, 1, 1)]})  # the folder of all images is none of its own
    assert read_folder(tmp_path / "in", file, drawn=tmp_path / "out")[0].masks


def test_an_annotation_of_two_minds_is_refused(tmp_path: Path) -> None:
    for name in ("x", "y"):
        _picture(tmp_path / "in" / "a" / f"{name}.png")
    file = _labelme(tmp_path / "in" / "a" / "x.json", (0, 0, 2, 2), image="y.png")
    with pytest.raises(ValueError, match=r"x\.json lies beside a/x and says that it is of y\.png, and both"):
        read_folder(tmp_path / "in", drawn=tmp_path / "out")
    _labelme(file, (0, 0, 2, 2), image="../../images/a/x.png")  # as a tool writes it that saves elsewhere
    assert [bool(r.masks) for r in read_folder(tmp_path / "in", drawn=tmp_path / "out")] == [True, False]


def test_masks_below_the_images_are_no_images(tmp_path: Path) -> None:
    for name in ("x", "y"):
        _picture(tmp_path / "flat" / f"{name}.png")
        _picture(tmp_path / "flat" / "masks" / f"{name}.png")
    records = read_folder(tmp_path / "flat", tmp_path / "flat" / "masks")
    assert [(record.case_id, len(record.masks)) for record in records] == [("x", 1), ("y", 1)]
    assert (
        len(audit(tmp_path / "flat", masks=tmp_path / "flat" / "masks", progress=False).of("masks-without-image")) == 0
    )


def test_images_of_coco_that_nobody_has_annotated_are_told(tmp_path: Path) -> None:
    for name in ("x", "y", "z"):
        _picture(tmp_path / "in" / f"{name}.png")
    _coco(tmp_path / "in" / "all.json", {"x.png": [(0, 0, 2, 2)], "y.png": [], "z.png": []})
    with pytest.warns(UserWarning, match="2 images are listed without any annotation: y, z"):
        read_folder(tmp_path / "in", drawn=tmp_path / "out")


@pytest.mark.parametrize("box", [(7, 7, 9, 9), (0.1, 0.1, 0.4, 0.4)])
def test_outlines_that_cover_no_pixel_are_refused(box: tuple[int, int, int, int], tmp_path: Path) -> None:
    """Beside the image, or in shares of its size."""
    _picture(tmp_path / "in" / "x.png")
    _labelme(tmp_path / "in" / "x.json", (0, 0, 2, 2), box)
    with pytest.raises(ValueError, match=r"1 annotations do not fit .*outline 2 of x\.png covers no pixel"):
        read_folder(tmp_path / "in", drawn=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    found = audit(tmp_path / "in", progress=False)
    assert any("covers no pixel" in finding.text for finding in found.findings)


@pytest.mark.parametrize(
    ("labels", "told"), [(["hole", "lesion"], True), (["lesion", "hole"], False), (["hole"], True)]
)
def test_holes_that_take_nothing_away_are_told(labels: list[str], told: bool, tmp_path: Path) -> None:
    _picture(tmp_path / "in" / "x.png")
    boxes = {"lesion": [[0, 0], [5, 0], [5, 4], [0, 4]], "hole": [[1, 1], [2, 1], [2, 2], [1, 2]]}
    shapes = [{"label": label, "points": boxes[label], "shape_type": "polygon"} for label in labels]
    (tmp_path / "in" / "x.json").write_text(json.dumps({"shapes": shapes, "imagePath": "x.png"}))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_folder(tmp_path / "in", drawn=tmp_path / "out")
    assert any("1 images have holes that take nothing away: x" in str(one.message) for one in caught) == told


def test_a_run_length_code_tells_the_size_of_its_image(tmp_path: Path) -> None:
    _picture(tmp_path / "in" / "x.png")
    code = {"size": [2, 3], "counts": [2, 4]}
    content = {
        "images": [{"id": 1, "file_name": "x.png"}],
        "annotations": [{"image_id": 1, "segmentation": code}],
        "categories": [],
    }
    (tmp_path / "in" / "all.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"all\.json is for 3 x 2, .*x\.png has 5 x 4"):
        read_folder(tmp_path / "in", drawn=tmp_path / "out")


def test_bitmaps_of_a_file_are_held_cropped_and_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = {"id": 1, "file_name": "x.png", "height": 40, "width": 50}
    code = {"size": [40, 50], "counts": [40 * 7 + 3, 4, 36, 4, 40 * 42 - 7]}
    found = read_annotations(coco_file(tmp_path / "a.json", image, [code] * 12))
    assert found is not None
    bits, corner = found[0].shapes[11].bitmap
    assert (bits.shape, bits.base, corner) == ((4, 2), None, (3, 7))
    assert draw_mask(found[0].shapes, (40, 50)).nonzero()[0].tolist() == [3, 3, 4, 4, 5, 5, 6, 6]
    monkeypatch.setattr("phnet_monai.data.annotations.MAX_STACK_PIXELS", 95)
    with pytest.raises(AnnotationError, match=r"a\.json: its masks have together more than the 0 million pixels"):
        read_annotations(tmp_path / "a.json")


def coco_file(path: Path, image: dict, codes: list[dict]) -> Path:
    entries = [{"image_id": 1, "segmentation": code} for code in codes]
    path.write_text(json.dumps({"images": [image], "annotations": entries, "categories": []}))
    return path


def test_a_failed_division_leaves_the_masks_of_the_earlier_one(tmp_path: Path) -> None:
    for number in range(6):
        image = _picture(tmp_path / "in" / f"{number}.png", 40 * number)
        _labelme(image.with_suffix(".json"), (0, 0, 2, 2))
    prepare_folder(tmp_path / "in", tmp_path / "out", labeled=1, protocol="paper", progress=False)
    masks = {path.name: path.read_bytes() for path in (tmp_path / "out" / "labels").iterdir()}
    for number in range(6):
        _labelme(tmp_path / "in" / f"{number}.json", (0, 0, 3, 3))
    with pytest.raises(ValueError, match="labeled"):
        prepare_folder(tmp_path / "in", tmp_path / "out", labeled=50, protocol="paper", overwrite=True, progress=False)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out" / "labels").iterdir()} == masks
    prepare_folder(tmp_path / "in", tmp_path / "out", labeled=1, protocol="paper", overwrite=True, progress=False)
    assert all(read_mask([tmp_path / "out" / "labels" / name]).sum() == 9 for name in masks)


def test_busi_images_of_one_stem_are_refused(busi: Path) -> None:
    image = next(path for path in (busi / "benign").iterdir() if "mask" not in path.name)
    image.with_suffix(".jpg").write_bytes(image.read_bytes())
    with pytest.raises(ValueError, match="images of the same name and different suffix"):
        read_busi(busi)


@pytest.mark.real_data
def test_real_busi_counts() -> None:
    folder = os.environ.get("PHNET_DATA")
    if not folder:
        pytest.skip("PHNET_DATA names no folder with real data")
    records = read_busi(folder)
    assert len(records) == 582
    assert sum(len(record.masks) - 1 for record in records) == 16
    assert len(read_busi(folder, normals=True)) == 702
    for record in (record for record in records if len(record.masks) > 1):
        parts = [read_mask(mask) for mask in record.masks]
        union = read_mask(record.masks)
        assert union.sum() > max(part.sum() for part in parts), record.case_id
        np.testing.assert_array_equal(union, np.logical_or.reduce(parts))


HEADER = "ID,Case,Histology,Pathology,BIRADS,Device,Width,Height,Side,BBOX"


def _busbra_table(root: Path, rows: list[str], header: str = HEADER) -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / "bus_data.csv").write_bytes("\r\n".join([header, *rows, ""]).encode())


def _busbra_row(name: str, patient: int, pathology: str = "benign") -> str:
    return f'{name},{patient},fibroadenoma,{pathology},3,"GE Logiq, 7",5,4,left,"[1,2,3,4]"'


@pytest.fixture
def busbra(tmp_path: Path) -> Path:
    """Patient 10 with one image, 2 and 3 with two."""
    root = tmp_path / "parent" / "BUSBRA"
    patients = {"0010-s": 10, "0002-l": 2, "0002-r": 2, "0003-l": 3, "0003-r": 3}
    for name in patients:
        _picture(root / "Images" / f"bus_{name}.png", 9)
        _picture(root / "Masks" / f"mask_{name}.png", 255)
    kinds = {name: "malignant" if patient == 3 else "benign" for name, patient in patients.items()}
    _busbra_table(root, [_busbra_row(f"bus_{name}", patient, kinds[name]) for name, patient in patients.items()])
    return root


def test_busbra_patients_and_classes(busbra: Path) -> None:
    records = read_busbra(busbra)
    assert [record.case_id for record in records] == [
        "bus_0002-l",
        "bus_0002-r",
        "bus_0003-l",
        "bus_0003-r",
        "bus_0010-s",
    ]
    assert [record.group_id for record in records] == [f"patient {n}" for n in (2, 2, 3, 3, 10)]
    assert [record.class_name for record in records] == ["benign"] * 2 + ["malignant"] * 2 + ["benign"]
    assert [record.masks[0].name for record in records][:2] == ["mask_0002-l.png", "mask_0002-r.png"]
    assert records[0].details == {
        "device": "GE Logiq, 7",
        "birads": "3",
        "histology": "fibroadenoma",
        "side": "left",
        "patient": "2",
    }


def test_busbra_is_found_from_its_parent_and_with_a_byte_order_mark(busbra: Path) -> None:
    before = read_busbra(busbra.parent)
    table = busbra / "bus_data.csv"
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())
    (busbra / "Images" / "._bus_0002-l.png").touch()
    assert read_busbra(busbra) == before


def test_busbra_image_without_mask_is_unlabeled(busbra: Path) -> None:
    (busbra / "Masks" / "mask_0003-r.png").unlink()
    with pytest.warns(UserWarning, match="bus_0003-r"):
        records = read_busbra(busbra)
    assert [record.case_id for record in records if not record.masks] == ["bus_0003-r"]


@pytest.mark.parametrize("name", ["Images", "Masks", "bus_data.csv"])
def test_busbra_with_a_part_missing(busbra: Path, name: str) -> None:
    (busbra / name).rename(busbra.parent / "elsewhere")
    with pytest.raises(FileNotFoundError, match=rf"BUSBRA lacks {name}"):
        read_busbra(busbra)


def test_not_busbra(tmp_path: Path) -> None:
    (tmp_path / "else").mkdir()
    with pytest.raises(FileNotFoundError, match=r"is not BUS-BRA.*found else"):
        read_busbra(tmp_path)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        read_busbra(tmp_path / "none")


def test_busbra_tables_that_are_refused(busbra: Path) -> None:
    good = (busbra / "bus_data.csv").read_text().splitlines()[1:]
    for rows, header, message in (
        (good, HEADER.replace("Case", "Patient"), r"bus_data\.csv has no column Case"),
        (good, HEADER.replace(",", ";"), "no column ID or Case or Pathology"),
        ([], HEADER, r"bus_data\.csv has no rows"),
        ([*good, good[0]], HEADER, "row 7: bus_0010-s stands twice"),
        ([*good[:-1], _busbra_row("bus_0003-r", 3, "normal")], HEADER, "row 6: Pathology is 'normal'"),
        ([good[0].replace(",10,", ",,"), *good[1:]], HEADER, "row 2: Case is empty"),
        (good[:-1], HEADER, r"does not name 1 images .*bus_0003-r"),
    ):
        _busbra_table(busbra, rows, header)
        with pytest.raises(ValueError, match=message):
            read_busbra(busbra)
    (busbra / "bus_data.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"bus_data\.csv cannot be read as a table"):
        read_busbra(busbra)


def test_busbra_files_that_do_not_belong_together(busbra: Path) -> None:
    _picture(busbra / "Masks" / "mask_0077-l.png")
    with pytest.raises(ValueError, match=r"1 masks without an image: mask_0077-l\.png"):
        read_busbra(busbra)
    (busbra / "Masks" / "mask_0077-l.png").rename(busbra / "Masks" / "0002-l.png")
    with pytest.raises(ValueError, match=r"1 masks without an image: 0002-l\.png"):
        read_busbra(busbra)
    (busbra / "Masks" / "0002-l.png").unlink()
    _picture(busbra / "Images" / "bus_0002-l.bmp")
    with pytest.raises(ValueError, match=r"bus_0002-l\.bmp and bus_0002-l\.png"):
        read_busbra(busbra)
    for ending in ("bmp", "png"):
        (busbra / "Images" / f"bus_0002-l.{ending}").unlink()
    with pytest.raises(FileNotFoundError, match=r"Images lacks 1 images that bus_data\.csv names: bus_0002-l"):
        read_busbra(busbra)


@pytest.mark.real_data
def test_real_busbra_counts() -> None:
    folder = os.environ.get("PHNET_DATA")
    if not folder:
        pytest.skip("PHNET_DATA names no folder with real data")
    records = read_busbra(folder)
    assert len(records) == 389
    assert Counter(record.class_name for record in records) == {"benign": 273, "malignant": 116}
    patients = Counter(record.group_id for record in records)
    assert Counter(patients.values()) == {2: 169, 1: 51}
    assert all(len(record.masks) == 1 and set(record.details) == {*DETAILS, PATIENT} for record in records)
