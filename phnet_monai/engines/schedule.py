"""Learning-rate schedule of the paper (Sec. 4.1): lr = lr_init * (1 - iteration / total)^power."""

from __future__ import annotations

from collections.abc import Sized

from torch.optim import Optimizer
from torch.optim.lr_scheduler import PolynomialLR


def polynomial_schedule(optimizer: Optimizer, loader: Sized, max_epochs: int, power: float = 0.9) -> PolynomialLR:
    """Polynomial decay over all iterations of all epochs, labeled-only ones included; to be stepped every iteration."""
    return PolynomialLR(optimizer, total_iters=max_epochs * len(loader), power=power)
