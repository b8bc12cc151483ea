"""NIfTI files to frames of grey: single images and stacks of slices."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from phnet_monai.data.decode import DecodeError, check_not_empty, check_stack_size, luminance

_MM_PER_UNIT = {"mm": 1.0, "meter": 1000.0, "micron": 0.001}
_PLAUSIBLE_MM = (0.01, 1.0)
"""Spacings of ultrasound (from, below) that are believed without a unit."""

_ROUNDING = 1e-4
"""How far values may lie beyond the ends of a scale: 255 times a float32 of 1/255 is more than 1."""

_GZIP_MAGIC = b"\x1f\x8b"
_NIFTI_2_HEADER_BYTES = 540


def read_nifti(path: Path) -> tuple[np.ndarray, tuple[float, float] | None]:
    """Read a NIfTI-1 or NIfTI-2 file as frames.

    The index order decides, as ITK writes it, not the affine: the first axis runs along a row of the picture, the
    second down the columns, the third over the frames. So frame k is `data[:, :, k].T`.

    Grey scale, one for all frames of a file: values within 0 to 255 are taken as they are (rounded), floating-point
    (or scaled) values within 0 to 1 times 255, 16-bit unsigned ones above 255 divided by 65535 as `read_image`
    does; of anything else the lowest value becomes 0 and the highest 255. RGB is weighted by ITU-R 601.

    Spacing: the header's, if its unit is mm, m or um. Without a unit it is taken for mm where both values lie
    between 0.01 and 1. Exactly 1 x 1 means unknown in any case: programs write it where they know nothing, and no
    ultrasound frame has pixels of 1 mm.

    Args:
        path: .nii or .nii.gz of shape (W, H), (W, H, N), or those followed by axes of length 1.

    Returns:
        frames: uint8 (N, H, W).
        spacing: distance between rows and between columns in mm, or None.

    Raises:
        FileNotFoundError: there is no such file.
        DecodeError: the file is empty, truncated, too large, of another shape, or holds NaN or infinite values.
    """
    try:
        with open_nifti(path) as image:
            width, height, count = _sizes(path, image.shape)
            check_stack_size(path, frames=count, height=height, width=width)
            frames = np.empty((count, height, width), dtype=np.uint8)
            _fill(frames, path, image)
            return frames, _spacing(image.header)
    except (DecodeError, FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # whatever a broken header or gzip stream brings up in the reader
        raise DecodeError(
            f"{path} cannot be read as NIfTI ({type(error).__name__}: {error}). Expected a complete .nii or .nii.gz "
            "file; copy it again, convert it, or take it out of the folder."
        ) from error


@contextmanager
def open_nifti(path: Path) -> Iterator[Any]:
    """nibabel image of a NIfTI file, its header read, its data on disk while the block lasts.

    Header extensions are passed over: nothing here needs them, nibabel takes them into memory at whatever size they
    state, and they may hold a patient's name.

    Compression and version are told by the first bytes: nibabel goes by the letters of the ending, and fails on
    `X.Nii.Gz`.

    Raises:
        FileNotFoundError: there is no such file.
        DecodeError: the file is empty.
        Exception: nibabel's own, for what is no NIfTI.
    """
    import nibabel

    with path.open("rb") as stream:
        check_not_empty(path, stream)
        packed = stream.read(2) == _GZIP_MAGIC
        stream.seek(0)
        with gzip.open(stream) if packed else nullcontext(stream) as content:
            size = content.read(4)
            content.seek(0)
            version_2 = _NIFTI_2_HEADER_BYTES in (int.from_bytes(size, "little"), int.from_bytes(size, "big"))
            yield _without_extensions(nibabel.Nifti2Image if version_2 else nibabel.Nifti1Image).from_stream(content)


def _without_extensions(image: Any) -> Any:
    """The same class of nibabel images, which reads no header extension."""

    class NoExtensions(image.header_class.exts_klass):  # type: ignore[name-defined, misc]
        @classmethod
        def from_fileobj(cls, fileobj: Any, size: int, byteswap: bool) -> Any:
            return cls()

    header = type("Header", (image.header_class,), {"exts_klass": NoExtensions})
    return type("Image", (image,), {"header_class": header})


def _sizes(path: Path, shape: Sequence[int]) -> tuple[int, int, int]:
    """Width, height and number of frames."""
    axes = list(shape)
    while len(axes) > 2 and axes[-1] == 1:
        axes.pop()
    if len(axes) not in (2, 3):
        raise DecodeError(
            f"{path} has the shape {' x '.join(map(str, shape))}, expected width x height or width x height x frames. "
            "Save each time point or channel as a file of its own."
        )
    if len(axes) == 3 and axes[2] > 1 and min(axes[:2]) == 1:
        raise DecodeError(
            f"{path} has the shape {' x '.join(map(str, shape))}: each of its frames would be a line. Expected width x "
            "height x frames; save a single slice of a volume as width x height."
        )
    return (axes[0], axes[1], axes[2]) if len(axes) == 3 else (axes[0], axes[1], 1)


def _fill(frames: np.ndarray, path: Path, image: Any) -> None:
    """Write the grey values of all slices into `frames`, uint8 (N, H, W), one slice in memory at a time."""
    dtype = image.get_data_dtype()
    if dtype.names in (("R", "G", "B"), ("R", "G", "B", "A")):
        for index, colours in enumerate(_slices(image)):
            frames[index] = luminance(np.stack([colours[name] for name in dtype.names], axis=-1)).T
        return
    if dtype.kind not in "iuf":
        raise DecodeError(f"{path} holds values of type {dtype}, expected integers, real numbers or RGB.")
    offset, factor = _grey_scale(path, image, dtype)
    for index, values in enumerate(_slices(image)):
        frames[index] = np.rint((values.astype(np.float64) - offset) * factor).T


def _slices(image: Any) -> Iterator[np.ndarray]:
    """Each slice (W, H), scaled as the header says."""
    if len(image.shape) == 2:
        yield np.asanyarray(image.dataobj)
        return
    rest = (0,) * (len(image.shape) - 3)
    for index in range(image.shape[2]):
        yield np.asanyarray(image.dataobj[(slice(None), slice(None), index, *rest)])


def _grey_scale(path: Path, image: Any, dtype: np.dtype) -> tuple[float, float]:
    """`offset` and `factor` such that (value - offset) * factor is grey in [0, 255]."""
    low, high = np.inf, -np.inf
    for values in _slices(image):
        # NaN and infinite values show in the extremes
        low, high = np.minimum(low, values.min()), np.maximum(high, values.max())
        if not np.isfinite(low) or not np.isfinite(high):
            raise DecodeError(
                f"{path} holds NaN or infinite values, which have no grey. Replace them and save it again."
            )
    scaled = (image.dataobj.slope, image.dataobj.inter) != (1.0, 0.0)
    if low >= -_ROUNDING and high <= 255 + _ROUNDING:
        return 0.0, 255.0 if high <= 1 + _ROUNDING and (dtype.kind == "f" or scaled) else 1.0
    if dtype.kind == "u" and dtype.itemsize == 2 and not scaled:
        return 0.0, 255 / 65535
    return float(low), 255 / (float(high) - float(low)) if high > low else 0.0


def _spacing(header: Any) -> tuple[float, float] | None:
    between_columns, between_rows = (abs(float(zoom)) for zoom in header.get_zooms()[:2])
    try:
        unit = header.get_xyzt_units()[0]
    except KeyError:  # a code of no unit of length
        unit = "unknown"
    placeholder = between_columns == between_rows == 1.0
    if placeholder or not (np.isfinite([between_rows, between_columns]).all() and between_rows * between_columns > 0):
        return None
    if unit in _MM_PER_UNIT:
        return between_rows * _MM_PER_UNIT[unit], between_columns * _MM_PER_UNIT[unit]
    low, high = _PLAUSIBLE_MM
    plausible = all(low <= spacing < high for spacing in (between_rows, between_columns))
    return (between_rows, between_columns) if plausible else None
