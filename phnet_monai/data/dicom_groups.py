"""What enhanced multi-frame DICOM objects say of their frames in functional groups (PS3.3 section C.7.6.16).

Other objects say it once, at the top of the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phnet_monai.data.decode import DecodeError

_GROUPS = {
    "PixelMeasuresSequence": ("PixelSpacing",),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction"),
}

Elements = Mapping[str, Any]
"""Elements by keyword."""


def lift_shared(header: Any) -> None:
    """Put what holds for all frames where other objects keep it."""
    for group in header.get("SharedFunctionalGroupsSequence") or []:
        for element in _elements(group).values():
            header.add(element)


def of_frames(path: Path, header: Any, count: int) -> list[Elements]:
    """What holds for each frame alone, in order; where that is the same for all, it is lifted and nothing is left.

    Args:
        path: for messages.

    Raises:
        DecodeError: there are more or fewer groups than frames, and they tell how values become grey.
    """
    frames: list[Elements] = [_elements(group) for group in header.get("PerFrameFunctionalGroupsSequence") or []]
    if not any(frames):
        return []
    if len(frames) != count:
        if header.SamplesPerPixel == 1 and any(frame.keys() - {"PixelSpacing"} for frame in frames):
            raise DecodeError(
                f"{path} has {len(frames)} functional groups, which tell how values become grey, for {count} frames. "
                "Export it again."
            )
        return []
    if all(_values(frame) == _values(frames[0]) for frame in frames):
        for element in frames[0].values():
            header.add(element)
        return []
    if any(frame.keys() & {"PixelSpacing"} for frame in frames):
        same = {str(frame["PixelSpacing"].value) if "PixelSpacing" in frame else "" for frame in frames}
        if len(same) == 1:
            header.add(frames[0]["PixelSpacing"])
        elif "PixelSpacing" in header:  # no one spacing measures all frames
            del header.PixelSpacing
    return frames


def with_elements(header: Any, own: Elements) -> Any:
    """A header in which a frame's own elements take the place of the shared ones."""
    header = header[:]  # `copy` would share the elements
    for element in own.values():
        header.add(element)
    return header


def _elements(group: Any) -> dict[str, Any]:
    return {
        keyword: item[keyword]
        for name, keywords in _GROUPS.items()
        for item in group.get(name) or []
        for keyword in keywords
        if keyword in item
    }


def _values(elements: Elements) -> dict[str, str]:
    return {keyword: str(element.value) for keyword, element in elements.items()}
