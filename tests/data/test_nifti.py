"""NIfTI files mean the same as their 8-bit PNG twins, in ITK's index order."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from phnet_monai.data import DecodeError, decode, read_image
from phnet_monai.data.nifti import open_nifti, read_nifti


@pytest.fixture
def twin(tmp_path: Path) -> np.ndarray:
    """Grey values (H, W) = (6, 9) of the PNG that the files below are equal to: no symmetry, 0 to 255, not square."""
    rows, columns = np.mgrid[:6, :9]
    values = ((7 * rows * columns + 5 * columns + 3 * rows) % 256).astype(np.uint8)
    values[0, :2] = 0, 255
    Image.fromarray(values).save(tmp_path / "twin.png")
    return read_image(tmp_path / "twin.png")


def _save(
    path: Path, data: np.ndarray, *, unit: str = "unknown", zooms: tuple[float, ...] = (), version: int = 1
) -> Path:
    """Write `data`, indexed (x, y, ...)."""
    image = (nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image)(data, None)
    image.header.set_xyzt_units(unit)
    if zooms:
        image.header.set_zooms(zooms)
    content = image.to_bytes()
    path.write_bytes(gzip.compress(content) if path.name.lower().endswith(".gz") else content)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ", "A.Nii.Gz"])
@pytest.mark.parametrize("version", [1, 2])
def test_first_axis_runs_along_a_row(tmp_path: Path, twin: np.ndarray, name: str, version: int) -> None:
    frames, spacing = read_nifti(_save(tmp_path / name, twin.T, version=version))
    assert frames.dtype == np.uint8
    assert spacing is None
    np.testing.assert_array_equal(frames, twin[None])


@pytest.mark.parametrize("axes", [(), (1,), (1, 1)])
def test_single_frame_with_axes_of_length_one(tmp_path: Path, twin: np.ndarray, axes: tuple[int, ...]) -> None:
    frames, _ = read_nifti(_save(tmp_path / "a.nii", twin.T.reshape(9, 6, *axes)))
    np.testing.assert_array_equal(frames, twin[None])


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("axes", [(), (1,)])
def test_third_axis_runs_over_frames(tmp_path: Path, twin: np.ndarray, name: str, axes: tuple[int, ...]) -> None:
    stack = np.stack([twin, twin[::-1], twin[:, ::-1], twin // 2])
    data = np.stack([frame.T for frame in stack], axis=2)
    frames, _ = read_nifti(_save(tmp_path / name, data.reshape(*data.shape, *axes)))
    np.testing.assert_array_equal(frames, stack)


def test_the_affine_does_not_turn_the_picture(tmp_path: Path, twin: np.ndarray) -> None:
    affine = np.array([[0, 0, -2, 5], [-0.3, 0, 0, 1], [0, -0.2, 0, 7], [0, 0, 0, 1]])
    nibabel.Nifti1Image(twin.T[..., None], affine).to_filename(tmp_path / "a.nii")
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii")[0], twin[None])


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", ">i2", "i4", "u4", "f4", ">f4", "f8"])
def test_values_of_eight_bits_stay(tmp_path: Path, twin: np.ndarray, dtype: str) -> None:
    np.testing.assert_array_equal(read_nifti(_save(tmp_path / "a.nii", twin.T.astype(dtype)))[0], twin[None])


def test_dark_integers_are_not_stretched(tmp_path: Path) -> None:
    frames, _ = read_nifti(_save(tmp_path / "a.nii", np.array([[0, 1], [1, 0]], np.uint8)))
    assert frames.max() == 1


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_floats_of_the_unit_interval(tmp_path: Path, twin: np.ndarray, dtype: str) -> None:
    np.testing.assert_array_equal(read_nifti(_save(tmp_path / "a.nii", (twin.T / 255).astype(dtype)))[0], twin[None])


def test_scaled_integers_are_floats(tmp_path: Path, twin: np.ndarray) -> None:
    image = nibabel.Nifti1Image(twin.T, None)
    image.header.set_slope_inter(1 / 255, 0)
    content = bytearray(image.to_bytes())
    content[112:120] = np.array([1 / 255, 0], "<f4").tobytes()  # scl_slope, scl_inter, which nibabel recomputes
    (tmp_path / "a.nii").write_bytes(content)
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii")[0], twin[None])


def test_sixteen_bits_are_those_of_a_sixteen_bit_png(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 40000, (7, 9)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "twin.png")
    frames, _ = read_nifti(_save(tmp_path / "a.nii", values.T))
    np.testing.assert_array_equal(frames[0], read_image(tmp_path / "twin.png"))


@pytest.mark.parametrize("dtype", ["i2", "i4", "f4"])
def test_other_ranges_are_stretched_over_the_whole_file(tmp_path: Path, twin: np.ndarray, dtype: str) -> None:
    stack = np.stack([twin, twin // 2])
    data = np.stack([frame.T for frame in stack.astype(np.int32) * 4 - 500], axis=2)
    np.testing.assert_array_equal(read_nifti(_save(tmp_path / "a.nii", data.astype(dtype)))[0], stack)


def test_one_value_out_of_range_is_black(tmp_path: Path) -> None:
    frames, _ = read_nifti(_save(tmp_path / "a.nii", np.full((4, 5), -1000, np.int16)))
    assert not frames.any()


@pytest.mark.parametrize("channels", [3, 4])
def test_colour(tmp_path: Path, twin: np.ndarray, channels: int) -> None:
    colours = np.stack([twin, np.roll(twin, 3), np.roll(twin, 5), np.full_like(twin, 128)], axis=-1)[..., :channels]
    Image.fromarray(colours).save(tmp_path / "twin.png")
    dtype = np.dtype([(name, "u1") for name in "RGBA"[:channels]])
    data = np.ascontiguousarray(colours.transpose(1, 0, 2)).view(dtype)[..., 0]
    stack = np.stack([data, data[::-1]], axis=2)
    expected = read_image(tmp_path / "twin.png")
    np.testing.assert_array_equal(read_nifti(_save(tmp_path / "a.nii", stack))[0], [expected, expected[:, ::-1]])


@pytest.mark.parametrize(
    ("unit", "zooms", "spacing"),
    [
        ("mm", (0.2, 0.1), (0.1, 0.2)),
        ("mm", (2.0, 1.5), (1.5, 2.0)),
        ("meter", (0.0002, 0.0001), (0.1, 0.2)),
        ("micron", (200, 100), (0.1, 0.2)),
        ("unknown", (0.2, 0.1), (0.1, 0.2)),
        ("unknown", (2.0, 1.5), None),
        ("unknown", (0.001, 0.001), None),
        ("unknown", (1.0, 1.0), None),
        ("mm", (1.0, 1.0), None),
        ("mm", (1.0, 0.5), (0.5, 1.0)),
    ],
)
def test_spacing(
    tmp_path: Path, twin: np.ndarray, unit: str, zooms: tuple[float, float], spacing: tuple[float, float] | None
) -> None:
    found = read_nifti(_save(tmp_path / "a.nii", twin.T, unit=unit, zooms=zooms))[1]
    assert found == (None if spacing is None else pytest.approx(spacing))


@pytest.mark.parametrize("shape", [(4, 5, 3, 2), (4, 5, 1, 2), (7,)])
def test_other_shapes_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = _save(tmp_path / "a.nii", np.zeros(shape, np.uint8))
    with pytest.raises(DecodeError, match=rf"a\.nii has the shape {' x '.join(map(str, shape))}, expected"):
        read_nifti(path)


@pytest.mark.parametrize("shape", [(37, 1, 23), (1, 37, 23), (1, 5, 3, 1)])
def test_frames_that_would_be_lines_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """A sagittal or coronal slice of a volume would be cut into strips."""
    path = _save(tmp_path / "a.nii", np.zeros(shape, np.uint8))
    with pytest.raises(DecodeError, match=rf"a\.nii has the shape {' x '.join(map(str, shape))}: each of its frames"):
        read_nifti(path)


def test_a_unit_of_no_length_is_unknown(tmp_path: Path, twin: np.ndarray) -> None:
    path = _save(tmp_path / "a.nii", twin.T, unit="mm", zooms=(0.1, 0.2))
    content = bytearray(path.read_bytes())
    content[123] = 4
    path.write_bytes(content)
    assert read_nifti(path)[1] == pytest.approx((0.2, 0.1))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_without_grey_are_refused(tmp_path: Path, value: float) -> None:
    data = np.zeros((4, 5, 3), np.float32)
    data[1, 2, 2] = value
    with pytest.raises(DecodeError, match=r"a\.nii holds NaN or infinite"):
        read_nifti(_save(tmp_path / "a.nii", data))


def test_complex_values_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match=r"a\.nii holds values of type complex64"):
        read_nifti(_save(tmp_path / "a.nii", np.zeros((4, 5), np.complex64)))


@pytest.mark.parametrize("name", ["cut.nii", "cut.nii.gz"])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.99])
def test_truncated(tmp_path: Path, name: str, share: float) -> None:
    path = _save(tmp_path / name, np.random.default_rng(0).integers(0, 255, (60, 80, 4), np.uint8))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DecodeError, match=r"cut\.nii"):
        read_nifti(path)


def test_no_nifti_no_bytes_no_file(tmp_path: Path) -> None:
    (tmp_path / "letter.nii").write_text("dear reader")
    (tmp_path / "nothing.nii.gz").touch()
    with pytest.raises(DecodeError, match=r"letter\.nii cannot be read as NIfTI"):
        read_nifti(tmp_path / "letter.nii")
    with pytest.raises(DecodeError, match=r"nothing\.nii\.gz is empty"):
        read_nifti(tmp_path / "nothing.nii.gz")
    with pytest.raises(FileNotFoundError):
        read_nifti(tmp_path / "none.nii")


def _claim_sizes(path: Path, sizes: tuple[int, int, int]) -> None:
    content = bytearray(path.read_bytes())
    content[40:48] = np.array([3, *sizes], "<i2").tobytes()
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((20000, 20000, 1), "20000 x 20000 pixels"),
        ((5000, 5000, 30000), "30000 frames of 5000 x 5000"),
        ((4, 0, 3), "holds no picture|cannot be read"),
    ],
)
def test_sizes_are_checked_before_values_are_read(tmp_path: Path, sizes: tuple[int, int, int], message: str) -> None:
    path = _save(tmp_path / "bomb.nii", np.zeros((4, 5, 3), np.uint8))
    _claim_sizes(path, sizes)
    with pytest.raises(DecodeError, match=rf"bomb\.nii.*({message})"):
        read_nifti(path)


def test_cap_of_a_stack(tmp_path: Path, twin: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _save(tmp_path / "a.nii", np.stack([twin.T] * 4, axis=2))
    monkeypatch.setattr(decode, "MAX_STACK_PIXELS", 4 * twin.size)
    assert len(read_nifti(path)[0]) == 4
    monkeypatch.setattr(decode, "MAX_STACK_PIXELS", 4 * twin.size - 1)
    with pytest.raises(DecodeError, match=r"a\.nii has 4 frames of 9 x 6 pixels, together more than"):
        read_nifti(path)


@pytest.mark.parametrize("version", [1, 2])
def test_extensions_are_passed_over(tmp_path: Path, twin: np.ndarray, version: int) -> None:
    """One that states a gigabyte, for which nibabel would ask memory, or fail; one may hold a name."""
    kind = nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image
    image = kind(twin.T, np.eye(4))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"Erika Mustermann"))
    path = tmp_path / "a.nii"
    nibabel.save(image, path)
    header = {1: 352, 2: 544}[version]
    content = bytearray(path.read_bytes())
    assert content[header - 4] == 1
    content[header : header + 4] = (2**30).to_bytes(4, "little")
    path.write_bytes(content)
    frames, _ = read_nifti(path)
    np.testing.assert_array_equal(frames[0], twin)
    with open_nifti(path) as opened:
        assert not opened.header.extensions
