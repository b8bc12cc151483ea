"""Soft Dice loss with a weight and a valid mask per pixel, alone and with cross-entropy."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from phnet_monai.losses.masked import masked_cross_entropy


def masked_dice_loss(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    valid: Tensor | None = None,
    *,
    smooth: float = 1.0,
) -> Tensor:
    """1 - soft Dice of the softmax against the one-hot target, pooled over the batch, mean over all classes.

    Per class c with probabilities p and pixel weights w: 1 - (2 sum(w p t) + s) / (sum(w p^2) + sum(w t) + s), the
    squared form that BCP and UA-MT use.

    Args:
        logits: (B, C, H, W).
        target: int64 (B, H, W).
        weight: (B, H, W) >= 0; None counts every pixel fully.
        valid: bool (B, H, W), False on padding; None: all pixels are valid.
        smooth: s, keeps the ratio defined.

    Returns:
        Scalar in [0, 1], float32, mean over all classes.

    Raises:
        ValueError: shapes that do not fit.
    """
    pixels = (logits.shape[0], *logits.shape[2:])
    for name, tensor in (("target", target), ("weight", weight), ("valid", valid)):
        if tensor is not None and tuple(tensor.shape) != pixels:
            raise ValueError(f"masked_dice_loss: {name} has shape {tuple(tensor.shape)}, expected {pixels}")
    probs = logits.float().softmax(dim=1)
    one_hot = probs.new_zeros(probs.shape).scatter_(1, target.unsqueeze(1), 1.0)
    factor = probs.new_ones(pixels)
    if valid is not None:
        factor = factor * valid
    if weight is not None:
        factor = factor * weight
    factor = factor.unsqueeze(1)
    over = (0, 2, 3)
    overlap = (factor * probs * one_hot).sum(dim=over)
    size = (factor * probs.square()).sum(dim=over) + (factor * one_hot).sum(dim=over)
    return (1.0 - (2.0 * overlap + smooth) / (size + smooth)).mean()


def masked_ce_dice_loss(
    logits: Tensor, target: Tensor, weight: Tensor | None = None, valid: Tensor | None = None, **how: Any
) -> Tensor:
    """(`masked_cross_entropy` + `masked_dice_loss`) / 2, as BCP and PDF-UNet have it (docs/decisions.md).

    Args:
        logits, target, weight, valid: of both losses.
        how: `reduction` and `over_processes` of the cross-entropy.
    """
    cross_entropy = masked_cross_entropy(logits, target, weight, valid, **how)
    return (cross_entropy + masked_dice_loss(logits, target, weight, valid)) / 2
