"""DICOM files mean the same as their 8-bit PNG twins, and keep what they say of the patient to themselves."""

from __future__ import annotations

import io
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from phnet_monai.data import DecodeError, decode, read_image
from phnet_monai.data.decode import NoImageError, luminance
from phnet_monai.data.dicom import has_dicom_magic, read_dicom
from phnet_monai.data.scan import read_scan
from phnet_monai.extras import MissingExtraError

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")

files = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "reference" / "scan_files.py")))
make_dicom, us_region = files.make_dicom, files.us_region


@pytest.fixture
def twin(tmp_path: Path) -> np.ndarray:
    """Grey values of the PNG that the DICOM files below are equal to."""
    Image.fromarray(files.picture()).save(tmp_path / "twin.png")
    return read_image(tmp_path / "twin.png")


def _frames(path: Path) -> np.ndarray:
    frames, _, _ = read_dicom(path)
    assert frames.dtype == np.uint8
    return frames


def _spacing(path: Path) -> tuple[float, float] | None:
    return read_dicom(path)[1]


def test_monochrome2(tmp_path: Path, twin: np.ndarray) -> None:
    np.testing.assert_array_equal(_frames(make_dicom(tmp_path / "a.dcm", twin)), twin[None])


def test_monochrome1_is_inverted(tmp_path: Path, twin: np.ndarray) -> None:
    np.testing.assert_array_equal(
        _frames(make_dicom(tmp_path / "a.dcm", 255 - twin, photometric="MONOCHROME1")), twin[None]
    )


def test_sixteen_bits_are_those_of_a_sixteen_bit_png(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (7, 9)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "twin.png")
    np.testing.assert_array_equal(_frames(make_dicom(tmp_path / "a.dcm", values))[0], read_image(tmp_path / "twin.png"))


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_stored_bits_decide_what_is_white(tmp_path: Path, twin: np.ndarray, bits: int) -> None:
    values = np.rint(twin / 255 * (2**bits - 1)).astype(np.uint16)
    path = make_dicom(tmp_path / "a.dcm", values, BitsStored=bits, HighBit=bits - 1)
    np.testing.assert_array_equal(_frames(path)[0], twin)


def test_bits_above_the_stored_ones_are_no_grey(tmp_path: Path, twin: np.ndarray) -> None:
    values = twin.astype(np.uint16) | 0xF000  # overlays were kept there
    path = make_dicom(tmp_path / "a.dcm", values, BitsStored=8, HighBit=7)
    np.testing.assert_array_equal(_frames(path)[0], twin)


def test_signed_values(tmp_path: Path, twin: np.ndarray) -> None:
    values = (twin.astype(np.int32) * 257 - 32768).astype(np.int16)
    np.testing.assert_array_equal(_frames(make_dicom(tmp_path / "a.dcm", values))[0], twin)


def test_negative_slope_turns_the_scale(tmp_path: Path, twin: np.ndarray) -> None:
    path = make_dicom(tmp_path / "a.dcm", 255 - twin, RescaleSlope="-2", RescaleIntercept="1000")
    np.testing.assert_array_equal(_frames(path)[0], twin)


@pytest.mark.parametrize(
    "window",
    [
        {"WindowCenter": "300", "WindowWidth": "200"},
        {"WindowCenter": ["300", "40"], "WindowWidth": ["200", "80"]},
        {"WindowCenter": "300", "WindowWidth": "200", "VOILUTFunction": "LINEAR_EXACT"},
        {"WindowCenter": "300", "WindowWidth": "200", "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": "300", "WindowWidth": "1"},
        {"WindowCenter": "-500", "WindowWidth": "800", "RescaleSlope": "2", "RescaleIntercept": "-1024"},
    ],
)
def test_window_is_applied_as_pydicom_does(tmp_path: Path, window: dict[str, str]) -> None:
    values = np.arange(0, 4096, 13, dtype=np.uint16)[None]
    path = make_dicom(tmp_path / "a.dcm", values, BitsStored=12, HighBit=11, **window)
    header = pydicom.dcmread(path)
    shown = pydicom.pixels.apply_windowing(pydicom.pixels.apply_modality_lut(values, header), header)
    ends = pydicom.pixels.apply_modality_lut(np.array([0, 4095]), header)
    expected = (shown - ends[0]) / (ends[1] - ends[0]) * 255
    assert np.abs(_frames(path)[0] - expected).max() <= 0.5 + 1e-9


