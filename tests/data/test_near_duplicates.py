"""The same scan is found again after what people do to scans; different scans are not joined."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from phnet_monai.data import make_phantom, near_duplicate_groups
from phnet_monai.data.union_find import components


def _darker(image: Image.Image) -> Image.Image:
    return image.point(lambda value: int(0.6 * value + 5))


def _calipers(image: Image.Image) -> Image.Image:
    marked, (width, height) = image.copy(), image.size
    draw = ImageDraw.Draw(marked)
    for x, y in ((0.3, 0.4), (0.6, 0.45), (0.45, 0.25), (0.5, 0.6)):
        x, y = x * width, y * height
        draw.line((x - 4, y, x + 4, y), fill=255, width=2)
        draw.line((x, y - 4, x, y + 4), fill=255, width=2)
    draw.line((0.3 * width, 0.4 * height, 0.6 * width, 0.45 * height), fill=255)
    draw.text((10, height - 20), "LT UOQ", fill=255)
    return marked


def _cropped(left: float, top: float, right: float, bottom: float) -> Callable[[Image.Image], Image.Image]:
    def crop(image: Image.Image) -> Image.Image:
        width, height = image.size
        return image.crop((int(left * width), int(top * height), int(right * width), int(bottom * height)))

    return crop


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "none": lambda image: image,
    "darker": _darker,
    "calipers": _calipers,
    "crop on one side": _cropped(0.05, 0, 1, 1),
    "crop all around": _cropped(0.05, 0.04, 0.95, 0.97),
    "narrower": _cropped(0.0, 0, 0.75, 1),
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX),
    "gamma": lambda image: image.point(lambda value: int(255 * (value / 255) ** 0.7)),
}


def _to_square(image: Image.Image) -> Image.Image:
    square = Image.new("L", (max(image.size),) * 2)
    square.paste(image, ((square.width - image.width) // 2, (square.height - image.height) // 2))
    return square


def _in_frame(share: float, grey: int = 0) -> Callable[[Image.Image], Image.Image]:
    def pad(image: Image.Image) -> Image.Image:
        across, down = round(share * image.width), round(share * image.height)
        framed = Image.new("L", (image.width + 2 * across, image.height + 2 * down), grey)
        framed.paste(image, (across, down))
        return framed

    return pad


def _with_text(image: Image.Image) -> Image.Image:
    """A screen: a bar above the scan with a line of text."""
    screen = Image.new("L", (image.width, image.height + 100))
    screen.paste(image, (0, 100))
    ImageDraw.Draw(screen).text((10, 40), "PATIENT 12 LEFT", fill=255)
    return screen


FRAMES = {
    "text": _with_text,
    "square": _to_square,
    "bars": _in_frame(0.1),
    "frame": _in_frame(0.15),
    "grey frame": _in_frame(0.12, 90),
}


@pytest.fixture(scope="module")
def scans() -> list[Image.Image]:
    return [Image.fromarray(make_phantom((240, 320), seed=seed)[0]) for seed in range(12)]


def _saved(images: list[Image.Image], folder: Path, suffix: str = ".png", **options: int) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number}{suffix}" for number in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        image.save(path, **options)
    return paths


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_found_and_nothing_else(tmp_path: Path, scans: list[Image.Image], change: str) -> None:
    paths = _saved(scans, tmp_path / "a") + _saved([CHANGES[change](scan) for scan in scans], tmp_path / "b")
    assert near_duplicate_groups(paths, progress=False) == [*range(12), *range(12)]


def test_jpeg_copies_are_found(tmp_path: Path, scans: list[Image.Image]) -> None:
    paths = _saved(scans, tmp_path / "a") + _saved(scans, tmp_path / "b", ".jpg", quality=40)
    assert near_duplicate_groups(paths, progress=False) == [*range(12), *range(12)]


def test_different_phantoms_are_not_joined(tmp_path: Path) -> None:
    images = [Image.fromarray(make_phantom((200, 260), seed=100 + seed)[0]) for seed in range(60)]
    assert near_duplicate_groups(_saved(images, tmp_path), progress=False) == list(range(60))


@pytest.mark.parametrize("frame", FRAMES)
def test_padding_is_no_likeness(tmp_path: Path, scans: list[Image.Image], frame: str) -> None:
    """Padded images agree in their borders, and were taken for one scan."""
    padded = _saved([FRAMES[frame](scan) for scan in scans], tmp_path / "padded")
    assert near_duplicate_groups(padded, progress=False) == list(range(len(scans)))
    both = [*_saved(scans, tmp_path / "bare"), *padded]
    assert near_duplicate_groups(both, progress=False) == [*range(len(scans)), *range(len(scans))]


def test_images_without_structure_are_like_no_other(tmp_path: Path) -> None:
    images = [Image.new("L", (60, 50), value) for value in (0, 0, 90)]
    assert near_duplicate_groups(_saved(images, tmp_path), progress=False) == [0, 1, 2]


def test_blocks_of_rows_do_not_change_the_result(
    tmp_path: Path, scans: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = _saved(scans[:5] + [_darker(scan) for scan in scans[:5]], tmp_path)
    whole = near_duplicate_groups(paths, progress=False)
    monkeypatch.setattr("phnet_monai.data.duplicate_candidates._ROWS_AT_ONCE", 3)
    assert near_duplicate_groups(paths, progress=False) == whole == [*range(5), *range(5)]


def test_nothing_and_nonsense(tmp_path: Path, scans: list[Image.Image]) -> None:
    assert near_duplicate_groups([], progress=False) == []
    assert near_duplicate_groups(_saved(scans[:1], tmp_path), progress=False) == [0]
    with pytest.raises(ValueError, match="same is 0"):
        near_duplicate_groups([], same=0)


def test_components_are_numbered_by_first_appearance() -> None:
    assert components(6, [(4, 1), (5, 4), (2, 3)]) == [0, 1, 2, 2, 1, 1]
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 200)
    order = rng.permutation(200)
    pairs = [(int(a), int(b)) for a, b in pairwise(order) if labels[a] == labels[b]]
    found = components(200, pairs)
    assert all(labels[i] == labels[j] for i in range(200) for j in range(200) if found[i] == found[j])
