"""The datalist is complete, can be moved, and hides what training must not see."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from phnet_monai.data import Record, load_datalist, load_meta, load_part, read_mask, summary, write_datalist


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, list[Record]]:
    """One labeled image with two masks, two unlabeled ones (one has a mask), one for validation, one for test."""
    folder = tmp_path / "data" / "scans"
    folder.mkdir(parents=True)

    def picture(name: str, column: int) -> Path:
        values = np.zeros((3, 4), np.uint8)
        values[:, column] = 255
        Image.fromarray(values).save(folder / name)
        return folder / name

    def record(name: str, masks: int, class_name: str | None = "benign") -> Record:
        outlines = tuple(picture(f"{name}_mask_{n}.png", n) for n in range(masks))
        return Record(picture(f"{name}.png", 3), outlines, name, f"g-{name}", class_name)

    return {
        "labeled": [record("a (1)", 2)],
        "unlabeled": [record("b", 1), record("c", 0, None)],
        "validation": [record("d", 1, "malignant")],
        "test": [record("e", 1)],
    }


def _write(parts: dict[str, list[Record]], out: Path, **options: object) -> Path:
    meta = {"dataset": "made up", "seed": 3, "labeled": "1/8", "protocol": "grouped"}
    return write_datalist(parts, out, meta=meta, progress=False, **options)


def test_round_trip(tmp_path: Path, parts: dict[str, list[Record]]) -> None:
    path = _write(parts, tmp_path / "data" / "list")
    loaded = load_datalist(path)
    assert {part: len(entries) for part, entries in loaded.items()} == {
        "labeled": 1, "unlabeled": 2, "validation": 1, "test": 1,
    }  # fmt: skip
    (entry,) = loaded["validation"]
    (record,) = parts["validation"]
    assert entry == {
        "image": str(record.image),
        "label": str(record.masks[0]),
        "case_id": "d",
        "group_id": "g-d",
        "class": "malignant",
    }
    assert loaded["labeled"][0]["image"] == str(parts["labeled"][0].image)
    assert load_datalist(path.parent) == loaded
    assert load_part(path, "test") == loaded["test"]


def test_masks_of_unlabeled_images_are_hidden(tmp_path: Path, parts: dict[str, list[Record]]) -> None:
    masked, bare = load_part(_write(parts, tmp_path / "list"), "unlabeled")
    assert "label" not in masked
    assert masked["hidden_label"] == str(parts["unlabeled"][0].masks[0])
    assert set(bare) == {"image", "case_id", "group_id"}


def test_several_masks_become_one_file(tmp_path: Path, parts: dict[str, list[Record]]) -> None:
    (entry,) = load_part(_write(parts, tmp_path / "list"), "labeled")
    assert Path(entry["label"]) == tmp_path / "list" / "labels" / "a (1).png"
    np.testing.assert_array_equal(read_mask(entry["label"]), [[True, True, False, False]] * 3)
    assert [file.name for file in (tmp_path / "list").iterdir() if file.name.startswith(".")] == []


def test_files_in_labels_that_no_datalist_names_are_kept(tmp_path: Path, parts: dict[str, list[Record]]) -> None:
    own = tmp_path / "list" / "labels" / "a (1).png"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"drawn by hand")
    for overwrite in (False, True):  # the second time the union is of the list that is replaced
        path = _write(parts, tmp_path / "list", overwrite=overwrite)
        label = Path(load_datalist(path)["labeled"][0]["label"])
        assert (label.name, own.read_bytes()) == ("a (1) (2).png", b"drawn by hand")
        assert read_mask(label).sum() == 6
    path.unlink()  # as a killed run leaves it
    assert Path(load_datalist(_write(parts, tmp_path / "list"))["labeled"][0]["label"]) == label
    assert sorted(file.name for file in own.parent.iterdir()) == ["a (1) (2).png", "a (1).png"]


def test_paths_are_relative_and_the_folder_can_be_moved(tmp_path: Path, parts: dict[str, list[Record]]) -> None:
    path = _write(parts, tmp_path / "data" / "list")
    assert str(tmp_path) not in path.read_text()
    shutil.move(tmp_path / "data", tmp_path / "elsewhere")
    moved = load_datalist(tmp_path / "elsewhere" / "list")
    assert moved["test"][0]["image"] == str(tmp_path / "elsewhere" / "scans" / "e.png")


def test_the_list_alone_cannot_be_moved_and_says_so(tmp_path: Path, parts: dict[str, list[Record]]) -> None:
    path = _write(parts, tmp_path / "data" / "list")
    alone = tmp_path / "datalist.json"
    shutil.copy(path, alone)
    with pytest.raises(
        FileNotFoundError, match=r"names 9 files that are not there: .* and 6 more.*prepare the dataset anew"
    ):
        load_datalist(alone)


def test_meta_tells_how_it_was_made(tmp_path: Path, parts: dict[str, list[Record]]) -> None:
    path = _write(parts, tmp_path / "list")
    meta = load_meta(path)
    assert (meta["version"], meta["dataset"], meta["seed"], meta["labeled"]) == (1, "made up", 3, "1/8")
    assert meta["counts"] == {"labeled": 1, "unlabeled": 2, "validation": 1, "test": 1}
    assert len(meta["sha256"]) == 9
    for name, digest in meta["sha256"].items():
        assert hashlib.sha256((path.parent / name).read_bytes()).hexdigest() == digest


def test_equal_input_gives_equal_bytes(tmp_path: Path, parts: dict[str, list[Record]]) -> None:
    path = _write(parts, tmp_path / "list")
    before = path.read_bytes()
    assert _write(parts, tmp_path / "list", overwrite=True).read_bytes() == before


def test_nothing_is_replaced_unasked(tmp_path: Path, parts: dict[str, list[Record]]) -> None:
    path = _write(parts, tmp_path / "list")
    before = path.read_bytes()
    fewer = {**parts, "unlabeled": []}
    with pytest.raises(FileExistsError, match=r"datalist\.json exists"):
        _write(fewer, tmp_path / "list")
    assert path.read_bytes() == before
    _write(fewer, tmp_path / "list", overwrite=True)
    assert load_part(path, "unlabeled") == []


def test_a_failed_write_leaves_the_old_list(tmp_path: Path, parts: dict[str, list[Record]]) -> None:
    path = _write(parts, tmp_path / "list")
    before = path.read_bytes()
    parts["test"][0].image.unlink()
    with pytest.raises(FileNotFoundError):
        _write(parts, tmp_path / "list", overwrite=True)
    assert path.read_bytes() == before
    assert not list((tmp_path / "list").glob(".*"))


def test_out_is_a_file(tmp_path: Path, parts: dict[str, list[Record]]) -> None:
    (tmp_path / "list").touch()
    with pytest.raises(NotADirectoryError, match="is a file"):
        _write(parts, tmp_path / "list")


def test_wrong_part_names(tmp_path: Path, parts: dict[str, list[Record]]) -> None:
    with pytest.raises(ValueError, match="expected"):
        write_datalist({"train": parts["test"]}, tmp_path, progress=False)
    with pytest.raises(ValueError, match="part is 'train'"):
        load_part(_write(parts, tmp_path / "list"), "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "is no datalist"),
        ('{"labeled": []}', "is no datalist"),
        (
            '{"labeled": [], "unlabeled": [], "validation": [], "test": [{"image": "a"}]}',
            "entry 0 of test lacks image or label",
        ),
        (
            '{"labeled": [], "unlabeled": [], "validation": [], "test": [], "meta": {"version": 2}}',
            "version 2, expected 1",
        ),
    ],
)
def test_other_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "datalist.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_datalist(tmp_path)


def test_no_datalist(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="phnet prepare"):
        load_datalist(tmp_path)


def test_summary_counts(tmp_path: Path, parts: dict[str, list[Record]]) -> None:
    lines = summary(_write(parts, tmp_path / "list")).splitlines()
    assert lines[0] == "made up: 5 images, protocol grouped, labeled 1/8, seed 3"
    assert lines[1].split()[:5] == ["part", "images", "-", "benign", "malignant"]
    assert [line.split() for line in lines[2:]] == [
        ["labeled", "1", "0", "1", "0", "1", "0"],
        ["unlabeled", "2", "1", "1", "0", "2", "0"],
        ["validation", "1", "0", "0", "1", "1", "0"],
        ["test", "1", "0", "1", "0", "1", "0"],
    ]


def test_summary_without_classes_has_no_column_of_them(tmp_path: Path, parts: dict[str, list[Record]]) -> None:
    bare = {part: [replace(record, class_name=None) for record in records] for part, records in parts.items()}
    header = summary(_write(bare, tmp_path / "list")).splitlines()[1]
    assert header.split() == ["part", "images", "groups", "in", "groups", "of", "2+"]


def test_the_file_is_plain_decathlon_json(tmp_path: Path, parts: dict[str, list[Record]]) -> None:
    content = json.loads(_write(parts, tmp_path / "data" / "list").read_text())
    assert content["labeled"][0]["image"] == "../scans/a (1).png"
    assert content["labeled"][0]["label"] == "labels/a (1).png"