def test_invalid_window_is_no_window(tmp_path: Path, twin: np.ndarray) -> None:
    path = make_dicom(tmp_path / "a.dcm", twin, WindowCenter="0", WindowWidth="0")
    np.testing.assert_array_equal(_frames(path)[0], twin)


def _lut(values: list[int], first: int, bits: int) -> object:
    item = pydicom.Dataset()
    item.LUTDescriptor = [len(values), first, bits]
    item["LUTDescriptor"].VR = "US"
    item.LUTData = values
    item["LUTData"].VR = "US"
    return item


@pytest.mark.parametrize("sequence", ["VOILUTSequence", "ModalityLUTSequence"])
def test_lookup_table(tmp_path: Path, sequence: str) -> None:
    values = np.array([[0, 9, 10, 11], [12, 13, 14, 255]], np.uint8)
    path = make_dicom(tmp_path / "a.dcm", values, **{sequence: [_lut([0, 100, 4095, 2000], 10, 12)]})
    expected = np.array([[0, 0, 0, 100], [4095, 2000, 2000, 2000]]) / 4095 * 255
    np.testing.assert_array_equal(_frames(path)[0], np.rint(expected))


@pytest.mark.parametrize("frames", [False, True])
def test_rgb(tmp_path: Path, twin: np.ndarray, frames: bool) -> None:
    colours = np.stack([twin, np.roll(twin, 3), np.roll(twin, 5)], axis=-1)
    Image.fromarray(colours).save(tmp_path / "twin.png")
    pixels = np.stack([colours, colours[::-1]]) if frames else colours
    found = _frames(make_dicom(tmp_path / "a.dcm", pixels, photometric="RGB", frames=frames))
    expected = read_image(tmp_path / "twin.png")
    np.testing.assert_array_equal(found, np.stack([expected, expected[::-1]]) if frames else expected[None])


def test_planes_one_after_another(tmp_path: Path, twin: np.ndarray) -> None:
    colours = np.stack([twin, np.roll(twin, 3), np.roll(twin, 5)], axis=-1)
    interleaved = make_dicom(tmp_path / "a.dcm", colours, photometric="RGB")
    planes = np.ascontiguousarray(colours.transpose(2, 0, 1)).tobytes()
    planar = make_dicom(tmp_path / "b.dcm", colours, photometric="RGB", PlanarConfiguration=1, PixelData=planes)
    np.testing.assert_array_equal(_frames(planar), _frames(interleaved))


def test_sixteen_bit_colour(tmp_path: Path, twin: np.ndarray) -> None:
    colours = np.stack([twin] * 3, axis=-1).astype(np.uint16) * 257
    np.testing.assert_array_equal(_frames(make_dicom(tmp_path / "a.dcm", colours, photometric="RGB"))[0], twin)


def test_ybr_full(tmp_path: Path, twin: np.ndarray) -> None:
    grey = np.stack([twin, np.full_like(twin, 128), np.full_like(twin, 128)], axis=-1)
    np.testing.assert_array_equal(_frames(make_dicom(tmp_path / "a.dcm", grey, photometric="YBR_FULL"))[0], twin)


def test_ybr_full_422(tmp_path: Path, twin: np.ndarray) -> None:
    luma = twin.reshape(-1, 2)
    chroma = np.full_like(luma, 128)
    grey = np.stack([twin] * 3, axis=-1)
    packed = np.concatenate([luma, chroma], axis=1).tobytes()
    path = make_dicom(tmp_path / "a.dcm", grey, photometric="YBR_FULL_422", PixelData=packed)
    np.testing.assert_array_equal(_frames(path)[0], twin)


