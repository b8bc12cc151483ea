"""Pictures that are broken, odd or hostile, through `phnet infer`: each fails alone or gives a mask of its own size."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

# name -> what the reason must say
REFUSED = {
    "truncated.png": "cannot be read as an image",
    "truncated.jpg": "cannot be read as an image",
    "truncated.tif": "cannot be read as an image",
    "nothing.png": "is empty (0 bytes)",
    "letter.png": "its content is of no known kind",
    "page.png": "its content is of no known kind",  # PostScript, for which Pillow would start a program
    "animation.png": "its content is of no known kind",  # GIF
    "bomb.png": "2500000000 pixels",
    "large.png": "12000 x 9000 pixels, more than the 100 million that are read",
    "float.tif": "floating-point",
    "pages.tif": "holds 2 pages",
    "link.png": "No such file or directory",
}

# name -> (width, height) of the mask
TAKEN = {
    "deep.png": (56, 40),
    "deep.tif": (56, 40),
    "rgba.png": (56, 40),
    "la.png": (56, 40),
    "palette.png": (56, 40),
    "cmyk.jpg": (56, 40),
    "turned.jpg": (40, 56),
    "one.png": (1, 1),
    "strip.png": (4000, 50),
    "constant.png": (30, 20),
    "black.png": (30, 20),
    "bits.png": (56, 40),
    "upper.PNG": (56, 40),
}


def write_refused(folder: Path, pixels: np.ndarray, bomb: bytes) -> None:
    for name in ("truncated.png", "truncated.jpg", "truncated.tif"):
        Image.fromarray(pixels).save(folder / name)
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
    (folder / "nothing.png").touch()
    (folder / "letter.png").write_text("dear reader")
    (folder / "page.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    Image.fromarray(pixels).save(folder / "animation.png", format="GIF")
    (folder / "bomb.png").write_bytes(bomb)
    Image.new("1", (12_000, 9_000)).save(folder / "large.png")
    Image.fromarray(pixels.astype(np.float32)).save(folder / "float.tif")
    page = Image.fromarray(pixels)
    page.save(folder / "pages.tif", save_all=True, append_images=[page])
    (folder / "link.png").symlink_to(folder / "gone")


def write_taken(folder: Path, pixels: np.ndarray) -> None:
    picture = Image.fromarray(pixels)
    for name in ("deep.png", "deep.tif"):
        Image.fromarray(pixels.astype(np.uint16) * 257).save(folder / name)
    picture.convert("RGBA").save(folder / "rgba.png")
    picture.convert("LA").save(folder / "la.png")
    picture.convert("P").save(folder / "palette.png")
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(folder / "turned.jpg", exif=exif)
    picture.crop((20, 20, 21, 21)).save(folder / "one.png")
    Image.fromarray(np.tile(pixels[:1], (50, 72))[:, :4000]).save(folder / "strip.png")
    Image.new("L", (30, 20), 128).save(folder / "constant.png")
    Image.new("L", (30, 20), 0).save(folder / "black.png")
    picture.convert("1").save(folder / "bits.png")
    picture.save(folder / "upper.PNG")


@pytest.fixture(scope="module")
def done(
    tmp_path_factory: pytest.TempPathFactory,
    infer: Callable[..., Any],
    speckle: Callable[..., np.ndarray],
    png_bomb: bytes,
    run_file: Callable[[Path], dict[str, Any]],
) -> tuple[Any, Path, dict[str, dict[str, Any]]]:
    """One run over all of them: its outcome, its folder, and the fate of each file by name."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "in").mkdir()
    write_refused(folder / "in", speckle(), png_bomb)
    write_taken(folder / "in", speckle())
    with pytest.warns(Image.DecompressionBombWarning):  # large.png, before it is refused
        outcome = infer(folder / "in", folder / "out", "--quiet")
    files = {entry["image"]: entry for entry in run_file(folder / "out")["files"]}
    return outcome, folder / "out", files


def test_the_run_goes_to_its_end(done: Any) -> None:
    outcome, _, files = done
    assert outcome.code == 3
    assert set(files) == {*REFUSED, *TAKEN}
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_a_reason_and_without_results(done: Any, name: str) -> None:
    outcome, out, files = done
    assert files[name]["status"] == "failed"
    assert REFUSED[name] in files[name]["reason"]
    assert name in files[name]["reason"]
    assert f"failed: {name}: " in outcome.err
    assert not [path for path in out.rglob("*") if path.is_file() and path.name.startswith(f"{Path(name).stem}.")]


@pytest.mark.parametrize("name", TAKEN)
def test_segmented_at_its_own_size(done: Any, name: str, mask_of: Callable[[Path], np.ndarray]) -> None:
    _, out, files = done
    assert files[name]["status"] == "done"
    mask = mask_of(out / files[name]["mask"])
    assert mask.shape[::-1] == TAKEN[name]
    assert set(np.unique(mask)) <= {0, 255}


@pytest.mark.parametrize("name", ["deep.png", "deep.tif", "rgba.png", "la.png", "palette.png", "upper.PNG"])
def test_the_same_picture_in_another_mode_has_the_same_mask(
    done: Any, name: str, mask_of: Callable[[Path], np.ndarray], infer: Callable[..., Any], tmp_path: Path, speckle: Any
) -> None:
    _, out, files = done
    Image.fromarray(speckle()).save(tmp_path / "plain.png")
    assert infer(tmp_path / "plain.png", tmp_path / "out", "--quiet").code == 0
    plain = mask_of(tmp_path / "out" / "masks" / "plain.png")
    assert 0 < plain.mean() < 255  # otherwise equality would say little
    np.testing.assert_array_equal(mask_of(out / files[name]["mask"]), plain)


def test_prepare_lists_every_bad_file_and_writes_nothing(
    phnet: Callable[..., Any], labeled_folder: Callable[..., Path], tmp_path: Path, png_bomb: bytes
) -> None:
    folder = labeled_folder(12)
    (folder / "images" / "case01.png").write_bytes(b"")
    (folder / "masks" / "case02.png").write_text("text")
    (folder / "images" / "case03.png").write_bytes(png_bomb)
    outcome = phnet("prepare", "folder", folder, tmp_path / "out", "--quiet")
    assert outcome.code == 2
    assert outcome.line.startswith("3 files cannot be used; repair or remove them: ")
    for name in ("images/case01.png is empty", "masks/case02.png cannot be read", "images/case03.png has more pixels"):
        assert name in outcome.line
    assert not list(tmp_path.glob("out/*"))
