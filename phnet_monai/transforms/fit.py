"""How images meet the network's input size: one definition for training, evaluation, inference and export.

The aspect ratio is kept, the longest side is fitted to `size` (bilinear, anti-aliased when it shrinks), the rest is
padded equally on both sides with a constant grey. The functions are TorchScript-compatible, since exported networks
carry them inside.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

PAD_VALUE = 0.33  # mean grey of BUSI's images with lesion, see docs/decisions.md


def fitted_size(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width after the longest side is fitted to `size`; at least 1 pixel, halves rounded up."""
    longest = max(height, width)
    rows = max(1, (2 * height * size + longest) // (2 * longest))
    columns = max(1, (2 * width * size + longest) // (2 * longest))
    return rows, columns


def resize(images: Tensor, rows: int, columns: int) -> Tensor:
    """Images (B, C, H, W) -> (B, C, rows, columns), bilinear, anti-aliased where they shrink."""
    if columns == 1:  # torch's anti-aliasing then takes every row for the first one
        turned = images.transpose(2, 3).contiguous()
        turned = F.interpolate(turned, size=[1, rows], mode="bilinear", align_corners=False, antialias=True)
        return turned.transpose(2, 3).contiguous()
    return F.interpolate(images, size=[rows, columns], mode="bilinear", align_corners=False, antialias=True)


def fit_batch(images: Tensor, size: int, pad_value: float = PAD_VALUE) -> Tensor:
    """Images of one size (B, C, H, W) -> (B, C, size, size)."""
    rows, columns = fitted_size(images.shape[-2], images.shape[-1], size)
    fitted = resize(images, rows, columns)
    top, left = (size - rows) // 2, (size - columns) // 2
    return F.pad(fitted, [left, size - columns - left, top, size - rows - top], value=pad_value)


def unfit_batch(maps: Tensor, height: int, width: int) -> Tensor:
    """Network output (B, C, size, size) -> (B, C, height, width): padding cut off, bilinear back to size."""
    size = maps.shape[-1]
    rows, columns = fitted_size(height, width, size)
    top, left = (size - rows) // 2, (size - columns) // 2
    inner = maps[:, :, top : top + rows, left : left + columns]
    return F.interpolate(inner, size=[height, width], mode="bilinear", align_corners=False)


def to_unit(image: np.ndarray | Tensor) -> Tensor:
    """Grey image (H, W), uint8 or float in [0, 1] -> float32 (1, H, W) in [0, 1]."""
    if isinstance(image, np.ndarray):  # a mirrored column counts as contiguous
        image = image.copy() if min(image.strides, default=0) < 0 else np.ascontiguousarray(image)
    tensor = torch.as_tensor(image)
    if tensor.ndim != 2:
        raise ValueError(f"expected a grey image (H, W), found shape {tuple(tensor.shape)}")
    unit = tensor.float().div(255) if tensor.dtype == torch.uint8 else tensor.float()
    return unit.unsqueeze(0)


def fit_image(image: np.ndarray | Tensor, size: int, pad_value: float = PAD_VALUE) -> Tensor:
    """Grey image (H, W) -> network input float32 (1, size, size) in [0, 1]."""
    return fit_batch(to_unit(image).unsqueeze(0), size, pad_value).squeeze(0)


def unfit_probs(probs: Tensor, original: tuple[int, int]) -> Tensor:
    """Network output of one image (C, S, S) -> (C, H, W) at the original size (H, W)."""
    return unfit_batch(probs.float().unsqueeze(0), original[0], original[1]).squeeze(0)
