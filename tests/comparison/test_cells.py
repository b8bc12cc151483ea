"""What a cell records of its data."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from phnet_monai.comparison import cells
from phnet_monai.comparison.cells import split_sha256, tracked
from phnet_monai.data import load_datalist, prepare_folder, write_phantoms


def prepared(folder: Path, out: Path, **options: int) -> str:
    return str(prepare_folder(folder, out, progress=False, **{"labeled": 4, **options}))


def test_the_digest_of_a_split_does_not_depend_on_where_it_lies(tmp_path: Path) -> None:
    images = write_phantoms(tmp_path / "images", 20, size_range=(40, 50))
    first = prepared(images, tmp_path / "lists")
    copy = shutil.copytree(images, tmp_path / "far" / "away" / "images")
    elsewhere = prepared(copy, tmp_path / "other" / "depth" / "lists")
    assert Path(first).read_bytes() != Path(elsewhere).read_bytes()
    assert split_sha256(first) == split_sha256(elsewhere)


def test_the_digest_of_a_split_tells_parts_names_and_pixels_apart(tmp_path: Path) -> None:
    images = write_phantoms(tmp_path / "images", 20, size_range=(40, 50))
    first = prepared(images, tmp_path / "lists")
    digests = [split_sha256(first), split_sha256(prepared(images, tmp_path / "more", labeled=5))]
    content = json.loads(Path(first).read_text(encoding="utf-8"))
    content["test"][0]["case_id"] = "another"
    (tmp_path / "lists" / "renamed.json").write_text(json.dumps(content), encoding="utf-8")
    digests.append(split_sha256(str(tmp_path / "lists" / "renamed.json")))
    test = load_datalist(first)["test"]
    shutil.copy(test[0]["image"], test[1]["image"])
    digests.append(split_sha256(first))
    assert len(set(digests)) == 4


def test_pseudo_labels_are_followed_only_where_there_are_any(tmp_path: Path) -> None:
    images = write_phantoms(tmp_path / "images", 20, size_range=(40, 50))
    arguments = {"method": "phnet", "config": ["ablations/table2_I"]}
    some, none = prepared(images, tmp_path / "some"), prepared(images, tmp_path / "none", labeled=16)
    assert tracked(some, arguments)["config"] == ["ablations/table2_I", "options/pseudo_label_scores"]
    assert tracked(none, arguments) == arguments


def test_no_commit_of_a_repository_that_the_package_is_merely_installed_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "project" / ".venv" / "phnet_monai" / "comparison" / "cells.py"
    own.parent.mkdir(parents=True)
    own.touch()
    (tmp_path / "project" / ".gitignore").write_text(".venv\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "theirs"]):
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run(["git", "-C", str(tmp_path / "project"), *identity, *command], check=True)
    monkeypatch.setattr(cells, "__file__", str(own))
    assert cells.provenance()["commit"] is None