@pytest.mark.parametrize("depth", [8, 16])
def test_palette_gives_colours_not_indices(tmp_path: Path, twin: np.ndarray, depth: int) -> None:
    palette = np.random.default_rng(1).integers(0, 256, (256, 3)).astype(np.uint8)
    Image.fromarray(palette[twin]).save(tmp_path / "twin.png")
    tags: dict[str, object] = {}
    for channel, colour in enumerate(("Red", "Green", "Blue")):
        entries = palette[:, channel].astype(np.uint8 if depth == 8 else np.uint16) * (1 if depth == 8 else 257)
        tags[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, depth]
        tags[f"{colour}PaletteColorLookupTableData"] = entries.tobytes()
    path = make_dicom(tmp_path / "a.dcm", twin, photometric="PALETTE COLOR", **tags)
    np.testing.assert_array_equal(_frames(path)[0], read_image(tmp_path / "twin.png"))


@pytest.mark.parametrize("syntax", ["RLELossless", "JPEG2000Lossless", "JPEGLSLossless"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_lossless_compression(tmp_path: Path, syntax: str, dtype: type) -> None:
    twin = files.picture(40, 70)  # JPEG 2000 needs some size
    path = make_dicom(tmp_path / "a.dcm", twin.astype(dtype) * (1 if dtype == np.uint8 else 257))
    dataset = pydicom.dcmread(path)
    dataset.compress(getattr(pydicom.uid, syntax))
    dataset.save_as(path)
    np.testing.assert_array_equal(_frames(path)[0], twin)


def by_gdcm(path: Path, syntax: str) -> None:
    """Compress a file anew, also by what neither Pillow nor pydicom writes (JPEG process 14)."""
    gdcm = pytest.importorskip("gdcm", reason="needs python-gdcm of phnet-monai[dicom]")
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(path))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_lossless_jpeg_of_ultrasound_machines(tmp_path: Path, dtype: type) -> None:
    twin = files.picture(40, 70)
    path = make_dicom(tmp_path / "a.dcm", twin.astype(dtype) * (1 if dtype == np.uint8 else 257))
    by_gdcm(path, "JPEGLosslessProcess14_1")
    assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == pydicom.uid.JPEGLosslessSV1
    np.testing.assert_array_equal(_frames(path)[0], twin)


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "YBR_FULL_422"])
def test_jpeg_frames_are_those_of_jpeg_files(tmp_path: Path, photometric: str) -> None:
    grey = np.linspace(0, 255, 64 * 48).astype(np.uint8).reshape(48, 64)
    frames = (
        [grey, grey[::-1]]
        if photometric == "MONOCHROME2"
        else [np.stack([grey] * 3, -1), np.stack([grey.T.reshape(48, 64)] * 3, -1)]
    )
    path = make_dicom(tmp_path / "a.dcm", np.stack(frames), photometric=photometric, frames=True)
    files.as_jpeg(path, frames, photometric)
    found = _frames(path)
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / "twin.jpg", quality=95)
        assert np.abs(found[index].astype(int) - read_image(tmp_path / "twin.jpg")).max() <= 2


