"""Whole files, locks, digests."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from phnet_monai.files import (
    atomic_writer,
    digest,
    locked,
    make_folder,
    remove_partial_files,
    remove_unless_more,
    sha256_of,
    write_json,
)


def test_a_file_is_there_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.bin"
    with atomic_writer(path, sync=True) as stream:
        stream.write(b"first")

    def broken() -> None:
        with atomic_writer(path) as stream:
            stream.write(b"sec")
            raise RuntimeError("half")

    with pytest.raises(RuntimeError, match="half"):
        broken()
    assert path.read_bytes() == b"first"
    assert list(path.parent.iterdir()) == [path]


def test_json_of_any_name(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"ü": "\udce4"})
    assert (tmp_path / "a.json").read_bytes().isascii()


def test_digest(tmp_path: Path) -> None:
    content = bytes(range(256)) * 10000
    (tmp_path / "x").write_bytes(content)
    assert sha256_of(tmp_path / "x") == hashlib.sha256(content).hexdigest()


def test_only_our_own_leftovers_are_removed(tmp_path: Path) -> None:
    ours = tmp_path / "sub" / f".{'0a' * 16}.part"
    others = [tmp_path / "sub" / name for name in ("a.part", ".x.part", f"{'0a' * 16}.part", f".{'0a' * 16}.partial")]
    ours.parent.mkdir()
    for path in (ours, *others):
        path.write_bytes(b"")
    remove_partial_files(tmp_path)
    remove_partial_files(tmp_path / "not there")
    assert sorted(ours.parent.iterdir()) == sorted(others)


def test_a_lock_is_for_one_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    with (
        locked(folder, "`test`"),
        pytest.raises(BlockingIOError, match="another `test` is at work"),
        locked(folder, "`test`"),
    ):
        pass
    with locked(folder, "`test`"):
        pass


@pytest.mark.parametrize(
    ("written", "left"),
    [((), None), (("config.json",), None), (("config.json", "last.pt"), {"config.json", "last.pt"})],
)
def test_a_folder_with_nothing_to_show_is_removed(
    written: tuple[str, ...], left: set[str] | None, tmp_path: Path
) -> None:
    folder = tmp_path / "a" / "run"
    assert make_folder(folder)
    assert not make_folder(folder)
    for name in written:
        (folder / name).touch()
    remove_unless_more(folder, ("config.json", ".lock"))
    assert ({path.name for path in folder.iterdir()} if folder.exists() else None) == left
    remove_unless_more(tmp_path / "gone", ())


def test_no_folder_can_be_made_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        make_folder(tmp_path / "file")


def test_digest_is_of_the_values() -> None:
    assert digest({"a": 1, "b": [2.5, None]}) == digest({"b": [2.5, None], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
