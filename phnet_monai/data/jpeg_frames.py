"""What compressed frames of a DICOM file say of themselves, and lossy JPEG frames in colour.

The header of the file and the frame often disagree: archives convert files and leave the header as it was.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image, JpegImagePlugin

_JPEG, _JPEG_2000 = b"\xff\xd8", b"\xff\x4f\xff\x51"
_FRAME_MARKERS = {0xF7, *range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""Second byte of the JPEG segments that state a size: all kinds of JPEG, and JPEG-LS."""


def stated_size(frame: bytes) -> tuple[int, int] | None:
    """(H, W) in the header of a JPEG, lossless JPEG, JPEG-LS or JPEG 2000 stream; None for other streams (RLE)."""
    start = frame.find(_JPEG_2000, 0, 512)  # some wrap it in the boxes of a .jp2 file
    if start >= 0:
        right, bottom, left, top = (int.from_bytes(frame[start + at : start + at + 4], "big") for at in (8, 12, 16, 20))
        return bottom - top, right - left
    at = 2 if frame[:2] == _JPEG else len(frame)
    while at + 9 <= len(frame) and frame[at] == 0xFF:
        kind, length = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4], "big")
        if kind in _FRAME_MARKERS:
            return int.from_bytes(frame[at + 5 : at + 7], "big"), int.from_bytes(frame[at + 7 : at + 9], "big")
        at += 1 if kind == 0xFF else 2 + length  # 0xFF may be repeated before a marker
    return None


def colour_frames(frames: Iterable[bytes], photometric: str) -> Iterator[np.ndarray]:
    """Lossy JPEG frames of three components as RGB, uint8 (H, W, 3).

    libjpeg knows from the frame itself how its colours are kept: by a JFIF or Adobe marker, or by components that are
    called R, G and B; components of different sampling are luma and chroma. Where the frame tells nothing, the header
    of the file counts. (pydicom's decoder takes the header's word against an Adobe marker or unequal sampling, and
    gives luma and chroma for RGB then, or converts twice.)

    Args:
        photometric: PhotometricInterpretation of the file.

    Raises:
        ValueError: a frame is no JPEG of three components; OSError: it is cut short or damaged.
    """
    for frame in frames:
        with Image.open(io.BytesIO(frame), formats=("JPEG",)) as image:
            assert isinstance(image, JpegImagePlugin.JpegImageFile)
            if image.mode != "RGB":
                raise ValueError(f"the frame has {len(image.getbands())} components, the header states 3")
            if photometric == "RGB" and _tells_nothing(image):
                image.draft("YCbCr", image.size)  # three components as they are
            yield np.asarray(image)


def _tells_nothing(image: JpegImagePlugin.JpegImageFile) -> bool:
    """Whether only the header of the file can say what the components are."""
    names, samplings = bytes(layer[0] for layer in image.layer), {layer[1:3] for layer in image.layer}
    return not {"jfif", "adobe"} & image.info.keys() and names != b"RGB" and len(samplings) == 1
