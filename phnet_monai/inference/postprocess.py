"""What may be done to a mask after the threshold: fill holes, drop specks, keep the largest lesion.

All of it is off unless it is asked for: the mask is then exactly what the network said.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from phnet_monai.inference.measure import check_spacing, mask_box

_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True)
class Postprocess:
    """Steps in this order: holes are filled, small lesions dropped, all but the largest lesion dropped.

    Pixels that touch by an edge or a corner are one lesion, as in `measure_lesions`; a hole is surrounded by lesion on
    all sides, so that a bay that is open to the edge of the frame is none.

    Attributes:
        min_area_px: lesions of fewer pixels are dropped; 0 drops none.
        min_area_mm2: lesions of a smaller area are dropped; frames need a known spacing for that.
        fill_holes: make holes lesion.
        largest_only: keep the lesion with the most pixels only (of equal ones the first in reading order).

    Raises:
        ValueError: an area that is negative or no finite number.
    """

    min_area_px: float = 0
    min_area_mm2: float = 0
    fill_holes: bool = False
    largest_only: bool = False

    def __post_init__(self) -> None:
        for name in ("min_area_px", "min_area_mm2"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be an area of 0 or more, found {value}")

    def __call__(self, mask: np.ndarray, spacing_mm: tuple[float, float] | None = None) -> np.ndarray:
        """The mask after all steps.

        Args:
            mask: bool (H, W); it is not changed.
            spacing_mm: distance between rows and between columns in mm; None where it is unknown.

        Returns:
            bool (H, W); the same array where nothing changes.

        Raises:
            ValueError: no bool (H, W), an impossible spacing, or a smallest area in mm2 without a spacing.
        """
        if mask.ndim != 2 or mask.dtype != np.bool_:
            raise ValueError(f"mask: expected bool (H, W), found {mask.dtype} {mask.shape}")
        smallest = self._smallest_area_px(spacing_mm)
        box = mask_box(mask)
        if box is None:
            return mask
        inside = mask[box]
        cleaned = filled(inside) if self.fill_holes else inside
        if smallest > 1 or self.largest_only:
            cleaned = _large_lesions(cleaned, smallest, largest_only=self.largest_only)
        if cleaned is inside:
            return mask
        result = np.zeros_like(mask)
        result[box] = cleaned
        return result

    def as_settings(self) -> dict[str, Any]:
        """The options as plain values, for run.json; 0 and 0.0 are one setting."""
        return {name: plain_number(value) for name, value in asdict(self).items()}

    def _smallest_area_px(self, spacing_mm: tuple[float, float] | None) -> float:
        check_spacing(spacing_mm)
        if self.min_area_mm2 == 0:
            return self.min_area_px
        if spacing_mm is None:
            raise ValueError(
                f"a smallest area of {self.min_area_mm2} mm2 cannot be applied: the image tells no pixel spacing; "
                "give --spacing-mm, or the smallest area in pixels"
            )
        # a hair is taken off: 0.1 * 0.1 * 100 is 1.0000000000000002 in floating point
        return max(self.min_area_px, self.min_area_mm2 / (spacing_mm[0] * spacing_mm[1]) * (1 - 1e-9))


def plain_number(value: Any) -> Any:
    """A whole number as int, so that settings that are equal are written alike; anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def filled(mask: np.ndarray) -> np.ndarray:
    """Fill holes: bool (H, W) -> bool (H, W), the same array where there is no hole.

    Lesions are 8-connected, so what is not lesion is 4-connected: a hole does not leak through a corner.
    """
    whole = ndimage.binary_fill_holes(mask)
    return mask if np.array_equal(whole, mask) else whole


def _large_lesions(mask: np.ndarray, smallest: float, *, largest_only: bool) -> np.ndarray:
    labels, count = ndimage.label(mask, _EIGHT_NEIGHBOURS)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    keep = areas >= smallest
    keep[0] = False
    if largest_only:
        keep &= np.arange(count + 1) == 1 + int(areas[1:].argmax())
    return mask if keep[1:].all() else keep[labels]
