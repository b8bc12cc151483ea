"""How far apart the pixels of a DICOM file are."""

from __future__ import annotations

from typing import Any

import numpy as np

_SAME_SPACING = 0.01
"""Regions whose spacings differ by more than this share are of different scales."""

_VIEW = 0.25
"""A region of at least this share of the largest one's pixels is a view of its own, a smaller one an inset."""

_TWO_DIMENSIONAL, _CENTIMETRE = 1, 3
"""Codes of RegionSpatialFormat and of the physical units of a region."""

_PLACEHOLDER_MM = (1.0, 1.0)
"""Converters write this PixelSpacing where they know nothing; no ultrasound frame has pixels of 1 mm."""


def pixel_spacing(header: Any) -> tuple[float, float] | None:
    """Distance between rows and between columns in mm; None where it is unknown, or not the same everywhere.

    Of the largest two-dimensional ultrasound region measured in cm; without one PixelSpacing, then ImagerPixelSpacing.
    """
    try:
        regions = [_region(item) for item in header.get("SequenceOfUltrasoundRegions") or []]
        measured = [region for region in regions if region is not None]
        if measured:
            largest, spacing = max(measured)
            others = [own for area, own in measured if area >= _VIEW * largest]
            # two views, each of its own scale: no single spacing measures both
            return spacing if all(np.allclose(own, spacing, rtol=_SAME_SPACING) for own in others) else None
        for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
            values = header.get(keyword)
            if values is not None and len(values) == 2:
                spacing = (float(values[0]), float(values[1]))
                if _is_length(*spacing) and spacing != _PLACEHOLDER_MM:
                    return spacing
    except (TypeError, ValueError, AttributeError):  # numbers that are none: as good as unknown
        return None
    return None


def _region(item: Any) -> tuple[int, tuple[float, float]] | None:
    """Area in pixels and spacing in mm of a two-dimensional region that is measured in cm."""
    units = [item.get(f"PhysicalUnits{axis}Direction") for axis in "XY"]
    if item.get("RegionSpatialFormat") != _TWO_DIMENSIONAL or units != [_CENTIMETRE, _CENTIMETRE]:
        return None
    deltas = [item.get(f"PhysicalDelta{axis}") for axis in "YX"]
    if None in deltas:
        return None
    spacing = (abs(float(deltas[0])) * 10, abs(float(deltas[1])) * 10)
    corners = [int(item.get(f"RegionLocation{corner}") or 0) for corner in ("MinX0", "MinY0", "MaxX1", "MaxY1")]
    area = (corners[2] - corners[0] + 1) * (corners[3] - corners[1] + 1)
    return (area, spacing) if _is_length(*spacing) else None


def _is_length(*values: float) -> bool:
    return all(np.isfinite(value) and value > 0 for value in values)
