"""How the pixels of a DICOM file are stored, and who decodes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from phnet_monai.data.decode import DecodeError
from phnet_monai.data.gdcm_process import GDCM, INTERLEAVED, decoded_apart
from phnet_monai.data.jpeg_frames import colour_frames, stated_size

_LOSSY_JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
"""Baseline and extended."""


@dataclass(frozen=True)
class Storage:
    """How the pixels of a file are stored.

    Attributes:
        shape: (N, H, W).
        compressed_at: where in the file the compressed frames begin; None where they are not compressed.
        plugin: which of pydicom's decoders reads them; empty: none is needed.
        lossy_colour: of lossy JPEG frames in colour the photometric interpretation, else empty.
        packed: what shares bytes where nothing is compressed: "pixels" (YBR_FULL_422), "bits", or nothing (empty).
    """

    shape: tuple[int, int, int]
    compressed_at: int | None = None
    plugin: str = ""
    lossy_colour: str = ""
    packed: str = ""


def storage_of(path: Path, header: Any, syntax: Any, pixels_at: int) -> Storage:
    """What a header says of its pixels.

    Args:
        path: for messages.
        header: pydicom's dataset, with all elements that a picture needs.
        syntax: TransferSyntaxUID, or None.
        pixels_at: where in the file the value of the pixel data begins.

    Raises:
        DecodeError: nothing decodes it.
    """
    bits, kind = int(header.BitsStored), str(header.PhotometricInterpretation)
    plugin = _choose_decoder(path, syntax, bits)
    high = header.get("HighBit")
    if not plugin and int(header.BitsAllocated) > 8 and high is not None and int(high) != bits - 1:
        raise DecodeError(
            f"{path} keeps its {bits} bits up to bit {high}, expected up to bit {bits - 1}. Export it again."
        )
    shape = int(header.get("NumberOfFrames") or 1), int(header.Rows), int(header.Columns)
    if plugin:
        lossy = bits <= 8 and syntax in _LOSSY_JPEG and header.SamplesPerPixel == 3
        return Storage(shape, compressed_at=pixels_at, plugin=plugin, lossy_colour=kind if lossy else "")
    packed = "pixels" if kind == "YBR_FULL_422" else "bits" if int(header.BitsAllocated) == 1 else ""
    return Storage(shape, packed=packed)


def _choose_decoder(path: Path, syntax: Any, bits: int) -> str:
    """One of pydicom's plugins, GDCM (in a process of its own) only where it is the only one.

    Raises:
        DecodeError: there is none.
    """
    from pydicom.pixels import get_decoder
    from pydicom.uid import JPEGExtended12Bit

    if syntax is None:
        raise DecodeError(f"{path} does not say how its pixels are stored (no TransferSyntaxUID). Export it again.")
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise DecodeError(
            f"{path} is compressed as {syntax.name}, which is not read. Export it uncompressed, or as JPEG or "
            "JPEG 2000 frames."
        ) from None
    if not decoder.is_available:
        raise DecodeError(
            f"{path} is compressed as {syntax.name}, for which no decoder is installed. Run: pip install "
            "'phnet-monai[dicom]' (or export it uncompressed)"
        )
    if not syntax.is_encapsulated:
        return ""
    names = [name for name in decoder.available_plugins if name != GDCM]
    if syntax != JPEGExtended12Bit or bits <= 8:
        return names[0] if names else GDCM
    names = [name for name in names if name != "pillow"]  # GDCM and Pillow read this kind of 8 bits only
    if not names:
        raise DecodeError(
            f"{path} is compressed as lossy JPEG of {bits} bits, which is not read. Export it uncompressed, or as JPEG "
            "2000 frames."
        )
    return names[0]


def decoded_frames(path: Path, stream: BinaryIO, storage: Storage) -> Iterator[np.ndarray]:
    """Stored values of each frame, (H, W), or RGB (H, W, 3).

    Raises:
        DecodeError: a frame has another size than the header states, or GDCM has ended; other errors are those of the
            decoder.
    """
    from pydicom.encaps import generate_frames
    from pydicom.pixels import iter_pixels, pixel_array

    count = storage.shape[0]
    if storage.compressed_at is not None:
        stream.seek(storage.compressed_at)
        _check_sizes(path, stream, storage.shape)
    if storage.plugin == GDCM:
        return decoded_apart(path)
    if storage.lossy_colour and storage.compressed_at is not None:
        stream.seek(storage.compressed_at)
        return colour_frames(generate_frames(stream, number_of_frames=count), storage.lossy_colour)
    if storage.packed == "pixels" and count > 1:  # pydicom's iterator loses its place in them
        return (pixel_array(path, index=index) for index in range(count))
    if storage.packed == "bits" and count > 1:  # frames may begin within a byte: all at once, as large as the result
        return iter(pixel_array(path))
    stream.seek(0)
    return iter_pixels(stream, decoding_plugin=storage.plugin, **(INTERLEAVED if storage.plugin else {}))


def _check_sizes(path: Path, stream: BinaryIO, shape: tuple[int, int, int]) -> None:
    """Raise DecodeError if a frame says of itself that it has another size: a decoder would unpack that one.

    Args:
        stream: at the first byte of the encapsulated frames.
    """
    from pydicom.encaps import generate_frames

    count, height, width = shape
    for number, frame in enumerate(generate_frames(stream, number_of_frames=count), 1):
        found = stated_size(frame)
        if found is not None and found != (height, width):
            raise DecodeError(
                f"{path}: frame {number} is compressed with {found[1]} x {found[0]} pixels, its header states "
                f"{width} x {height}. Export it again."
            )
