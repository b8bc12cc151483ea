"""Random numbers that mean the same on every device."""

from __future__ import annotations

import torch
from torch import Tensor


def uniform(shape: tuple[int, ...] | torch.Size, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Uniform numbers in [0, 1), drawn on the generator's device, so that a seed means the same on every device."""
    where = generator.device if generator is not None else torch.device("cpu")
    return torch.rand(tuple(shape), generator=generator, device=where).to(device)


def beta(count: int, first: int, second: int, generator: torch.Generator | None) -> Tensor:
    """`count` numbers of the distribution Beta(first, second), whole numbers >= 1, on the CPU.

    That is how the `first`-smallest of first + second - 1 uniform numbers is distributed; torch's own Beta takes no
    generator.
    """
    if not (first == int(first) >= 1 and second == int(second) >= 1):
        raise ValueError(f"beta: parameters ({first}, {second}), expected two whole numbers >= 1")
    numbers = uniform((count, int(first) + int(second) - 1), torch.device("cpu"), generator)
    return numbers.sort(dim=1).values[:, int(first) - 1]
