"""Any picture is read as its 8-bit twin, and any bytes either are a picture or are refused by `DecodeError`."""

from __future__ import annotations

import gzip
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from phnet_monai.data import DecodeError, read_image, read_mask
from phnet_monai.data.scan import read_scan

# the same examples every time, and no clock
SAME = settings(
    derandomize=True,
    deadline=None,
    max_examples=60,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

SIZES = array_shapes(min_dims=2, max_dims=2, max_side=9)


def grey_twin(values: np.ndarray) -> np.ndarray:
    """What a viewer shows of an array, in [0, 255], without rounding."""
    exact = values.astype(np.float64)
    if values.dtype == np.bool_:
        exact *= 255
    elif values.dtype == np.uint16:
        exact *= 255 / 65535
    if exact.ndim == 2:
        return exact
    grey = exact[..., :3] @ np.array([0.299, 0.587, 0.114])
    return grey * exact[..., 3] / 255 if exact.shape[-1] == 4 else grey


@st.composite
def pictures(draw: st.DrawFn) -> np.ndarray:
    shape = draw(SIZES)
    kind = draw(st.sampled_from(["uint8", "uint16", "bool", "RGB", "RGBA"]))
    if kind in ("RGB", "RGBA"):
        return draw(arrays(np.uint8, (*shape, len(kind))))
    return draw(arrays(np.dtype(kind), shape))


@given(values=pictures(), ending=st.sampled_from(["png", "tif"]))
@SAME
def test_every_kind_of_picture_is_read_as_its_twin(values: np.ndarray, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{ending}"
    Image.fromarray(values).save(path)
    found = read_image(path)
    assert found.dtype == np.uint8
    assert found.shape == values.shape[:2]
    assert np.abs(found - grey_twin(values)).max() <= 1
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.frames[0], found)


@given(values=arrays(np.bool_, SIZES), low=st.integers(0, 20), high=st.integers(41, 255))
@SAME
def test_masks_mean_the_same_whatever_their_two_values(values: np.ndarray, low: int, high: int, tmp_path: Path) -> None:
    Image.fromarray(np.where(values, high, low).astype(np.uint8)).save(tmp_path / "m.png")
    found = read_mask(tmp_path / "m.png")
    if values.any():
        np.testing.assert_array_equal(found, values)
    else:  # nothing brighter than the background: all of it is, unless it is black
        assert found.all() if low else not found.any()


def only_decode_errors(path: Path) -> np.ndarray | None:
    """The grey of a file, None where it is refused; anything else that is raised fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            frames = read_scan(path).frames
        except DecodeError as error:
            refused = str(error)
        else:
            refused = None
    if refused is not None:
        assert path.name in refused
        return None
    assert frames.dtype == np.uint8
    assert frames.ndim == 3
    return frames


ENDINGS = ["x.png", "x.jpg", "x.bmp", "x.tif", "x.nii", "x.nii.gz", "x.dcm"]
STARTS = [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"BM", b"II*\0", b"MM\0*", b"\x1f\x8b\x08", b"P5 9 9 255\n"]
STARTS += [bytes(128) + b"DICM", (348).to_bytes(4, "little"), (540).to_bytes(4, "big"), b"%!PS-Adobe-3.0 EPSF-3.0\n"]


@given(start=st.sampled_from(STARTS), rest=st.binary(max_size=400), name=st.sampled_from(ENDINGS))
@SAME
def test_random_bytes(start: bytes, rest: bytes, name: str, tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    (tmp_path / name).write_bytes(start + rest)
    only_decode_errors(tmp_path / name)


@pytest.fixture(scope="module")
def originals(scan_files: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Good files of each kind."""
    folder, picture = tmp_path_factory.mktemp("originals"), scan_files.picture()
    for name in ("x.png", "x.jpg", "x.bmp", "x.tif"):
        Image.fromarray(picture).save(folder / name)
    for name in ("x.nii", "x.nii.gz"):
        nibabel.save(nibabel.Nifti1Image(picture.T, np.eye(4)), folder / name)
    scan_files.make_dicom(folder / "x.dcm", picture)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@given(
    name=st.sampled_from(ENDINGS),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8),
    share=st.sampled_from([1.0, 1.0, 0.9, 0.5]),
)
@settings(SAME, max_examples=150)
def test_good_files_with_wrong_bytes(
    name: str, changes: list[tuple[float, int]], share: float, originals: dict[str, bytes], tmp_path: Path
) -> None:
    content = bytearray(originals[name])
    for place, value in changes:
        content[int(place**3 * len(content))] = value  # headers come first, and matter most
    (tmp_path / name).write_bytes(content[: int(share * len(content))])
    only_decode_errors(tmp_path / name)


@given(data=st.data())
@settings(SAME, max_examples=40)
def test_nifti_headers_of_any_values(data: Any, originals: dict[str, bytes], tmp_path: Path) -> None:
    """Shape, type, offset and scaling."""
    content = bytearray(originals["x.nii"])
    for start, length in ((40, 16), (70, 4), (108, 12)):
        if data.draw(st.booleans()):
            content[start : start + length] = data.draw(st.binary(min_size=length, max_size=length))
    packed = data.draw(st.booleans())
    (tmp_path / "x.nii").write_bytes(gzip.compress(bytes(content)) if packed else bytes(content))
    only_decode_errors(tmp_path / "x.nii")


def test_the_unchanged_originals_are_read(
    originals: dict[str, bytes], scan_files: SimpleNamespace, tmp_path: Path, tree: Callable[..., Any]
) -> None:
    """Otherwise the tests above would refuse everything, and say nothing."""
    for name, content in originals.items():
        (tmp_path / name).write_bytes(content)
        frames = only_decode_errors(tmp_path / name)
        assert frames is not None
        tolerance = 60 if name == "x.jpg" else 0
        assert np.abs(frames[0].astype(int) - scan_files.picture()).max() <= tolerance
    assert io.BytesIO(originals["x.png"]).read(4) == b"\x89PNG"
