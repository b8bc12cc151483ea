"""Which images are found, how results are called, which paths are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from phnet_monai.inference.files import check_paths, find_images, result_names


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def named(*images: str) -> dict[str, str]:
    return {str(k): str(v) for k, v in result_names([Path(i) for i in images]).items()}


def test_images_by_ending_in_all_subfolders(tmp_path: Path) -> None:
    touch(tmp_path, "b.PNG", "a/x.jpeg", "a/b/y.tif", "notes.txt", "z.dcm", "._b.PNG", ".trash/q.png", "a/.hidden.png")
    assert [p.as_posix() for p in find_images(tmp_path)] == ["a/b/y.tif", "a/x.jpeg", "b.PNG"]


def test_a_single_file(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png")
    assert find_images(tmp_path / "b.png") == [Path("b.png")]


@pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")
def test_a_link_in_a_circle_ends(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.png")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    assert find_images(tmp_path) == [Path("a/x.png")]


def test_names_of_results() -> None:
    assert named("x.jpg", "a/x.png", "a/benign (1).tif", "v1.2.bmp") == {
        "x.jpg": "x.png",
        "a/x.png": "a/x.png",
        "a/benign (1).tif": "a/benign (1).png",
        "v1.2.bmp": "v1.2.png",
    }


def test_same_stem_in_one_folder_keeps_the_endings() -> None:
    assert named("a/x.jpg", "a/x.png", "b/x.png") == {
        "a/x.jpg": "a/x.jpg.png",
        "a/x.png": "a/x.png.png",
        "b/x.png": "b/x.png",
    }


@pytest.mark.parametrize(
    "images",
    [
        ("a.jpg", "a.png", "a.jpg.png"),
        ("a.jpg", "a.png", "a.jpg.png", "a.jpg.png.png", "a.png.png"),
        ("A.png", "a.jpg"),
        ("x.tif", "x.tiff", "X.TIF", "x.bmp"),
    ],
)
def test_no_two_images_share_a_name_on_any_disk(images: tuple[str, ...]) -> None:
    names = named(*images)
    assert len({str(name) for name in names.values()}) == len(images)
    alike = {str(image).casefold() for image in images}
    assert len({str(name).casefold() for name in names.values()}) == len(alike)


def test_out_in_the_input_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png")
    for out in ("in", "in/results", "in/../in/deep/results"):
        with pytest.raises(ValueError, match="lies in the input folder"):
            check_paths(tmp_path / "in", tmp_path / out)


@pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")
def test_out_in_the_input_through_a_link_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    with pytest.raises(ValueError, match="lies in the input folder"):
        check_paths(tmp_path / "in", tmp_path / "link" / "o")


def test_input_among_the_results_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "o/masks/a.png")
    for source in ("o/masks", "o/masks/a.png"):
        with pytest.raises(ValueError, match="among the results"):
            check_paths(tmp_path / source, tmp_path / "o")


def test_other_wrong_paths(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png", "file", "scan.dcm")
    with pytest.raises(FileNotFoundError, match="nope"):
        check_paths(tmp_path / "nope", tmp_path / "o")
    with pytest.raises(ValueError, match=r"scan\.dcm is no image"):
        check_paths(tmp_path / "scan.dcm", tmp_path / "o")
    for out in ("file", "file/below"):
        with pytest.raises(NotADirectoryError, match="file is a file"):
            check_paths(tmp_path / "in", tmp_path / out)


def test_right_paths(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png")
    pairs = [("in", "o"), ("in", "in2"), ("in/a.png", "."), ("in/a.png", "in")]
    for source, out in pairs:
        assert check_paths(tmp_path / source, tmp_path / out) == (tmp_path / source, tmp_path / out)
