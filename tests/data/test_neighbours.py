"""Unlabeled images are those that lie beside the labeled ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from phnet_monai.data import images_beside


@pytest.fixture
def study(tmp_path: Path) -> Path:
    for name in ("c.png", "a.png", "b.JPG", "d.tif", "notes.txt", "labels/final/a.png", "other/e.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def items(study: Path, *names: str) -> list[dict[str, str]]:
    return [{"image": str(study / name)} for name in names]


def test_pictures_of_the_same_folder_that_stand_in_no_list(study: Path) -> None:
    assert images_beside(items(study, "a.png"), items(study, "d.tif")) == items(study, "b.JPG", "c.png")
    assert images_beside(items(study, "a.png")) == items(study, "b.JPG", "c.png", "d.tif")
    assert images_beside(items(study, "a.png"), None) == images_beside(items(study, "a.png"), [])


def test_hidden_files_and_masks_are_no_images(study: Path) -> None:
    for name in ("._a.png", "a_mask.png", "b_mask_1.png", "single_mask.png"):
        (study / name).touch()
    found = images_beside(items(study, "a.png"), items(study, "d.tif"))
    assert found == items(study, "b.JPG", "c.png", "single_mask.png")


def test_several_folders(study: Path) -> None:
    (study / "other" / "f.png").touch()
    found = images_beside(items(study, "a.png", "b.JPG", "c.png", "d.tif"), items(study, "other/e.png"))
    assert found == items(study, "other/f.png")


def test_a_listed_image_is_known_by_any_path(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(study)
    assert images_beside([{"image": os.path.join("other", "..", "a.png")}], items(study, "c.png", "d.tif")) == items(
        study, "b.JPG"
    )
    (study / "link").symlink_to(study / "other")
    (study / "other" / "f.png").touch()
    assert images_beside([{"image": "link/e.png"}]) == items(study, "other/f.png")


def test_all_outlined(study: Path) -> None:
    assert images_beside(items(study, "other/e.png")) == []
    assert images_beside([]) == []
