"""Learning rate of the paper (Sec. 4.1), lr = lr_init * (1 - iteration / total)^power, and ramps of loss weights."""

from __future__ import annotations

import math
from collections.abc import Sized

from torch.optim import Optimizer
from torch.optim.lr_scheduler import PolynomialLR


def polynomial_schedule(optimizer: Optimizer, loader: Sized, max_epochs: int, power: float = 0.9) -> PolynomialLR:
    """Polynomial decay over all iterations of all epochs, labeled-only ones included; to be stepped every iteration."""
    return PolynomialLR(optimizer, total_iters=max_epochs * len(loader), power=power)


def gaussian_ramp(progress: float) -> float:
    """exp(-5 (1 - t)^2), t = progress cut to [0, 1]: 0.007 at the start, 1 at the end (Laine and Aila 2017)."""
    t = min(max(progress, 0.0), 1.0)
    return math.exp(-5.0 * (1.0 - t) ** 2)


def cosine_ramp(progress: float) -> float:
    """(1 - cos(pi t)) / 2, t = progress cut to [0, 1]: 0 at the start, 1 at the end."""
    return (1.0 - math.cos(math.pi * min(max(progress, 0.0), 1.0))) / 2.0
