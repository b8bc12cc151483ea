"""One frame of a scan: from its lesion probabilities to its mask and to what is told of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from phnet_monai.data.audit_checks import is_blank
from phnet_monai.inference.hardness import frame_grid, uncertainty
from phnet_monai.inference.measure import measure_lesions
from phnet_monai.inference.postprocess import Postprocess
from phnet_monai.inference.thumbnail import frame_picture

Spacing = tuple[float, float]


@dataclass(frozen=True)
class FrameSettings:
    """How probabilities become masks and measurements.

    Attributes:
        threshold: a pixel is lesion where its probability is above this, in (0, 1).
        postprocess: what is done to the mask then.
        spacing_mm: distance between pixels of scans that do not tell their own; None: unknown.
    """

    threshold: float = 0.5
    postprocess: Postprocess = field(default_factory=Postprocess)
    spacing_mm: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold must lie between 0 and 1 (both excluded), found {self.threshold}")
        if self.spacing_mm is not None and not 0 < self.spacing_mm < float("inf"):
            raise ValueError(f"spacing_mm is the distance between pixels in mm, above 0; found {self.spacing_mm}")

    def spacing(self, own: Spacing | None) -> Spacing | None:
        """The scan's own spacing, or the given one."""
        if own is not None or self.spacing_mm is None:
            return own
        return (self.spacing_mm, self.spacing_mm)

    def as_settings(self) -> dict[str, Any]:
        """For run.json."""
        spacing = None if self.spacing_mm is None else float(self.spacing_mm)
        return {"threshold": float(self.threshold), **self.postprocess.as_settings(), "spacing_mm": spacing}


@dataclass(frozen=True)
class Frame:
    """What was found in a frame: `mask` bool (H, W), `record` for the reports."""

    mask: np.ndarray
    record: dict[str, Any]


def find_lesions(
    image: np.ndarray, probs: np.ndarray, *, number: int, spacing: Spacing | None, settings: FrameSettings
) -> Frame:
    """Mask, measurements and picture of one frame. A blank one is marked as such: its answer is of no picture.

    Args:
        image: uint8 (H, W); probs: float32 (H, W), probability of lesion.
        number: of the frame in its scan, from 1.
        spacing: the scan's own, (between rows, between columns) in mm.
    """
    spacing = settings.spacing(spacing)
    mask = settings.postprocess(probs > settings.threshold, spacing)
    grid = frame_grid(probs)
    record = {
        "frame": number,
        "height": image.shape[0],
        "width": image.shape[1],
        "spacing_mm": None if spacing is None else list(spacing),
        "blank": is_blank(image),
        "uncertainty": round(uncertainty(grid), 6),
        "lesion_pixels": int(np.count_nonzero(mask)),
        "lesions": [asdict(lesion) for lesion in measure_lesions(mask, probs, spacing)],
        **frame_picture(image, mask, grid),
    }
    return Frame(mask, record)
