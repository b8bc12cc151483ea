"""One file, one patient, one scan on two sides of a split: refused unless allowed; pictures are read only if needed."""

from __future__ import annotations

import json
import logging
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from phnet_monai.data import (
    LeakError,
    check_leaks,
    find_leaks,
    load_meta,
    make_phantom,
    prepare_folder,
    refuse_leaks,
    write_phantoms,
)
from phnet_monai.data.datalist import write_datalist
from phnet_monai.data.leaks import same_files
from phnet_monai.data.records import Record
from phnet_monai.data.splits import PARTS, SIDES


def _datalist(folder: Path, meta: dict[str, Any] | None = None, **parts: list[tuple]) -> Path:
    """`datalist.json` of (image, content, further keys), with recorded digests: what is no picture is not read."""
    meta = {"sha256": {name: sha256(text).hexdigest() for p in parts.values() for name, text, *_ in p}, **(meta or {})}
    content: dict[str, Any] = {part: [] for part in PARTS}
    (folder / "mask.png").write_bytes(b"mask")
    for part, entries in parts.items():
        for name, text, *more in entries:
            (folder / name).write_bytes(text)
            label = {} if part == "unlabeled" else {"label": "mask.png"}
            content[part].append({"image": name, **label, **(more[0] if more else {})})
    content["meta"] = meta
    (folder / "datalist.json").write_text(json.dumps(content))
    return folder / "datalist.json"


def test_different_files_do_not_leak(tmp_path: Path) -> None:
    path = _datalist(tmp_path, labeled=[("a", b"1")], unlabeled=[("b", b"2")], validation=[("c", b"3")])
    assert check_leaks(path) is None
    assert check_leaks(tmp_path) is None  # the folder stands for its datalist


