"""Image files to grey arrays and boolean masks, one definition for the whole project.

Written on top of Pillow, because its plain conversion and the common medical readers disagree on what matters here:
row order, EXIF orientation, palettes, transparency, and 16-bit images (which Pillow clips instead of scaling).
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from phnet_monai.data.mask_names import without_masks

IMAGE_SUFFIXES: tuple[str, ...] = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
"""File name endings (lower case) that the layout readers take for images."""

_FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
"""Decoders of Pillow that a picture may be given to, whatever its name: the one for EPS starts a program."""

MAX_PIXELS = 100_000_000
"""Larger images are refused before they are unpacked: a few kilobytes of PNG can hold gigabytes of black."""

MAX_STACK_PIXELS = 500_000_000
"""Pixels of all frames of one file: 500 MB of grey. A clip of 600 frames of 1024 x 768 stays below it."""

_BITS, _PHOTOMETRIC, _PLANES = 258, 262, 284
"""Tags of TIFF."""

_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")


class DecodeError(ValueError):
    """A file is no image that can be read; the message names the file and what was found."""


class NoImageError(DecodeError):
    """A sound file of a kind that holds no image, such as a DICOM report: nothing is wrong, and nothing to read."""


def read_image(path: str | PathLike[str]) -> np.ndarray:
    """Read one picture as grey values.

    Args:
        path: PNG, JPEG, BMP or single-page TIFF; grey, colour, palette, CMYK, 1-, 8- or 16-bit, with or without alpha.

    Returns:
        uint8 array (H, W), rows first, as a viewer shows it: EXIF orientation applied, colour weighted by
        ITU-R 601, alpha composed over black, 1-bit as 0/255, 16-bit divided by 65535 (not by its own maximum), TIFF of
        12 bits per sample by 4095.

    Raises:
        FileNotFoundError: there is no such file.
        DecodeError: the file is empty, truncated, no image, too large or of a kind that has no defined grey scale
            (floating-point, signed or 32-bit values).
    """
    return _eight_bit(_read(Path(path), any_scale=False))


def read_mask(path: str | PathLike[str] | Sequence[str | PathLike[str]]) -> np.ndarray:
    """Read one mask, or the union of several masks of the same image.

    Args:
        path: one file or a non-empty sequence of files of one size.

    Returns:
        bool array (H, W): True where the value is positive and at least half of the brightest value in the file, so
        that 0/1, 0/255, 16-bit and anti-aliased masks all mean the same.

    Raises:
        FileNotFoundError: there is no such file.
        DecodeError: a file cannot be read (as in `read_image`), or the masks differ in size.
        ValueError: the sequence is empty.
    """
    paths = [Path(path)] if isinstance(path, (str, PathLike)) else [Path(one) for one in path]
    if not paths:
        raise ValueError("read_mask got an empty list of files; give one mask file or more.")
    union = binarise(read_values(paths[0]))
    for other in paths[1:]:
        mask = binarise(read_values(other))
        if mask.shape != union.shape:
            raise DecodeError(
                f"Masks of one image differ in size: {paths[0]} is {_size_text(union)}, {other} is {_size_text(mask)}. "
                "Masks that are to be joined must have the size of their image."
            )
        union |= mask
    return union


def read_colours(path: str | PathLike[str]) -> np.ndarray | None:
    """Read the colours of one picture.

    Args:
        path: as for `read_image`; meant for files that `read_image` has read.

    Returns:
        uint8 (H, W, 3) RGB, or None for a file that is stored in grey.
    """
    with Image.open(path, formats=_FORMATS) as image:
        if image.mode in ("1", "L", "LA", "F", *_SIXTEEN_BIT_MODES):
            return None
        # palettes with transparency: Pillow asks for the way by RGBA
        return np.asarray(ImageOps.exif_transpose(image).convert("RGBA"))[..., :3]


def luminance(colours: np.ndarray) -> np.ndarray:
    """Colour as grey, the way `read_image` sees it.

    Args:
        colours: uint8 (H, W, 3) RGB, or (H, W, 4) RGBA.

    Returns:
        uint8 (H, W): ITU-R 601, alpha composed over black.
    """
    return _to_grey(Path("picture"), Image.fromarray(np.ascontiguousarray(colours)))


def check_not_empty(path: Path, stream: BinaryIO) -> None:
    """Raise DecodeError if a stream that stands at its begin has no bytes; it stays there."""
    if not stream.read(1):
        raise DecodeError(f"{path} is empty (0 bytes). Copy the file again, or take it out of the folder.")
    stream.seek(0)


def check_stack_size(path: Path, *, frames: int, height: int, width: int) -> None:
    """Raise DecodeError if a file holds no pixel, or more than are read (`MAX_PIXELS`, `MAX_STACK_PIXELS`).

    Meant for the sizes that a header states, before anything is unpacked.
    """
    if min(frames, height, width) < 1:
        raise DecodeError(f"{path} states {frames} frames of {width} x {height} pixels: it holds no picture.")
    _check_frame_size(path, width, height)
    if frames * height * width > MAX_STACK_PIXELS:
        raise DecodeError(
            f"{path} has {frames} frames of {width} x {height} pixels, together more than the "
            f"{MAX_STACK_PIXELS // 1_000_000} million that are read. Split it into files of fewer frames."
        )


def _eight_bit(values: np.ndarray) -> np.ndarray:
    if values.dtype == np.uint8:
        return values
    # rounds to nearest; the integer form keeps 65535 -> 255 and 0 -> 0 exact
    return ((values.astype(np.int64) * 255 + 32767) // 65535).astype(np.uint8)


def binarise(values: np.ndarray) -> np.ndarray:
    """Mask of the values of a mask file (H, W): positive and at least half of the brightest. Returns bool (H, W)."""
    brightest = int(values.max())
    return (values > 0) & (2 * values.astype(np.int64) >= brightest)


def read_values(path: str | PathLike[str]) -> np.ndarray:
    """Read the grey values of one picture before they are scaled.

    Args:
        path: as for `read_image`.

    Returns:
        (H, W): uint8, or int32 within 0..65535 for files of more bits (12 bits of a TIFF are scaled to that range);
        masks may be signed or of 32 bits, too.

    Raises:
        FileNotFoundError, DecodeError: as `read_image`.
    """
    return _read(Path(path), any_scale=True)


def _read(path: Path, *, any_scale: bool) -> np.ndarray:
    try:
        stream = path.open("rb")
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except OSError as error:  # a link in a circle, a drive that is gone
        raise DecodeError(f"{path} cannot be opened ({error.strerror}).") from error
    with stream:
        return decode_picture(path, stream, any_scale=any_scale)


def decode_picture(path: Path, stream: BinaryIO, *, any_scale: bool) -> np.ndarray:
    """Grey values of the picture in a stream, as `read_values` gives them, by the decoders that it may use.

    Args:
        path: where the stream comes from, for messages.
        any_scale: also signed and 32-bit values.

    Raises:
        DecodeError: as `read_image`.
    """
    try:
        check_not_empty(path, stream)
        with Image.open(stream, formats=_FORMATS) as image:
            values = _upright_grey(path, image, any_scale=any_scale)
    except (DecodeError, FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except (
        Exception
    ) as error:  # a broken file can raise nearly anything inside a decoder: OSError, SyntaxError, struct...
        # Pillow's own words for it hold the address of a stream
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "its content is of no known kind" if unknown else f"{type(error).__name__}: {error}"
        if isinstance(error, Image.DecompressionBombError):  # refused by Pillow before its size can be asked for
            raise DecodeError(
                f"{path} has more pixels than the {MAX_PIXELS // 1_000_000} million that are read ({error})."
            ) from error
        raise DecodeError(
            f"{path} cannot be read as an image ({reason}). Expected a complete PNG, JPEG, BMP "
            "or TIFF file; copy it again, convert it, or take it out of the folder."
        ) from error
    return values


def _check_frame_size(path: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise DecodeError(
            f"{path} has {width} x {height} pixels, more than the {MAX_PIXELS // 1_000_000} million that "
            "are read. An ultrasound frame has about one million; check the file or shrink it."
        )


def _check_size(path: Path, image: Image.Image) -> None:
    _check_frame_size(path, image.width, image.height)
    pages = getattr(image, "n_frames", 1)
    if image.format == "TIFF" and pages > 1:
        raise DecodeError(f"{path} holds {pages} pages, expected one picture. Save its pages as files of their own.")


def _upright_grey(path: Path, image: Image.Image, *, any_scale: bool) -> np.ndarray:
    """Grey values of an opened picture, as a viewer shows it; refuses what Pillow would give wrongly without a word."""
    _check_size(path, image)
    tags = getattr(image, "tag_v2", {})
    if tags and image.mode == "I" and not any_scale:
        raise DecodeError(
            f"{path} holds signed or 32-bit values, which have no defined white. Save it as unsigned 8- or 16-bit grey."
        )
    bits, colour_planes = max(tags.get(_BITS, (8,))), tags.get(_PLANES) == 2
    tiles = getattr(image, "tile", ())
    if bits > 8 and colour_planes and tiles and tiles[0][0] == "raw":  # Pillow takes the low bytes
        raise DecodeError(
            f"{path} holds its colours in separate planes of {bits} bits, which is not read. Save it with interleaved "
            "colours, or as 8-bit."
        )
    white_is_zero = image.mode in _SIXTEEN_BIT_MODES and tags.get(_PHOTOMETRIC) == 0  # Pillow inverts 8 bits only
    ImageOps.exif_transpose(image, in_place=True)  # otherwise it copies what already is upright
    values = _to_grey(path, image)
    if image.mode in _SIXTEEN_BIT_MODES and 8 < bits < 16:  # Pillow unpacks 12 bits without scaling them
        brightest = 2**bits - 1
        values = (values * 65535 + brightest // 2) // brightest
    return 65535 - values if white_is_zero else values


def _to_grey(path: Path, image: Image.Image) -> np.ndarray:
    if image.mode in _SIXTEEN_BIT_MODES:
        return _checked_sixteen_bit(path, np.asarray(image).astype(np.int32))
    if image.mode == "F":
        raise DecodeError(
            f"{path} holds floating-point values, which have no defined white. Save it as 8- or 16-bit grey."
        )
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        grey = np.asarray(rgba.convert("RGB").convert("L"), dtype=np.uint16)
        alpha = np.asarray(rgba.getchannel("A"), dtype=np.uint16)
        return ((grey * alpha + 127) // 255).astype(np.uint8)
    if image.mode not in ("1", "L", "RGB"):
        image = image.convert("RGB")
    return np.array(image.convert("L"), dtype=np.uint8)


def _checked_sixteen_bit(path: Path, values: np.ndarray) -> np.ndarray:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise DecodeError(f"{path} has values from {low} to {high}, expected 0 to 65535. Save it as 8- or 16-bit grey.")
    return values


def _size_text(array: np.ndarray) -> str:
    return f"{array.shape[1]} x {array.shape[0]} (width x height)"


def to_grey_image(image: Image.Image) -> Image.Image:
    """PIL picture of any mode -> PIL picture of mode L as `read_image` sees it (converter for MONAI's `PILReader`)."""
    path = Path(getattr(image, "filename", "") or "picture")
    if image.format not in (None, *_FORMATS):  # not loaded yet: Pillow's decoder for EPS starts a program
        raise DecodeError(f"{path} is a picture of the kind {image.format}, expected PNG, JPEG, BMP or TIFF.")
    return Image.fromarray(_eight_bit(_upright_grey(path, image, any_scale=False)))


def image_items(folder: str | PathLike[str]) -> list[dict[str, str]]:
    """`[{"image": path}]` of the pictures directly in `folder`, sorted: the data of `inference.json`.

    Names that begin with a dot and masks of the pictures (`x_mask.png` beside `x.png`) are passed over.

    Raises:
        FileNotFoundError: no such folder, or no picture in it.
        ValueError: two pictures of one stem, whose masks would have the same name.
    """
    found = sorted(f for f in Path(folder).glob("*") if f.suffix.lower() in IMAGE_SUFFIXES and f.name[0] != ".")
    files, _ = without_masks(found, [file.stem for file in found])
    if not files:
        raise FileNotFoundError(f"{folder}: no image found; expected a folder with {', '.join(IMAGE_SUFFIXES)} files")
    stems: dict[str, Path] = {}
    for file in files:
        if (other := stems.setdefault(file.stem.casefold(), file)) != file:
            raise ValueError(
                f"{folder}: the masks of {other.name} and {file.name} would have the same name; rename one of them, or "
                "use `phnet infer`, which keeps them apart"
            )
    return [{"image": str(file)} for file in files]
