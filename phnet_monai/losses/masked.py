"""Cross-entropy with a weight and a valid mask per pixel (paper, Eqs. 2 and 8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Reduction = Literal["valid", "kept", "mean", "u2pl"]
REDUCTIONS = ("valid", "kept", "mean", "u2pl")


def masked_cross_entropy(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    valid: Tensor | None = None,
    reduction: Reduction = "valid",
    *,
    over_processes: Callable[[Tensor], Tensor] = lambda divisor: divisor,
) -> Tensor:
    """Weighted pixel-wise cross-entropy, Eqs. 2 (weight 1) and 8 (weight = confidence mask M_f).

    Eq. 8 divides by the number of images only, which makes the loss a quarter of a million times larger at 500x500 than
    Eq. 2's mean; see docs/decisions.md for the normalisations offered here.

    Args:
        logits: (B, C, H, W).
        target: (B, H, W) class indices, int64.
        weight: (B, H, W), float or bool, >= 0; None counts every pixel fully.
        valid: bool (B, H, W), False on padding; None: all pixels are valid.
        reduction: the sum of weight * valid * CE is divided by: `valid`, the number of valid pixels; `kept`, the sum of
            weight * valid; `mean`, all pixels. `u2pl` multiplies `kept` by valid pixels / kept weight, as U2PL's code
            does; it grows without bound where little is kept, so it belongs to filters that keep a fixed share.
        over_processes: sum of pixels here -> mean of these sums over all processes of a training, so that the mean of
            their losses is the loss of their batches together.

    Returns:
        Scalar >= 0, float32; 0 (with a gradient of 0) where no pixel counts.

    Raises:
        ValueError: shapes that do not fit, unknown reduction.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"masked_cross_entropy: reduction is {reduction!r}, expected one of {', '.join(REDUCTIONS)}")
    pixels = (logits.shape[0], *logits.shape[2:])
    for name, tensor in (("target", target), ("weight", weight), ("valid", valid)):
        if tensor is not None and tuple(tensor.shape) != pixels:
            raise ValueError(f"masked_cross_entropy: {name} has shape {tuple(tensor.shape)}, expected {pixels}")
    loss = F.cross_entropy(logits.float(), target, reduction="none")
    factor = loss.new_ones(pixels)
    counted = factor
    if valid is not None:
        factor = counted = valid.to(loss.dtype)
    if weight is not None:
        factor = factor * weight.to(loss.dtype)
    if reduction == "mean":
        return (loss * factor).mean()
    divisor = over_processes(counted.sum() if reduction == "valid" else factor.sum())
    if reduction == "u2pl":
        divisor = divisor.square() / over_processes(counted.sum()).clamp(min=1)
    # divide by 1 where nothing counts: the sum is 0 there already
    return (loss * factor).sum() / divisor.where(divisor > 0, divisor.new_ones(()))