def smooth_colours() -> np.ndarray:
    """uint8 (48, 64, 3) that lossy compression keeps well; its channels differ."""
    across, down = np.linspace(0, 255, 64)[None].repeat(48, 0), np.linspace(0, 200, 48)[:, None].repeat(64, 1)
    return np.stack([across, down, 255 - across], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize(
    "syntax", ["RLELossless", "JPEG2000Lossless", "JPEGLSLossless", "JPEGLosslessProcess14_1", "JPEGBaselineProcess1"]
)
def test_compressed_colour_whatever_the_header_says_of_planes(tmp_path: Path, syntax: str, planar: int) -> None:
    colours = smooth_colours()
    path = make_dicom(tmp_path / "a.dcm", colours, photometric="RGB")
    by_gdcm(path, syntax)
    dataset = pydicom.dcmread(path)
    dataset.PlanarConfiguration = planar
    dataset.save_as(path)
    lossy = syntax == "JPEGBaselineProcess1"  # as luma and chroma of unequal sampling, without a marker: RGB it is not
    assert np.abs(_frames(path)[0].astype(int) - luminance(colours)).max() <= (2 if lossy else 0)


def without_jfif(jpeg: bytes) -> bytes:
    start = jpeg.find(b"\xff\xe0")
    return jpeg if start < 0 else jpeg[:start] + jpeg[start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big") :]


def with_adobe(jpeg: bytes, transform: int) -> bytes:
    return jpeg[:2] + b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([transform]) + jpeg[2:]


def jpeg_of(colours: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(colours).save(stream, "JPEG", quality=98, **options)
    return stream.getvalue()


JPEGS = {
    "jfif": lambda colours: jpeg_of(colours),
    "unequal sampling": lambda colours: without_jfif(jpeg_of(colours, subsampling="4:2:2")),
    "adobe": lambda colours: with_adobe(without_jfif(jpeg_of(colours)), 1),
    "adobe and jfif": lambda colours: with_adobe(jpeg_of(colours), 1),
    "adobe rgb": lambda colours: with_adobe(without_jfif(jpeg_of(colours, keep_rgb=True)), 0),
    "components R, G, B": lambda colours: without_jfif(jpeg_of(colours, keep_rgb=True)),
}


def of_jpeg(path: Path, frame: bytes, photometric: str) -> Path:
    make_dicom(path, smooth_colours(), photometric=photometric)
    dataset = pydicom.dcmread(path)
    dataset.PixelData = pydicom.encaps.encapsulate([frame])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEGBaseline8Bit
    dataset.save_as(path)
    return path


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL_422", "YBR_FULL"])
@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_frame_knows_its_colours_better_than_the_header(tmp_path: Path, kind: str, photometric: str) -> None:
    path = of_jpeg(tmp_path / "a.dcm", JPEGS[kind](smooth_colours()), photometric)
    assert np.abs(_frames(path)[0].astype(int) - luminance(smooth_colours())).max() <= 3


def test_where_a_jpeg_frame_tells_nothing_the_header_counts(tmp_path: Path) -> None:
    frame = without_jfif(jpeg_of(smooth_colours(), subsampling="4:4:4"))
    luma_and_chroma = np.asarray(Image.fromarray(smooth_colours()).convert("YCbCr"))
    for photometric, expected in (("YBR_FULL", smooth_colours()), ("RGB", luma_and_chroma)):
        found = _frames(of_jpeg(tmp_path / "a.dcm", frame, photometric))[0]
        assert np.abs(found.astype(int) - luminance(expected)).max() <= 3


def test_a_grey_jpeg_frame_in_a_coloured_file(tmp_path: Path) -> None:
    path = of_jpeg(tmp_path / "a.dcm", jpeg_of(smooth_colours()[..., 0]), "RGB")
    with pytest.raises(DecodeError, match=r"a\.dcm: the pixels of frame 1 .* the frame has 1 components"):
        read_dicom(path)


def test_lossy_jpeg_of_twelve_bits_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was called damaged. Where a decoder for it is installed, that one is asked."""
    path = of_jpeg(tmp_path / "a.dcm", jpeg_of(smooth_colours()[..., 0]), "MONOCHROME2")
    dataset = pydicom.dcmread(path)
    dataset.SamplesPerPixel, dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 1, 16, 12, 11
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEGExtended12Bit
    dataset.save_as(path)
    decoder = pydicom.pixels.get_decoder(pydicom.uid.JPEGExtended12Bit)
    monkeypatch.delitem(decoder._available, "pylibjpeg", raising=False)
    with pytest.raises(DecodeError, match=r"a\.dcm is compressed as lossy JPEG of 12 bits, which is not read"):
        read_dicom(path)
    monkeypatch.setitem(decoder._available, "pylibjpeg", lambda src, runner: np.full((48, 64), 4095, "<u2").tobytes())
    assert (_frames(path) == 255).all()


def test_clip_in_packed_ybr_full_422(tmp_path: Path, twin: np.ndarray) -> None:
    """pydicom's iterator loses its place after the first frame of these."""
    clip = np.stack([twin, twin[::-1], twin[:, ::-1], twin])
    luma = clip.reshape(-1, 2)
    packed = np.concatenate([luma, np.full_like(luma, 128)], axis=1).tobytes()
    colours = np.stack([clip] * 3, axis=-1)
    path = make_dicom(tmp_path / "a.dcm", colours, photometric="YBR_FULL_422", frames=True, PixelData=packed)
    np.testing.assert_array_equal(_frames(path), clip)


def test_clip_of_single_bits(tmp_path: Path) -> None:
    clip = np.random.default_rng(0).integers(0, 2, (3, 7, 9)).astype(np.uint8)
    packed = np.packbits(clip.ravel(), bitorder="little").tobytes()
    tags = {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0, "PixelData": packed + b"\0" * (len(packed) % 2)}
    path = make_dicom(tmp_path / "a.dcm", clip, frames=True, **tags)
    np.testing.assert_array_equal(_frames(path), clip * 255)


def test_frames_keep_their_order(tmp_path: Path, twin: np.ndarray) -> None:
    clip = np.stack([twin, twin[::-1], twin[:, ::-1]])
    np.testing.assert_array_equal(_frames(make_dicom(tmp_path / "a.dcm", clip, frames=True)), clip)


@pytest.mark.parametrize("syntax", ["ImplicitVRLittleEndian", "ExplicitVRBigEndian"])
def test_other_byte_orders(tmp_path: Path, syntax: str) -> None:
    values = np.arange(0, 65536, 1111, dtype=np.uint16).reshape(1, -1)
    path = make_dicom(tmp_path / "a.dcm", values, PixelSpacing=["0.1", "0.2"])
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = getattr(pydicom.uid, syntax)
    if syntax == "ExplicitVRBigEndian":
        dataset.PixelData = values.astype(">u2").tobytes()
    pydicom.dcmwrite(path, dataset, implicit_vr=syntax[0] == "I", little_endian=not syntax.endswith("BigEndian"))
    frames, spacing, _ = read_dicom(path)
    np.testing.assert_array_equal(frames[0], np.rint(values / 257))
    assert spacing == (0.1, 0.2)


def test_spacing_is_row_then_column(tmp_path: Path, twin: np.ndarray) -> None:
    assert _spacing(make_dicom(tmp_path / "a.dcm", twin, PixelSpacing=["0.08", "0.12"])) == (0.08, 0.12)
    assert _spacing(make_dicom(tmp_path / "b.dcm", twin, ImagerPixelSpacing=["0.2", "0.3"])) == (0.2, 0.3)
    both = make_dicom(tmp_path / "c.dcm", twin, ImagerPixelSpacing=["0.2", "0.3"], PixelSpacing=["0.08", "0.12"])
    assert _spacing(both) == (0.08, 0.12)


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"PixelSpacing": ["1", "1"]},
        {"PixelSpacing": ["0", "0.1"]},
        {"PixelSpacing": ["-0.1", "0.1"]},
        {"PixelSpacing": "0.1"},
        {"PixelSpacing": []},
    ],
)
def test_no_spacing_or_none_that_can_be_meant(tmp_path: Path, twin: np.ndarray, tags: dict[str, object]) -> None:
    assert _spacing(make_dicom(tmp_path / "a.dcm", twin, **tags)) is None