def test_equal_content_is_refused_and_named(tmp_path: Path) -> None:
    path = _datalist(tmp_path, labeled=[("a", b"12"), ("x", b"34")], test=[("b", b"12")])
    with pytest.raises(LeakError) as caught:
        check_leaks(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: 1 scans lie on two sides")
    assert "a (labeled) and b (test) are one file" in text
    assert "phnet" not in text.split("Scores")[0]
    assert "--allow-leak" in text


@pytest.mark.parametrize("part", ["validation", "test"])
@pytest.mark.parametrize("training", ["labeled", "unlabeled"])
def test_unlabeled_images_are_trained_on(tmp_path: Path, training: str, part: str) -> None:
    path = _datalist(tmp_path, **{training: [("a", b"12")], part: [("b", b"12")]})
    with pytest.raises(LeakError, match="are one file"):
        check_leaks(path)


def test_one_side_may_repeat_itself(tmp_path: Path) -> None:
    patient = {"group_id": "p1"}
    path = _datalist(tmp_path, labeled=[("a", b"12", patient)], unlabeled=[("b", b"12", patient)], test=[("c", b"3")])
    assert check_leaks(path) is None


def test_a_patient_on_two_sides(tmp_path: Path) -> None:
    path = _datalist(tmp_path, labeled=[("a", b"1", {"group_id": "p7"})], validation=[("b", b"22", {"group_id": "p7"})])
    with pytest.raises(LeakError, match=r"a \(labeled\) and b \(validation\) are of group p7"):
        check_leaks(path)
    assert "Allowed by --allow-leak" in str(check_leaks(path, allow=True))


@pytest.mark.parametrize("meta", [{"protocol": "paper"}, {"leak_allowed": "protocol paper"}])
def test_the_datalist_may_allow_it(tmp_path: Path, meta: dict[str, str]) -> None:
    path = _datalist(tmp_path, meta, labeled=[("a", b"12")], test=[("b", b"12")])
    assert "Allowed by protocol paper" in str(check_leaks(path))


@pytest.mark.parametrize("meta", [{"protocol": "paper"}, {"leak_allowed": "protocol paper"}])
def test_no_protocol_allows_one_image_on_two_sides(tmp_path: Path, meta: dict[str, str]) -> None:
    path = _datalist(tmp_path, meta, labeled=[("a", b"1")], test=[("a", b"1")])
    with pytest.raises(LeakError, match=r"a \(labeled\) and a \(test\) are one file"):
        check_leaks(path)
    assert "Allowed by --allow-leak" in str(check_leaks(path, allow=True))


def test_only_files_of_equal_size_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr("phnet_monai.data.leaks.sha256_of", lambda path: read.append(Path(path).name) or path)
    for name, text in (("a", b"1"), ("b", b"22"), ("c", b"333"), ("d", b"444"), ("e", b"55")):
        (tmp_path / name).write_bytes(text)

    def entries(names: str) -> list[dict[str, str]]:
        return [{"image": str(tmp_path / name)} for name in names]

    assert find_leaks({"labeled": entries("abe"), "unlabeled": entries("c"), "test": entries("d")}) == []
    assert sorted(read) == ["c", "d"]


def test_one_path_on_two_sides(tmp_path: Path) -> None:
    path = _datalist(tmp_path, labeled=[("a", b"1")], test=[("a", b"1")])
    with pytest.raises(LeakError, match="1 scans"):
        check_leaks(path)


@given(members=st.lists(st.tuples(st.sampled_from(PARTS), st.sampled_from("pqrs")), max_size=12))
def test_groups_leak_exactly_where_they_have_two_sides(members: list[tuple[str, str]], tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("files")
    parts: dict[str, list[dict[str, str]]] = {part: [] for part in PARTS}
    for number, (part, group) in enumerate(members):
        file = folder / str(number)
        file.write_bytes(b"x" * (number + 1))
        parts[part].append({"image": str(file), "group_id": group})
    expected = {group for _, group in members if len({SIDES[part] for part, own in members if own == group}) > 1}
    found = find_leaks(parts)
    assert {leak.name for leak in found} == expected
    assert all(leak.kind == "group" for leak in found)


def test_copies_are_paired_with_the_first(tmp_path: Path) -> None:
    for name, text in (("a", b"11"), ("b", b"22"), ("c", b"11"), ("d", b"3"), ("e", b"11")):
        (tmp_path / name).write_bytes(text)
    assert same_files([tmp_path / name for name in "abcde"]) == [(0, 2), (0, 4)]


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 scans, of which 1 to 12 come again as 13 to 24."""
    folder = write_phantoms(tmp_path_factory.mktemp("twins"), 24, seed=0, size_range=(60, 90))
    for number in range(1, 13):
        for kind in ("images", "masks"):
            content = (folder / kind / f"phantom_{number:04d}.png").read_bytes()
            (folder / kind / f"phantom_{number + 12:04d}.png").write_bytes(content)
    return folder


def test_prepare_never_leaks_unless_it_says_so(twins: Path, tmp_path: Path) -> None:
    grouped = prepare_folder(twins, tmp_path / "grouped", progress=False)
    assert check_leaks(grouped) is None
    assert "leak_allowed" not in load_meta(grouped)
    with pytest.warns(UserWarning, match=r"protocol paper: \d of 4 validation and test images"):
        paper = prepare_folder(twins, tmp_path / "paper", protocol="paper", progress=False)
    assert load_meta(paper)["leak_allowed"] == "protocol paper"
    assert "Allowed by protocol paper" in str(check_leaks(paper))


def test_blank_copies_stay_together(twins: Path, tmp_path: Path) -> None:
    """Images without structure are no near-duplicates; equal files of them are one group all the same."""
    from PIL import Image

    from phnet_monai.data.prepare import group_records
    from phnet_monai.data.records import Record

    for name, grey in (("a", 0), ("b", 0), ("c", 9)):
        Image.new("L", (60, 50), grey).save(tmp_path / f"{name}.png")
    records = [Record(tmp_path / f"{name}.png", (), name) for name in "abc"]
    assert [record.group_id for record in group_records(records, progress=False)] == ["g0001", "g0001", "g0002"]


def _by_hand(folder: Path, **changes: Any) -> Path:
    """A datalist without records: the test image is the labeled one, shifted, brighter and in another format."""
    twin = make_phantom(seed=1)[0]
    Image.fromarray(twin).save(folder / "labeled.png")
    Image.fromarray(make_phantom(seed=2)[0]).save(folder / "validation.png")
    Image.fromarray(np.clip(twin[6:, 9:] * 1.1, 0, 255).astype(np.uint8)).save(folder / "test.jpg", quality=90)
    (folder / "mask.png").write_bytes(b"mask")
    parts = {part: [{"image": name, "label": "mask.png"}] for part, name in _FILES.items()}
    content = {"unlabeled": [], **parts, **changes}
    (folder / "datalist.json").write_text(json.dumps(content))
    return folder / "datalist.json"


def _recorded(folder: Path, *names: str) -> dict[str, Any]:
    return {"sha256": {name: sha256((folder / name).read_bytes()).hexdigest() for name in names}}


_FILES = {"labeled": "labeled.png", "validation": "validation.png", "test": "test.jpg"}


def test_near_duplicates_of_a_datalist_made_by_hand_are_refused(tmp_path: Path) -> None:
    path = _by_hand(tmp_path)
    with pytest.raises(LeakError) as caught:
        check_leaks(path)
    assert "labeled.png (labeled) and test.jpg (test) are near-duplicates (similarity 0." in str(caught.value)
    assert "1 scans" in str(caught.value)
    assert "validation.png" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"test": []},  # the twin is gone
        {"meta": "recorded"},  # by `phnet prepare`, which compared them
        {"test": [], "unlabeled": [{"image": "test.jpg"}]},  # one side
    ],
)
def test_no_near_duplicates_on_two_sides(changes: dict[str, Any], tmp_path: Path) -> None:
    path = _by_hand(tmp_path, **changes)
    if changes.get("meta") == "recorded":
        path = _by_hand(tmp_path, meta=_recorded(tmp_path, *_FILES.values()))
    assert check_leaks(path) is None


def test_images_added_to_a_prepared_datalist_are_compared(tmp_path: Path) -> None:
    _by_hand(tmp_path)
    path = _by_hand(tmp_path, meta=_recorded(tmp_path, *list(_FILES.values())[:2]))
    with pytest.raises(LeakError, match="near-duplicates"):
        check_leaks(path)


def test_an_image_replaced_after_prepare_is_seen(tmp_path: Path) -> None:
    _by_hand(tmp_path)
    path = _by_hand(tmp_path, meta=_recorded(tmp_path, *_FILES.values()))
    assert check_leaks(path) is None
    (tmp_path / "test.jpg").write_bytes((tmp_path / "labeled.png").read_bytes())
    with pytest.raises(LeakError, match="are one file"):
        check_leaks(path)


@pytest.mark.parametrize("change", ["other", "none"])
def test_groups_changed_by_hand_are_no_longer_believed(change: str, tmp_path: Path) -> None:
    """Two views of one scan, which `phnet prepare` keeps together, moved apart with their group taken away."""
    names = [f"{number}.png" for number in range(6)]
    for number, name in enumerate(names):
        pixels = make_phantom(seed=max(1, number))[0]
        Image.fromarray(pixels if number else (pixels[6:, 9:] * 0.9).astype(np.uint8)).save(tmp_path / name)
    (tmp_path / "mask.png").write_bytes(b"mask")
    groups = ["one", "one", *names[2:]]
    records = [
        Record(image=tmp_path / name, masks=(tmp_path / "mask.png",), case_id=name, group_id=group)
        for name, group in zip(names, groups, strict=True)
    ]
    parts = {"labeled": records[:3], "unlabeled": [], "validation": records[3:4], "test": records[4:]}
    path = write_datalist(parts, tmp_path, progress=False)
    assert check_leaks(path) is None
    content = json.loads(path.read_text())
    moved = content["labeled"].pop(0)
    if change == "other":
        moved["group_id"] = "another"
    else:
        del moved["group_id"]
    content["test"].append(moved)
    path.write_text(json.dumps(content))
    with pytest.raises(LeakError, match="are near-duplicates"):
        check_leaks(path)


def test_pictures_are_compared_once_a_command_and_not_where_the_leak_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []

    def compare(images: list[str], **_: Any) -> list[Any]:
        calls.append(len(images))
        return []

    monkeypatch.setattr("phnet_monai.data.leaks.near_duplicate_pairs", compare)
    path = _by_hand(tmp_path)
    refuse_leaks(path, allow=True)
    assert calls == []
    refuse_leaks(path)
    refuse_leaks(path)
    assert calls == [3]
    assert not caplog.records


def test_a_leak_that_is_allowed_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = _datalist(tmp_path, labeled=[("a", b"12")], test=[("b", b"12")])
    with caplog.at_level(logging.WARNING):
        refuse_leaks(path, allow=True)
    assert "phnet: warning: " in caplog.text
    assert "Allowed by --allow-leak; scores are too high" in caplog.text


def test_a_datalist_may_be_missing_where_lists_come_from_elsewhere(tmp_path: Path) -> None:
    refuse_leaks(tmp_path / "datalist.json", optional=True)
    with pytest.raises(FileNotFoundError, match="There is no datalist"):
        refuse_leaks(tmp_path / "datalist.json")
