"""Entropy percentiles: which share of the pixels a model is surest or least sure of (U2PL, Wang et al., CVPR 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def percentiles(values: Tensor, valid: Tensor, percents: Sequence[float]) -> Tensor:
    """Percentiles of the valid values, linear between neighbours (as numpy's default). `torch.quantile` takes 16
    million values at most, 64 images of 500 x 500.

    Args:
        values: any shape, float. valid: bool, same shape.
        percents: numbers in [0, 100].

    Returns:
        (len(percents),), values.dtype; 0 where nothing is valid.

    Raises:
        ValueError: a percent outside [0, 100].
    """
    if not all(0.0 <= percent <= 100.0 for percent in percents):
        raise ValueError(f"percentiles: percents are {list(percents)}, expected numbers in [0, 100]")
    ordered = values[valid].sort().values
    if len(ordered) == 0:
        return values.new_zeros(len(percents))
    place = torch.tensor(list(percents), dtype=torch.float64) / 100 * (len(ordered) - 1)
    below = place.floor().long()
    above = (below + 1).clamp(max=len(ordered) - 1)
    share = (place - below).to(ordered)
    return torch.lerp(ordered[below.to(ordered.device)], ordered[above.to(ordered.device)], share)


def unreliable_percent(progress: float, start: float = 20.0) -> float:
    """alpha_t = start * (1 - t): share in percent that counts as unreliable, t in [0, 1]."""
    return start * (1.0 - min(max(progress, 0.0), 1.0))
