"""Random rectangles of CutMix: one per image, always whole, as keep masks (False inside the rectangle).

They differ in how a method draws size and shape. Place is uniform among those that fit. All masks are bool
(batch, size, size) on the CPU, a grid of single pixels for `mix_patches` and `paste`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from phnet_monai.transforms.draws import beta, uniform
from phnet_monai.transforms.patches import CUT_RATIO

CPU = torch.device("cpu")


def paste(tensor: Tensor, other: Tensor, keep: Tensor) -> Tensor:
    """`tensor` where `keep`, `other` elsewhere.

    Args:
        tensor, other: images (B, C, H, W), or labels, weights or masks (B, H, W), of one shape.
        keep: bool (B, H, W).
    """
    if tensor.shape != other.shape or keep.shape != (tensor.shape[0], *tensor.shape[-2:]):
        raise ValueError(f"paste: shapes {tuple(tensor.shape)}, {tuple(other.shape)}, keep {tuple(keep.shape)} differ")
    return torch.where(keep.unsqueeze(1) if tensor.ndim == 4 else keep, tensor, other)


def draw_keep_box(
    batch: int, size: int, cut_ratio: tuple[float, float] = CUT_RATIO, generator: torch.Generator | None = None
) -> Tensor:
    """One random rectangle to cut per image: plain CutMix (Table 3a, row "cutmix"; French et al., arXiv:1906.01916).

    The share a of the area is uniform in `cut_ratio`; the height is a^u and the width a^(1-u) of the side, u uniform in
    [0, 1].
    """
    low, high = _shares("cut_ratio", cut_ratio)
    area, shape, y, x = uniform((4, batch), CPU, generator)
    area = low + (high - low) * area
    return _keep(area**shape, area ** (1 - shape), y, x, size)


def draw_aspect_box(
    batch: int,
    size: int,
    *,
    area: tuple[float, float] = (0.02, 0.4),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
    probability: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Rectangles by area and aspect ratio (UniMatch); an image has one with `probability`.

    Both are uniform; an aspect ratio (height / width) at which the rectangle would not fit is moved to the nearest one
    at which it does, so that the area stays what was drawn.
    """
    (low, high), (narrow, wide) = _shares("area", area), aspect
    if not 0 < narrow <= wide or not 0 <= probability <= 1 or low == 0:
        raise ValueError(
            f"draw_aspect_box: area {tuple(area)}, aspect {tuple(aspect)}, probability {probability}; expected "
            "area > 0, 0 < low <= high for the aspect, probability in [0, 1]"
        )
    share, ratio, y, x, chance = uniform((5, batch), CPU, generator)
    share = low + (high - low) * share
    ratio = (narrow + (wide - narrow) * ratio).clamp(min=share, max=1 / share)
    keep = _keep((share * ratio).sqrt(), (share / ratio).sqrt(), y, x, size)
    return keep | (chance >= probability).view(-1, 1, 1)


def draw_beta_box(
    batch: int, size: int, parameters: tuple[int, int], generator: torch.Generator | None = None
) -> Tensor:
    """Squares that leave a share lambda ~ Beta(*parameters) of the area as it is, as in CutMix (AugSeg, PS-MT)."""
    side = (1 - beta(batch, *parameters, generator)).sqrt()
    y, x = uniform((2, batch), CPU, generator)
    return _keep(side, side, y, x, size)


def draw_side_box(
    batch: int, size: int, side: tuple[float, float] = (0.1, 0.9), generator: torch.Generator | None = None
) -> Tensor:
    """Squares whose side is a uniform share of the image's (iMAS)."""
    low, high = _shares("side", side)
    share, y, x = uniform((3, batch), CPU, generator)
    share = low + (high - low) * share
    return _keep(share, share, y, x, size)


def _shares(name: str, pair: tuple[float, float]) -> tuple[float, float]:
    low, high = pair
    if not 0.0 <= low <= high <= 1.0:
        raise ValueError(f"{name} is {tuple(pair)}, expected 0 <= low <= high <= 1")
    return low, high


def _keep(height: Tensor, width: Tensor, y: Tensor, x: Tensor, size: int) -> Tensor:
    """False inside rectangles of the shares `height` and `width` of the side, at the shares y and x of the free way."""
    centre = torch.arange(size) + 0.5
    extents = ((share * size, place) for share, place in ((height, y), (width, x)))
    starts = [((size - extent) * place, extent) for extent, place in extents]
    rows, columns = ((centre >= start[:, None]) & (centre < (start + extent)[:, None]) for start, extent in starts)
    return ~(rows[:, :, None] & columns[:, None, :])
