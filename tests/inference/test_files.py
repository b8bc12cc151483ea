"""Which images are found, how results are called, which paths are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from phnet_monai.inference.files import check_paths, find_scans, result_keys, stem


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def named(*images: str) -> dict[str, str]:
    return {k.as_posix(): v.as_posix() for k, v in result_keys([Path(i) for i in images]).items()}


def found(source: Path) -> list[str]:
    return [scan.as_posix() for scan in find_scans(source).scans]


def test_images_by_ending_in_all_subfolders(tmp_path: Path) -> None:
    touch(tmp_path, "b.PNG", "a/x.jpeg", "a/b/y.tif", "notes.txt", "z.dcm", "._b.PNG", ".trash/q.png", "a/.hidden.png")
    touch(tmp_path, "s.nii", "a/t.NII.GZ", "u.gz", "README")
    (tmp_path / "IM0001").write_bytes(bytes(128) + b"DICM")
    assert found(tmp_path) == ["IM0001", "a/b/y.tif", "a/t.NII.GZ", "a/x.jpeg", "b.PNG", "s.nii", "z.dcm"]


def test_patterns(tmp_path: Path) -> None:
    touch(tmp_path, "day1/a.png", "day1/deep/b.png", "day2/c.dcm", "day2/n.txt", "other/d.png", "day1/.e.png")
    assert found(tmp_path / "day*") == ["day1/a.png", "day1/deep/b.png", "day2/c.dcm"]
    assert found(tmp_path / "*" / "*.png") == ["day1/a.png", "other/d.png"]
    assert found(tmp_path / "**" / "*.png") == ["day1/a.png", "day1/deep/b.png", "other/d.png"]
    assert find_scans(tmp_path / "day1" / "*.png").folder == tmp_path / "day1"
    assert found(tmp_path / "nothing*") == []


def test_a_name_with_brackets_is_a_file_before_it_is_a_pattern(tmp_path: Path) -> None:
    touch(tmp_path, "a[1].png", "a1.png")
    assert found(tmp_path / "a[1].png") == ["a[1].png"]


def test_a_single_file(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png")
    assert found(tmp_path / "b.png") == ["b.png"]
    assert find_scans(tmp_path / "b.png").folder == tmp_path


def test_results_beside_the_images_are_no_images(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "masks/a.png", "overlays/a.png", "records/a.json", "run.json", "later/b.png")
    touch(tmp_path, "other/masks/c.png")  # somebody's folder of that name, which no run made
    assert found(tmp_path) == ["a.png", "later/b.png", "other/masks/c.png"]


@pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")
def test_a_link_in_a_circle_ends(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.png")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    assert found(tmp_path) == ["a/x.png"]


@pytest.mark.skipif(os.name != "posix", reason="pipes and links are made otherwise elsewhere")
def test_pipes_are_passed_over_and_patterns_do_not_follow_links(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.png")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    os.mkfifo(tmp_path / "a" / "pipe")
    (tmp_path / "a" / "broken.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert found(tmp_path) == ["a/broken.png", "a/x.png"]  # what is broken is listed, and fails with its reason
    assert found(tmp_path / "**" / "*.png") == ["a/broken.png", "a/x.png"]


def test_the_longest_names_fit() -> None:
    longest = "ü" * 125 + ".png"
    other = "ü" * 125 + ".jpg"
    keys = named(longest, other)
    assert len(set(keys.values())) == 2
    assert all(len(f"{key}.nii.gz".encode()) <= 255 for key in keys.values())
    assert all(key.startswith("ü" * 100) for key in keys.values())


def test_names_of_results() -> None:
    assert named("x.jpg", "a/x.png", "a/benign (1).tif", "v1.2.bmp", "s.nii.gz", "d.DCM", "IM0001") == {
        "x.jpg": "x",
        "a/x.png": "a/x",
        "a/benign (1).tif": "a/benign (1)",
        "v1.2.bmp": "v1.2",
        "s.nii.gz": "s",
        "d.DCM": "d",
        "IM0001": "IM0001",
    }


def test_same_stem_in_one_folder_keeps_the_endings() -> None:
    assert named("a/x.jpg", "a/x.png", "b/x.png", "y.nii.gz", "y.dcm", "y") == {
        "a/x.jpg": "a/x.jpg",
        "a/x.png": "a/x.png",
        "b/x.png": "b/x",
        "y.nii.gz": "y.nii.gz",
        "y.dcm": "y.dcm",
        "y": "y",
    }


def test_a_folder_that_is_called_like_a_result() -> None:
    assert named(
        "x.jpg", "x.png/y.jpg", "r.png", "R.json/q.png", "z.nii", "z.nii.gz/w.png", "d.dcm", "d.dcm.d/e.dcm"
    ) == {
        "x.jpg": "x.jpg",
        "x.png/y.jpg": "x.png/y",
        "r.png": "r.png",
        "R.json/q.png": "R.json/q",
        "z.nii": "z.nii",
        "z.nii.gz/w.png": "z.nii.gz/w",
        "d.dcm": "d",
        "d.dcm.d/e.dcm": "d.dcm.d/e",
    }


def test_a_name_that_is_only_an_ending_stays() -> None:
    assert stem("png") == "png"
    assert stem("a.nii") == "a"
    assert stem("a.nii.gz.png") == "a.nii.gz"


@pytest.mark.parametrize(
    "images",
    [
        ("a.jpg", "a.png", "a.jpg.png"),
        ("a.jpg", "a.png", "a.jpg.png", "a.jpg.png.png", "a.png.png"),
        ("A.png", "a.jpg"),
        ("x.tif", "x.tiff", "X.TIF", "x.bmp"),
        ("x.nii", "x.nii.gz", "x.dcm", "x", "x.nii.png"),
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


def test_out_where_a_pattern_would_find_it_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "in/day1/a.png", "in/o/masks/a.png")
    for pattern, out in [("in/**/*.png", "in/results"), ("in/*", "in/o")]:
        with pytest.raises(ValueError, match="lies in the input folder"):
            check_paths(tmp_path / pattern, tmp_path / out)
    check_paths(tmp_path / "in/day*", tmp_path / "in/o")  # cannot be matched


@pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")
def test_out_in_the_input_through_a_link_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    with pytest.raises(ValueError, match="lies in the input folder"):
        check_paths(tmp_path / "in", tmp_path / "link" / "o")


@pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")
def test_results_that_would_lie_in_the_input_through_a_link_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png", "o/x")
    (tmp_path / "o" / "masks").symlink_to(tmp_path / "in")
    for source in ("in", "in/*", "in/a.png"):
        with pytest.raises(ValueError, match=r"lies in the input folder|among the results"):
            check_paths(tmp_path / source, tmp_path / "o")


def test_a_pattern_passes_over_earlier_results(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png", "in/run.json", "in/records/a.json", "in/masks/a.png", "in/b/masks/c.png")
    for pattern in ("in/**/*.png", "in/*", "in/**"):
        found = find_scans(tmp_path / pattern).scans
        assert Path("masks/a.png") not in found, pattern
        assert Path("a.png") in found
    assert Path("b/masks/c.png") in find_scans(tmp_path / "in/**/*.png").scans  # a folder of that name only
    assert find_scans(tmp_path / "in/masks/*.png").scans == [Path("a.png")]  # asked for by name


@pytest.mark.parametrize("pattern", ["in/**/*.png", "in/*", "in/*/*.png", "in/closed*"])
def test_a_pattern_notes_folders_that_it_may_not_look_into(
    tmp_path: Path, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "in/open/a.png", "in/closed/b.png")
    real = os.scandir

    def refused(path: object = ".") -> object:
        if str(path).rstrip("/").endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", refused)
    found = find_scans(tmp_path / pattern)
    assert found.unreadable == {Path("closed"): "the folder cannot be read (Permission denied)"}
    assert found.scans == ([] if "closed" in pattern else [Path("open/a.png")])


def test_input_among_the_results_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "o/masks/a.png")
    for source in ("o/masks", "o/masks/a.png"):
        with pytest.raises(ValueError, match="among the results"):
            check_paths(tmp_path / source, tmp_path / "o")


def test_other_wrong_paths(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png", "file", "notes.txt")
    with pytest.raises(FileNotFoundError, match="nope"):
        check_paths(tmp_path / "nope", tmp_path / "o")
    with pytest.raises(ValueError, match=r"notes\.txt is no image"):
        check_paths(tmp_path / "notes.txt", tmp_path / "o")
    with pytest.raises(FileNotFoundError, match="gone"):
        check_paths(tmp_path / "gone" / "*.png", tmp_path / "o")
    for out in ("file", "file/below"):
        with pytest.raises(NotADirectoryError, match="file is a file"):
            check_paths(tmp_path / "in", tmp_path / out)


def test_an_empty_name_of_out_is_not_the_present_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the output folder has no name"):
        check_paths(tmp_path, "")


def test_right_paths(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png")
    pairs = [("in", "o"), ("in", "in2"), ("in/a.png", "."), ("in/a.png", "in")]
    for source, out in pairs:
        assert check_paths(tmp_path / source, tmp_path / out) == (tmp_path / source, tmp_path / out)
