"""Palettes, look-up tables and functional groups of DICOM files against the formulas of the standard."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from phnet_monai.data import DecodeError
from phnet_monai.data.decode import luminance
from phnet_monai.data.dicom import read_dicom

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")

files = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "reference" / "scan_files.py")))
make_dicom = files.make_dicom

COLOURS = ("Red", "Green", "Blue")


def in_syntax(path: Path, syntax: str) -> Path:
    """Write a file of 8 bits, or of 16 little-endian ones, in another byte order."""
    dataset = pydicom.dcmread(path)
    big = syntax.endswith("BigEndian")
    words = [f"{colour}PaletteColorLookupTableData" for colour in COLOURS]
    if dataset.BitsAllocated == 16:
        words.append("PixelData")
    for keyword in words:
        if big and keyword in dataset:
            setattr(dataset, keyword, np.frombuffer(dataset[keyword].value, "<u2").astype(">u2").tobytes())
    for item in dataset.get("VOILUTSequence") or []:
        if big and isinstance(item.LUTData, bytes):
            item.LUTData = np.frombuffer(item.LUTData, "<u2").astype(">u2").tobytes()
    dataset.file_meta.TransferSyntaxUID = getattr(pydicom.uid, syntax)
    pydicom.dcmwrite(path, dataset, implicit_vr=syntax[0] == "I", little_endian=not big)
    return path


def palette_file(path: Path, pixels: np.ndarray, palette: np.ndarray, first: int) -> Path:
    """`palette` is (N, 3), uint8 or uint16."""
    depth = palette.dtype.itemsize * 8
    tags: dict[str, object] = {}
    for channel, colour in enumerate(COLOURS):
        data = np.ascontiguousarray(palette[:, channel]).tobytes()
        tags[f"{colour}PaletteColorLookupTableDescriptor"] = [len(palette), first, depth]
        tags[f"{colour}PaletteColorLookupTableData"] = data + b"\0" * (len(data) % 2)
    return make_dicom(path, pixels, photometric="PALETTE COLOR", **tags)


SYNTAXES = ["ExplicitVRLittleEndian", "ImplicitVRLittleEndian", "ExplicitVRBigEndian"]


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("count", [255, 256])
def test_palette_in_any_byte_order(tmp_path: Path, syntax: str, dtype: type, count: int) -> None:
    palette = np.random.default_rng(1).integers(0, 256, (count, 3)).astype(np.uint8)
    pixels = files.picture()
    table = palette if dtype == np.uint8 else palette.astype(np.uint16) * 257
    path = in_syntax(palette_file(tmp_path / "a.dcm", pixels, table, 0), syntax)
    expected = luminance(palette[pixels.clip(max=count - 1)])
    np.testing.assert_array_equal(read_dicom(path)[0][0], expected)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_values_beyond_a_palette_have_its_ends(tmp_path: Path, syntax: str) -> None:
    palette = np.random.default_rng(2).integers(0, 256, (200, 3)).astype(np.uint8)
    pixels = np.array([[0, 9, 10, 11, 208, 209, 210, 265, 266, 300, 4000]], np.uint16)
    path = in_syntax(palette_file(tmp_path / "a.dcm", pixels, palette, 10), syntax)
    expected = luminance(palette[(pixels.astype(int) - 10).clip(0, 199)])
    np.testing.assert_array_equal(read_dicom(path)[0][0], expected)


def voi(first: int, data: np.ndarray, bits: int, kind: str) -> object:
    item = pydicom.Dataset()
    item.add_new(pydicom.datadict.tag_for_keyword("LUTDescriptor"), kind, [len(data), first, bits])
    item.add_new(pydicom.datadict.tag_for_keyword("LUTData"), "OW", data.tobytes())
    return item


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_table_of_bytes_in_any_byte_order(tmp_path: Path, syntax: str) -> None:
    table = np.random.default_rng(3).permutation(256).astype(np.uint8)
    path = make_dicom(tmp_path / "a.dcm", files.picture(), VOILUTSequence=[voi(0, table, 8, "US")])
    np.testing.assert_array_equal(read_dicom(in_syntax(path, syntax))[0][0], table[files.picture()])


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_table_that_begins_below_zero(tmp_path: Path, syntax: str) -> None:
    """Without explicit types a reader takes the sign from the stored values, which have none."""
    table = np.arange(256, dtype=np.uint16) * 257
    rescale = {"RescaleSlope": "1", "RescaleIntercept": "-100"}
    path = make_dicom(tmp_path / "a.dcm", files.picture(), **rescale, VOILUTSequence=[voi(-100, table, 16, "SS")])
    np.testing.assert_array_equal(read_dicom(in_syntax(path, syntax))[0][0], files.picture())


@pytest.mark.parametrize("bits", [0, 17])
def test_table_of_no_bits(tmp_path: Path, bits: int) -> None:
    table = np.arange(256, dtype=np.uint16)
    path = make_dicom(tmp_path / "a.dcm", files.picture(), VOILUTSequence=[voi(0, table, bits, "US")])
    with pytest.raises(DecodeError, match=r"a\.dcm has a look-up table, rescaling or window that cannot be used"):
        read_dicom(path)


def test_table_beyond_its_own_bits_is_white_there(tmp_path: Path) -> None:
    table = np.arange(256, dtype=np.uint16) * 2
    path = make_dicom(tmp_path / "a.dcm", files.picture(), VOILUTSequence=[voi(0, table, 8, "US")])
    np.testing.assert_array_equal(read_dicom(path)[0][0], (files.picture().astype(int) * 2).clip(max=255))


def group(*, spacing: tuple[str, str] | None = None, rescale: str = "", window: str = "") -> object:
    found = pydicom.Dataset()
    item = pydicom.Dataset()
    if spacing:
        item.PixelSpacing = list(spacing)
        found.PixelMeasuresSequence = [item]
    if rescale:
        item = pydicom.Dataset()
        item.RescaleSlope, item.RescaleIntercept = rescale.split()
        found.PixelValueTransformationSequence = [item]
    if window:
        item = pydicom.Dataset()
        item.WindowCenter, item.WindowWidth = window.split()
        found.FrameVOILUTSequence = [item]
    return found


def windowed(values: np.ndarray, centre: float, width: float) -> np.ndarray:
    return np.rint(255 * ((values - (centre - 0.5)) / (width - 1) + 0.5).clip(0, 1))


def clip_file(path: Path, shared: object, frames: list[object], pixels: np.ndarray) -> Path:
    groups = {"SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": frames}
    return make_dicom(path, pixels, frames=True, **groups)


CLIP = np.random.default_rng(4).integers(0, 4096, (3, 9, 14)).astype(np.uint16)


def test_windows_of_each_frame(tmp_path: Path) -> None:
    windows = [(1000, 500), (2000, 800), (1000, 500)]
    frames = [group(window=f"{centre} {width}") for centre, width in windows]
    found, spacing, _ = read_dicom(clip_file(tmp_path / "a.dcm", group(spacing=("0.2", "0.1")), frames, CLIP))
    assert spacing == (0.2, 0.1)
    for frame, values, window in zip(found, CLIP.astype(float), windows, strict=True):
        np.testing.assert_array_equal(frame, windowed(values, *window))


def test_rescaling_of_each_frame_under_one_window(tmp_path: Path) -> None:
    frames = [group(rescale=f"{slope} 10") for slope in (1, 2, 3)]
    found, _, _ = read_dicom(clip_file(tmp_path / "a.dcm", group(window="2000 4000"), frames, CLIP))
    for slope, frame, values in zip((1, 2, 3), found, CLIP.astype(float), strict=True):
        np.testing.assert_array_equal(frame, windowed(values * slope + 10, 2000, 4000))


def test_what_only_some_frames_have_is_not_that_of_others(tmp_path: Path) -> None:
    frames = [group(window="1000 500"), group(), group(window="3000 100")]
    found, _, _ = read_dicom(clip_file(tmp_path / "a.dcm", group(), frames, CLIP))
    np.testing.assert_array_equal(found[0], windowed(CLIP[0].astype(float), 1000, 500))
    np.testing.assert_array_equal(found[1], np.rint(CLIP[1] / 65535 * 255))
    np.testing.assert_array_equal(found[2], windowed(CLIP[2].astype(float), 3000, 100))


@pytest.mark.parametrize("count", [1, 3])
def test_groups_that_are_all_alike(tmp_path: Path, count: int) -> None:
    frames = [group(spacing=("0.2", "0.1"), window="1000 500") for _ in range(count)]
    found, spacing, _ = read_dicom(clip_file(tmp_path / "a.dcm", group(), frames, CLIP[:count]))
    assert spacing == (0.2, 0.1)
    np.testing.assert_array_equal(found, windowed(CLIP[:count].astype(float), 1000, 500))


def test_spacings_of_each_frame(tmp_path: Path) -> None:
    one, other = ("0.2", "0.1"), ("0.3", "0.1")
    shared = group(spacing=one)
    for spacings, expected in (((one, other, one), None), ((one, one, one), (0.2, 0.1)), ((one, None, one), None)):
        frames = [group(spacing=own, window=f"{n + 1}000 500") for n, own in enumerate(spacings)]
        assert read_dicom(clip_file(tmp_path / "a.dcm", shared, frames, CLIP))[1] == expected


def test_fewer_groups_than_frames(tmp_path: Path) -> None:
    path = clip_file(tmp_path / "a.dcm", group(), [group(window="1000 500")], CLIP)
    with pytest.raises(DecodeError, match=r"a\.dcm has 1 functional groups.* for 3 frames"):
        read_dicom(path)
    for harmless in (pydicom.Dataset(), group(spacing=("0.2", "0.1"))):  # nothing about grey
        frames, spacing, _ = read_dicom(clip_file(path, group(), [harmless], CLIP))
        assert (len(frames), spacing) == (3, None)


def test_bits_that_do_not_lie_lowest_are_refused(tmp_path: Path) -> None:
    path = make_dicom(tmp_path / "a.dcm", CLIP[0], BitsStored=12, HighBit=15)
    with pytest.raises(DecodeError, match=r"a\.dcm keeps its 12 bits up to bit 15, expected up to bit 11"):
        read_dicom(path)