def test_the_largest_region_in_centimetres_gives_the_spacing(tmp_path: Path, twin: np.ndarray) -> None:
    regions = [
        us_region((0, 0, 3, 3), (0.5, 0.5)),
        us_region((0, 0, 15, 9), (-0.006, 0.009)),
        us_region((0, 0, 19, 11), (0.001, 4.0), units=4, form=3),  # a Doppler curve over seconds
    ]
    path = make_dicom(tmp_path / "a.dcm", twin, SequenceOfUltrasoundRegions=regions, PixelSpacing=["0.2", "0.3"])
    assert _spacing(path) == pytest.approx((0.09, 0.06))


@pytest.mark.parametrize(("second", "spacing"), [(0.02, None), (0.01001, 0.1)])
def test_two_views_of_different_scale_have_no_spacing(
    tmp_path: Path, twin: np.ndarray, second: float, spacing: float | None
) -> None:
    regions = [us_region((0, 0, 9, 11), (0.01, 0.01)), us_region((10, 0, 19, 11), (second, second))]
    path = make_dicom(tmp_path / "a.dcm", twin, SequenceOfUltrasoundRegions=regions, PixelSpacing=["0.2", "0.3"])
    found = _spacing(path)
    assert found is None if spacing is None else found == pytest.approx((spacing, spacing), rel=0.01)


