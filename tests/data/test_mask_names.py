"""`phnet_monai.data.mask_names`."""

from __future__ import annotations

from pathlib import Path

import pytest

from phnet_monai.data.decode import image_items
from phnet_monai.data.mask_names import without_masks
from phnet_monai.inference.files import find_scans, stem


def split(*names: str) -> tuple[list[str], list[str]]:
    scans = [Path(name) for name in names]
    kept, masks = without_masks(scans, [stem(scan.name) for scan in scans])
    return [str(path) for path in kept], [str(path) for path in masks]


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("benign (1).png", "benign (1)_mask.png"),
        ("benign (1).png", "benign (1)_mask_1.png"),
        ("a/x.jpg", "a/x_mask.tif"),
        ("x.nii.gz", "x_mask.nii.gz"),
        ("images/x.jpg", "masks/x.png"),
        ("images/x.jpg", "masks/x_mask.png"),
        ("images/x.jpg", "masks/x_seg.png"),
        ("images/x.jpg", "masks/x_label.png"),
        ("site/images/p/x.jpg", "site/masks/p/x.png"),
        ("masks/images/x.jpg", "masks/masks/x.png"),
    ],
)
def test_masks_beside_their_images(image: str, mask: str) -> None:
    assert split(mask, image) == ([image], [mask])


@pytest.mark.parametrize(
    "names",
    [
        ("x_mask.png",),
        ("a/x.png", "b/x_mask.png"),
        ("x.png", "x_seg.png"),
        ("x.png", "x_label.png"),
        ("x.png", "x_masked.png"),
        ("x.png", "x_mask_a.png"),
        ("masks/x.png",),
        ("images/x.png", "masks/y.png"),
        ("images/a/x.png", "masks/b/x.png"),
        ("images/x.png", "maskes/x.png"),
        ("image/x.png", "masks/x.png"),
    ],
)
def test_scans_whose_image_is_not_there_or_that_are_called_otherwise(names: tuple[str, ...]) -> None:
    assert split(*names) == (list(names), [])


def test_folder_pattern_and_file(tmp_path: Path) -> None:
    for name in ("x.png", "x_mask.png", "y.png"):
        (tmp_path / name).touch()
    for source in (tmp_path, tmp_path / "*.png"):
        found = find_scans(source)
        assert (found.scans, found.masks) == ([Path("x.png"), Path("y.png")], [Path("x_mask.png")])
    # what is asked for by itself is wanted
    assert find_scans(tmp_path / "x_mask.png").scans == [Path("x_mask.png")]
    assert find_scans(tmp_path / "*_mask.png").scans == [Path("x_mask.png")]


def test_pictures_of_inference_json(tmp_path: Path) -> None:
    for name in ("b.png", "b_mask.png", "a.jpg", ".hidden.png", "._b.png", "notes.txt"):
        (tmp_path / name).touch()
    assert [Path(item["image"]).name for item in image_items(tmp_path)] == ["a.jpg", "b.png"]
    (tmp_path / "A.png").touch()
    with pytest.raises(ValueError, match=r"the masks of A\.png and a\.jpg would have the same name"):
        image_items(tmp_path)
