"""Files are complete or absent."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from phnet_monai.files import atomic_writer, write_json
from phnet_monai.inference.writers import JPEG_SIDE, write_jpeg, write_mask, write_png, write_probabilities


def test_mask_round_trip(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).random((31, 47)) > 0.5
    write_mask(tmp_path / "a" / "b" / "m.png", mask)
    with Image.open(tmp_path / "a" / "b" / "m.png") as image:
        assert (image.mode, image.size) == ("L", (47, 31))
        np.testing.assert_array_equal(np.asarray(image), np.where(mask, 255, 0))
    assert os.listdir(tmp_path / "a" / "b") == ["m.png"]


def test_probabilities_are_rounded_to_eight_bits(tmp_path: Path) -> None:
    write_probabilities(tmp_path / "p.png", np.array([[0, 0.5, 1]], dtype=np.float32))
    with Image.open(tmp_path / "p.png") as image:
        assert np.asarray(image).tolist() == [[0, 128, 255]]


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_no_probability_is_refused(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match=r"p\.png"):
        write_probabilities(tmp_path / "p.png", np.array([[value]]))
    assert os.listdir(tmp_path) == []


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "x.bin"
    target.write_bytes(b"old")

    def interrupted() -> None:
        with atomic_writer(target) as stream:
            stream.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.bin"]


def test_the_file_appears_only_when_complete(tmp_path: Path) -> None:
    target = tmp_path / "x.bin"
    with atomic_writer(target) as stream:
        stream.write(b"half")
        stream.flush()
        assert not target.exists()
        assert len(os.listdir(tmp_path)) == 1
    assert target.read_bytes() == b"half"


def test_rename_within_the_target_s_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rename across disks is no atomic one."""
    moves: list[tuple[Path, Path]] = []
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        moves.append((Path(source), Path(target)))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    write_png(tmp_path / "deep" / "x.png", np.zeros((2, 2), dtype=np.uint8))
    [(source, target)] = moves
    assert source.parent == target.parent == tmp_path / "deep"


def test_a_name_as_long_as_names_can_be(tmp_path: Path) -> None:
    name = "x" * 251 + ".png"
    write_png(tmp_path / name, np.zeros((2, 2), dtype=np.uint8))
    assert os.listdir(tmp_path) == [name]


@pytest.mark.skipif(os.name != "posix", reason="file modes are of POSIX systems")
def test_results_can_be_read_by_whom_the_umask_allows(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_png(tmp_path / "x.png", np.zeros((2, 2), dtype=np.uint8))
    assert (tmp_path / "x.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("pixels", [np.zeros((2, 2)), np.zeros((2, 2, 4), np.uint8), np.zeros(4, np.uint8)])
def test_other_arrays_are_refused(tmp_path: Path, pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"x\.png: expected uint8"):
        write_png(tmp_path / "x.png", pixels)
    with pytest.raises(ValueError, match=r"x\.png"):
        write_mask(tmp_path / "x.png", pixels)
    with pytest.raises(ValueError, match=r"x\.jpg: expected uint8"):
        write_jpeg(tmp_path / "x.jpg", pixels)


def test_a_jpeg_keeps_thin_coloured_lines(tmp_path: Path) -> None:
    pixels = np.full((64, 48, 3), 90, dtype=np.uint8)
    pixels[20:22] = (230, 159, 0)
    write_jpeg(tmp_path / "x.jpg", pixels)
    with Image.open(tmp_path / "x.jpg") as picture:
        assert picture.format == "JPEG"
        back = np.asarray(picture).astype(int)
    assert abs(back - pixels).max() < 25
    assert abs(back - pixels).mean() < 2


def test_a_picture_that_no_jpeg_holds(tmp_path: Path) -> None:
    write_jpeg(tmp_path / "x.jpg", np.zeros((1, JPEG_SIDE), dtype=np.uint8))
    with pytest.raises(ValueError, match=rf"y\.jpg: a JPEG holds {JPEG_SIDE} pixels .* found 1 x {JPEG_SIDE + 1}"):
        write_jpeg(tmp_path / "y.jpg", np.zeros((1, JPEG_SIDE + 1), dtype=np.uint8))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.jpg"]


def test_json_keeps_any_file_name(tmp_path: Path) -> None:
    names = ["Übung", "超声", "\udcff.png"]
    write_json(tmp_path / "r.json", {"names": names})
    text = (tmp_path / "r.json").read_text(encoding="ascii")
    assert json.loads(text) == {"names": names}
    assert text.endswith("\n")