@pytest.mark.parametrize("change", [{"units": 4}, {"form": 3}])
def test_other_regions_give_none(tmp_path: Path, twin: np.ndarray, change: dict[str, int]) -> None:
    regions = [us_region((0, 0, 19, 11), (0.01, 0.01), **change)]
    path = make_dicom(tmp_path / "a.dcm", twin, SequenceOfUltrasoundRegions=regions, PixelSpacing=["0.2", "0.3"])
    assert _spacing(path) == (0.2, 0.3)


def test_shared_functional_groups(tmp_path: Path, twin: np.ndarray) -> None:
    measures, window, group = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    measures.PixelSpacing = ["0.08", "0.12"]
    window.WindowCenter, window.WindowWidth = "64", "128"
    group.PixelMeasuresSequence, group.FrameVOILUTSequence = [measures], [window]
    path = make_dicom(tmp_path / "a.dcm", twin[None], frames=True, SharedFunctionalGroupsSequence=[group])
    frames, spacing, _ = read_dicom(path)
    assert spacing == (0.08, 0.12)
    np.testing.assert_array_equal(frames[0], np.rint(np.clip(twin / 127, 0, 1) * 255))


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}, "segmentation"),
        ({"Rows": None}, "holds no picture .Rows missing"),
        ({"BitsStored": 32, "BitsAllocated": 32}, "32 bits"),
        ({"PhotometricInterpretation": "ARGB"}, "1 samples per pixel of the kind ARGB"),
        ({"SamplesPerPixel": 2}, "2 samples per pixel"),
        ({"NumberOfFrames": 3}, "cannot be decoded|holds 1 frames"),
        ({"Rows": 0}, "holds no picture"),
        ({"Rows": 60000, "Columns": 60000}, "60000 x 60000 pixels, more than the 100 million"),
        ({"NumberOfFrames": 10**9}, "1000000000 frames"),
        ({"RescaleSlope": "1", "RescaleIntercept": "0", "VOILUTSequence": [pydicom.Dataset()]}, "look-up table"),
    ],
)
def test_what_is_refused(tmp_path: Path, twin: np.ndarray, tags: dict[str, object], message: str) -> None:
    path = make_dicom(tmp_path / "odd.dcm", twin, **tags)
    with pytest.raises(DecodeError, match=rf"odd\.dcm.*({message})"):
        read_dicom(path)


@pytest.mark.parametrize(
    ("kind", "what"),
    [("88.22", "a report"), ("11.1", "a presentation state"), ("104.1", "a packed document"), ("66", "raw data")],
)
def test_objects_of_other_kinds_are_no_images(tmp_path: Path, kind: str, what: str) -> None:
    dataset = pydicom.dcmread(make_dicom(tmp_path / "other.dcm", files.picture()))
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = f"1.2.840.10008.5.1.4.1.1.{kind}"
    dataset.save_as(tmp_path / "other.dcm")
    with pytest.raises(NoImageError, match=rf"other\.dcm is {what}"):
        read_dicom(tmp_path / "other.dcm")


