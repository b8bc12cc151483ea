"""Every kind of picture file has one defined meaning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from phnet_monai.data import DecodeError, read_image, read_mask
from phnet_monai.data import decode as decode_module


@pytest.fixture
def ramp() -> np.ndarray:
    """Asymmetric in both axes and not square, so that any flip, transposition or crop shows."""
    rows, columns = np.mgrid[:6, :9]
    return (rows * 30 + columns * 10).astype(np.uint8)


def _save(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff"])
def test_grey_is_read_as_it_is(tmp_path: Path, ramp: np.ndarray, suffix: str) -> None:
    image = read_image(_save(Image.fromarray(ramp), tmp_path / f"a{suffix}"))
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, ramp)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_grey_stored_as_colour_keeps_its_values(tmp_path: Path, ramp: np.ndarray, mode: str) -> None:
    np.testing.assert_array_equal(read_image(_save(Image.fromarray(ramp).convert(mode), tmp_path / "a.png")), ramp)


def test_colour_is_weighted_by_luminance(tmp_path: Path) -> None:
    path = _save(Image.new("RGB", (3, 2), (200, 100, 50)), tmp_path / "a.png")
    assert np.all(np.abs(read_image(path) - (0.299 * 200 + 0.587 * 100 + 0.114 * 50)) <= 0.5)


def test_palette_gives_colours_not_indices(tmp_path: Path) -> None:
    image = Image.new("P", (4, 2), 1)
    image.putpalette([10, 10, 10, 222, 222, 222])
    assert np.all(read_image(_save(image, tmp_path / "a.png")) == 222)


def test_transparent_palette_entry_is_black(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 1]], np.uint8), mode="L").convert("P")
    image.putpalette([200, 200, 200, 100, 100, 100])
    path = _save(image, tmp_path / "a.png", transparency=0)
    np.testing.assert_array_equal(read_image(path), [[0, 100, 100]])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_composed_over_black(tmp_path: Path, ramp: np.ndarray, mode: str) -> None:
    image = Image.fromarray(ramp).convert(mode)
    image.putalpha(51)
    expected = ramp // 5
    np.testing.assert_array_equal(read_image(_save(image, tmp_path / "a.png")), expected)


def test_cmyk(tmp_path: Path) -> None:
    path = _save(Image.new("CMYK", (4, 3), (0, 0, 0, 155)), tmp_path / "a.tif")
    assert np.all(read_image(path) == 100)


def test_jpeg_is_close(tmp_path: Path) -> None:
    smooth = np.linspace(0, 255, 64, dtype=np.uint8)[None].repeat(32, 0)
    image = read_image(_save(Image.fromarray(smooth), tmp_path / "a.jpg", quality=95))
    assert np.abs(image.astype(int) - smooth).max() <= 6


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bit_is_scaled_by_its_range(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 256, 1000], [32768, 65000, 65535]], np.uint16)
    image = read_image(_save(Image.fromarray(values), tmp_path / f"a{suffix}"))
    np.testing.assert_array_equal(image, np.round(values / 65535 * 255))


def _write_packed(path: Path, values: np.ndarray, bits: int, **options: object) -> Path:
    """TIFF of `bits` bits per sample without gaps; rows (H, W) begin at whole bytes."""
    places = (values[..., None] >> np.arange(bits)[::-1]) & 1
    packed = np.packbits(places.reshape(len(values), -1).astype(np.uint8), axis=1)
    tifffile.imwrite(path, packed, photometric="minisblack", metadata=None, **options)
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags["BitsPerSample"].overwrite(bits)
        file.pages[0].tags["ImageWidth"].overwrite(values.shape[1])
    return path


@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("width", [8, 9])
def test_twelve_packed_bits_are_scaled_by_their_range(tmp_path: Path, width: int, compression: str | None) -> None:
    values = (np.arange(5 * width) * 4095 // (5 * width - 1)).reshape(5, width)
    path = _write_packed(tmp_path / "a.tif", values, 12, compression=compression)
    np.testing.assert_array_equal(read_image(path), np.rint(values / 4095 * 255))
    np.testing.assert_array_equal(read_mask(path), values >= 2048)


@pytest.mark.parametrize("bits", [9, 10, 11, 13, 14, 15])
def test_other_packed_bits_are_refused(tmp_path: Path, bits: int) -> None:
    """Pillow has no decoder for them; one that gave them unscaled would be noticed here."""
    values = (np.arange(40) * (2**bits - 1) // 39).reshape(5, 8)
    with pytest.raises(DecodeError, match=r"packed\.tif cannot be read as an image"):
        read_image(_write_packed(tmp_path / "packed.tif", values, bits))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_tiff_with_white_as_zero_is_turned_over(tmp_path: Path, ramp: np.ndarray, bits: int, photometric: str) -> None:
    most = 2**bits - 1
    values = ramp.astype(f"uint{bits}") * (most // 255)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values if photometric == "minisblack" else most - values, photometric=photometric)
    np.testing.assert_array_equal(read_image(path), ramp)


@pytest.mark.parametrize("dtype", ["int16", "int32", "uint32"])
def test_a_tiff_without_a_defined_white_is_a_mask_at_most(tmp_path: Path, ramp: np.ndarray, dtype: str) -> None:
    path = tmp_path / "deep.tif"
    tifffile.imwrite(path, ramp.astype(dtype))
    with pytest.raises(DecodeError, match=r"deep\.tif holds signed or 32-bit values"):
        read_image(path)
    np.testing.assert_array_equal(read_mask(path), 2 * ramp.astype(int) >= ramp.max())
    tifffile.imwrite(path, np.array([[0, 70000]], "int32"))
    with pytest.raises(DecodeError, match=r"deep\.tif has values from 0 to 70000"):
        read_mask(path)


@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("bits", [8, 16])
def test_colours_in_planes_are_right_or_refused(
    tmp_path: Path, ramp: np.ndarray, bits: int, compression: str | None
) -> None:
    planes = np.stack([ramp] * 3).astype(f"uint{bits}") * ((2**bits - 1) // 255)
    path = tmp_path / "planes.tif"
    tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate", compression=compression)
    if bits == 16 and compression is None:
        with pytest.raises(DecodeError, match=r"planes\.tif holds its colours in separate planes of 16 bits"):
            read_image(path)
    else:
        np.testing.assert_array_equal(read_image(path), ramp)


def test_float_is_refused(tmp_path: Path) -> None:
    path = _save(Image.fromarray(np.ones((3, 3), np.float32)), tmp_path / "float.tif")
    with pytest.raises(DecodeError, match=r"float\.tif holds floating-point"):
        read_image(path)


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    values = np.array([[0, 255, 0], [255, 255, 0]], np.uint8)
    path = _save(Image.fromarray(values).convert("1"), tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(path), values)
    np.testing.assert_array_equal(read_mask(path), values > 0)


@pytest.mark.parametrize(
    ("orientation", "as_shown"),
    [(1, lambda a: a), (3, lambda a: a[::-1, ::-1]), (6, lambda a: np.rot90(a, -1)), (8, lambda a: np.rot90(a, 1))],
)
def test_exif_orientation_is_applied(tmp_path: Path, ramp: np.ndarray, orientation: int, as_shown) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = _save(Image.fromarray(ramp), tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(path), as_shown(ramp))


def test_zero_bytes(tmp_path: Path) -> None:
    (tmp_path / "nothing.png").touch()
    with pytest.raises(DecodeError, match=r"nothing\.png is empty"):
        read_image(tmp_path / "nothing.png")


def test_text_named_png(tmp_path: Path) -> None:
    (tmp_path / "letter.png").write_text("dear reader")
    with pytest.raises(DecodeError, match=r"letter\.png cannot be read as an image"):
        read_image(tmp_path / "letter.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated(tmp_path: Path, suffix: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (60, 80), np.uint8)
    path = _save(Image.fromarray(noise), tmp_path / f"cut{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DecodeError, match=rf"cut\{suffix}"):
        read_image(path)


def test_missing_file_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "none.png")


def test_too_many_pixels_are_refused_before_decoding(tmp_path: Path) -> None:
    path = _save(Image.new("1", (12_000, 9_000)), tmp_path / "bomb.png")
    with pytest.raises(DecodeError, match=r"bomb\.png has 12000 x 9000 pixels"):
        read_image(path)


def test_decompression_bomb_that_pillow_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _save(Image.new("L", (100, 100)), tmp_path / "bomb.png")
    monkeypatch.setattr(decode_module.Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DecodeError, match=r"bomb\.png"):
        read_image(path)


def test_pages_are_refused(tmp_path: Path, ramp: np.ndarray) -> None:
    page = Image.fromarray(ramp)
    path = _save(page, tmp_path / "stack.tif", save_all=True, append_images=[page, page])
    with pytest.raises(DecodeError, match=r"stack\.tif holds 3 pages"):
        read_image(path)


@pytest.mark.parametrize(
    ("background", "lesion", "dtype"), [(0, 1, "u1"), (0, 255, "u1"), (0, 1, "u2"), (3, 200, "u1")]
)
def test_mask_values(tmp_path: Path, background: int, lesion: int, dtype: str) -> None:
    wanted = np.zeros((5, 7), bool)
    wanted[1:3, 2:6] = True
    path = _save(Image.fromarray(np.where(wanted, lesion, background).astype(dtype)), tmp_path / "m.png")
    mask = read_mask(path)
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, wanted)


def test_anti_aliased_mask_is_cut_at_half(tmp_path: Path) -> None:
    path = _save(Image.fromarray(np.array([[0, 60, 127, 128, 255]], np.uint8)), tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(path), [[False, False, False, True, True]])


def test_black_mask_is_empty(tmp_path: Path) -> None:
    assert not read_mask(_save(Image.new("L", (4, 4)), tmp_path / "m.png")).any()


def test_several_masks_are_one_union(tmp_path: Path) -> None:
    paths = []
    for column in (0, 3):
        values = np.zeros((3, 5), np.uint8)
        values[:, column] = 255
        paths.append(_save(Image.fromarray(values), tmp_path / f"{column}.png"))
    np.testing.assert_array_equal(read_mask(paths), [[True, False, False, True, False]] * 3)


def test_masks_of_different_size_are_refused(tmp_path: Path) -> None:
    paths = [_save(Image.new("L", size), tmp_path / f"{size[0]}.png") for size in ((4, 5), (6, 5))]
    with pytest.raises(DecodeError, match=r"4 x 5.*6 x 5"):
        read_mask(paths)


def test_no_mask_at_all() -> None:
    with pytest.raises(ValueError, match="empty list"):
        read_mask([])
