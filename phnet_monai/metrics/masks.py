"""Checks and cropping shared by the measures of this room."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BoolMask = NDArray[np.bool_]


def as_mask(mask: Any, *, name: str) -> BoolMask:
    """Return `mask` as a bool array (H, W).

    Args:
        mask: array or tensor (H, W), bool, or numbers that are all 0 or 1.
        name: how the error message calls it.

    Raises:
        ValueError: not two-dimensional, without pixels, or with values other than 0 and 1.
    """
    array = to_numpy(mask)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{name}: expected a mask of shape (H, W), found shape {array.shape}")
    if array.dtype == np.bool_:
        return array
    result = array == 1
    if not np.all(result | (array == 0)):
        raise ValueError(
            f"{name}: expected a bool mask (or 0 and 1 only), found {array.dtype} values from {array.min()} "
            f"to {array.max()}; compare with a threshold first"
        )
    return result


def as_mask_pair(prediction: Any, target: Any) -> tuple[BoolMask, BoolMask]:
    """Return both masks as bool (H, W), or raise ValueError if they cannot be compared pixel by pixel."""
    first, second = as_mask(prediction, name="prediction"), as_mask(target, name="target")
    if first.shape != second.shape:
        raise ValueError(
            f"prediction {first.shape} and target {second.shape} differ in shape; "
            "bring the prediction back to the size of the original image first"
        )
    return first, second


def to_numpy(values: Any) -> NDArray[Any]:
    """Array of a numpy array, a sequence, or a torch tensor on any device, with or without gradient."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if values.is_floating_point():
            values = values.float()  # numpy has no bfloat16
        return np.asarray(values.numpy())
    return np.asarray(values)


def crop_to_union(first: BoolMask, second: BoolMask) -> tuple[BoolMask, BoolMask]:
    """Cut both (H, W) masks to the bounding box of all pixels set in either; unchanged if there are none."""
    union = first | second
    rows, columns = np.flatnonzero(union.any(axis=1)), np.flatnonzero(union.any(axis=0))
    if rows.size == 0:
        return first, second
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return first[box], second[box]