def test_report_without_pixels(tmp_path: Path) -> None:
    path = make_dicom(tmp_path / "sr.dcm", files.picture())
    dataset = pydicom.dcmread(path)
    for keyword in ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelData", "SamplesPerPixel"):
        delattr(dataset, keyword)
    dataset.save_as(path)
    with pytest.raises(DecodeError, match=r"sr\.dcm holds no picture"):
        read_dicom(path)


def test_pixels_missing(tmp_path: Path) -> None:
    path = make_dicom(tmp_path / "bare.dcm", files.picture())
    dataset = pydicom.dcmread(path)
    del dataset.PixelData
    dataset.save_as(path)
    with pytest.raises(DecodeError, match=r"bare\.dcm holds no picture \(PixelData missing"):
        read_dicom(path)


def _all_messages(error: BaseException) -> str:
    """Text of an error and of all that it names as its cause or context, as a traceback prints it."""
    texts = [str(error)]
    if error.__cause__ is not None:
        texts.append(_all_messages(error.__cause__))
    elif error.__context__ is not None and not error.__suppress_context__:
        texts.append(_all_messages(error.__context__))
    return "\n".join(texts)


def _assert_silent(text: str) -> None:
    for value in files.PATIENT.values():
        for part in value.split("^"):
            assert part == "F" or part not in text


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.8, 0.9, 0.97, 0.999])
@pytest.mark.parametrize("kind", ["plain", "clip", "RLELossless", "JPEG2000Lossless"])
def test_truncated_files_say_so_and_nothing_of_the_patient(
    tmp_path: Path, share: float, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (3, 60, 80), np.uint8)
    path = make_dicom(tmp_path / "cut.dcm", noise if kind != "plain" else noise[0], frames=kind != "plain")
    if kind not in ("plain", "clip"):
        dataset = pydicom.dcmread(path)
        dataset.compress(getattr(pydicom.uid, kind))
        dataset.save_as(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DecodeError, match=r"cut\.dcm") as caught:
        read_dicom(path)
    _assert_silent(_all_messages(caught.value) + "".join(capfd.readouterr()))


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": "Roe^Jane", "WindowWidth": "MRN4711"},
        {"PixelSpacing": ["Roe", "Jane"]},
        {"NumberOfFrames": "MRN4711"},
        {"PatientBirthDate": "Roe Jane"},
    ],
)
def test_identity_in_the_wrong_place_is_not_quoted(
    tmp_path: Path,
    twin: np.ndarray,
    tags: dict[str, object],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
) -> None:
    path = make_dicom(tmp_path / "a.dcm", twin)
    dataset = pydicom.dcmread(path)
    for keyword, value in tags.items():
        text = "\\".join(value) if isinstance(value, list) else str(value)
        dataset.add(pydicom.DataElement(pydicom.datadict.tag_for_keyword(keyword), "LO", text))
    dataset.save_as(path)
    content = path.read_bytes()
    for keyword in tags:  # texts under the type of a number
        tag = pydicom.tag.Tag(pydicom.datadict.tag_for_keyword(keyword))
        start = tag.group.to_bytes(2, "little") + tag.element.to_bytes(2, "little")
        vr = pydicom.datadict.dictionary_VR(tag).encode()
        content = content.replace(start + b"LO", start + vr)
    path.write_bytes(content)
    recwarn.clear()
    caplog.clear()
    message = ""
    try:
        read_dicom(path)
    except DecodeError as error:
        message = _all_messages(error)
    _assert_silent(message + "".join(capfd.readouterr()) + caplog.text + "".join(str(w.message) for w in recwarn))


def test_random_bytes_with_the_magic_number(tmp_path: Path) -> None:
    path = tmp_path / "noise.dcm"
    path.write_bytes(bytes(128) + b"DICM" + np.random.default_rng(0).bytes(5000))
    assert has_dicom_magic(path)
    with pytest.raises(DecodeError, match=r"noise\.dcm"):
        read_dicom(path)


