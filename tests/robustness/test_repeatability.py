"""The same seed twice gives the same bytes, another seed others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize("protocol", ["grouped", "paper"])
def test_prepare(protocol: str, phnet: Any, labeled_folder: Any, tmp_path: Path, tree: Any) -> None:
    folder = labeled_folder(20)

    def prepare(name: str, seed: int) -> dict[str, bytes]:
        words = ("--labeled", "4", "--seed", seed, "--protocol", protocol, "--quiet")
        assert phnet("prepare", "folder", folder, tmp_path / name, *words).code == 0
        return tree(tmp_path / name)

    first = prepare("first", 3)
    assert prepare("second", 3) == first
    assert prepare("third", 4) != first


def test_the_order_on_the_disk_does_not_matter(phnet: Any, labeled_folder: Any, tmp_path: Path, tree: Any) -> None:
    """A copy of a dataset is listed in another order by some disks."""
    folder = labeled_folder(20)
    words = ("--labeled", "4", "--quiet")
    assert phnet("prepare", "folder", folder, tmp_path / "first", *words).code == 0
    images = sorted((folder / "images").iterdir(), reverse=True)
    for path in images:
        path.rename(path.with_suffix(".moved"))
    for path in images:
        shutil.copy2(path.with_suffix(".moved"), path)
        path.with_suffix(".moved").unlink()
    assert phnet("prepare", "folder", folder, tmp_path / "second", *words).code == 0
    assert tree(tmp_path / "first") == tree(tmp_path / "second")


def test_infer(infer: Any, pictures: Path, tmp_path: Path, tree: Any) -> None:
    """Whatever the batch size: pixels and tables are the same."""
    options = ("--probabilities", "--hardness", "--flip", "--quiet")
    assert infer(pictures, tmp_path / "first", *options).code == 0
    assert infer(pictures, tmp_path / "second", *options).code == 0
    assert infer(pictures, tmp_path / "one", *options, "--batch-size", "1").code == 0
    first, second, one = (tree(tmp_path / name) for name in ("first", "second", "one"))
    assert {name for name in first if first[name] != second[name]} <= {"run.json", "report.html"}
    masks = {name: content for name, content in first.items() if name.startswith("masks/")}
    assert len(masks) == 4
    assert masks == {name: content for name, content in one.items() if name.startswith("masks/")}


def test_train(phnet: Any, labeled_folder: Any, tmp_path: Path) -> None:
    import torch

    folder = labeled_folder(16)
    assert phnet("prepare", "folder", folder, tmp_path / "list", "--labeled", "4", "--quiet").code == 0
    words = ("--profile", "smoke", "--device", "cpu", "--max_epochs", "2", "--pretrain_epochs", "1")

    def train(name: str, seed: int) -> dict[str, Any]:
        outcome = phnet("train", tmp_path / "list", tmp_path / name, *words, "--seed", seed)
        assert outcome.code == 0, outcome.err
        return torch.load(tmp_path / name / "last.pt", weights_only=True)["teacher"]

    first, second, other = train("first", 5), train("second", 5), train("third", 6)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert not all(torch.equal(tensor, other[name]) for name, tensor in first.items())
    assert json.loads((tmp_path / "first" / "run.json").read_text(encoding="utf-8"))["last"]["epoch"] == 2