def test_no_dicom_no_bytes_no_file(tmp_path: Path) -> None:
    (tmp_path / "letter.dcm").write_text("dear reader")
    (tmp_path / "nothing.dcm").touch()
    with pytest.raises(DecodeError, match=r"letter\.dcm cannot be read as DICOM"):
        read_dicom(tmp_path / "letter.dcm")
    with pytest.raises(DecodeError, match=r"nothing\.dcm is empty"):
        read_dicom(tmp_path / "nothing.dcm")
    with pytest.raises(FileNotFoundError):
        read_dicom(tmp_path / "none.dcm")


@pytest.mark.parametrize(
    ("syntax", "message"),
    [
        ("1.2.840.10008.1.2.4.102", "MPEG-4.*which is not read"),
        ("1.2.840.10008.1.2.1.99", "deflated"),
        ("1.2.3.4", "which is not read"),
    ],
)
def test_transfer_syntaxes_that_are_not_read(tmp_path: Path, twin: np.ndarray, syntax: str, message: str) -> None:
    path = make_dicom(tmp_path / "video.dcm", twin)
    _set_syntax(path, syntax)
    with pytest.raises(DecodeError, match=rf"video\.dcm.*{message}"):
        read_dicom(path)


def _set_syntax(path: Path, syntax: str) -> None:
    """Claim another transfer syntax for the same bytes."""
    dataset = pydicom.dcmread(path)
    stream = pydicom.filebase.DicomBytesIO()
    dataset.file_meta.TransferSyntaxUID = syntax
    pydicom.filewriter.write_file_meta_info(stream, dataset.file_meta)
    content = path.read_bytes()
    length = int.from_bytes(content[140:144], "little")
    path.write_bytes(content[:132] + stream.getvalue() + content[144 + length :])


def test_a_missing_decoder_names_the_install(tmp_path: Path, twin: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_dicom(tmp_path / "a.dcm", twin)
    dataset = pydicom.dcmread(path)
    dataset.compress(pydicom.uid.RLELossless)
    dataset.save_as(path)
    decoder = pydicom.pixels.get_decoder(pydicom.uid.RLELossless)
    monkeypatch.setattr(decoder, "_available", {})
    with pytest.raises(DecodeError, match=r"RLE Lossless, for which no decoder.*pip install 'phnet-monai\[dicom\]'"):
        read_dicom(path)


def test_a_missing_extra_names_the_install(tmp_path: Path, twin: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_dicom(tmp_path / "a.dcm", twin)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'phnet-monai\[dicom\]'"):
        read_dicom(path)


def test_size_is_checked_before_pixels_are_read(
    tmp_path: Path, twin: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_dicom(tmp_path / "a.dcm", np.stack([twin] * 5), frames=True)
    monkeypatch.setattr(decode, "MAX_STACK_PIXELS", 4 * twin.size)
    monkeypatch.setattr(pydicom.pixels, "iter_pixels", None)
    with pytest.raises(DecodeError, match=r"a\.dcm has 5 frames of 20 x 12 pixels"):
        read_dicom(path)


def test_more_frames_than_stated(tmp_path: Path, twin: np.ndarray) -> None:
    path = make_dicom(tmp_path / "a.dcm", np.stack([twin] * 3), frames=True)
    dataset = pydicom.dcmread(path)
    dataset.compress(pydicom.uid.RLELossless)
    dataset.NumberOfFrames = 2
    dataset.save_as(path)
    with pytest.raises(DecodeError, match=r"a\.dcm"):
        read_dicom(path)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        *((ultrasound, None) for ultrasound in ("US", "OT", "SC", "", None)),
        *(("MG", "MG"), ("CT", "CT"), ("IVUS", "IVUS")),
        ("MUSTERFRAU^ANNA", "another kind"),
    ],
)
def test_other_modalities_are_told(tmp_path: Path, said: str | None, told: str | None) -> None:
    path = make_dicom(tmp_path / "a.dcm", files.picture(), Modality=said)
    assert read_dicom(path)[2] == told
    assert read_scan(path).other_modality == told
