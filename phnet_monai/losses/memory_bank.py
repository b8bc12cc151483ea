"""Class-wise first-in-first-out store of features (paper, Sec. 3.4, Eq. 14)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MemoryBank(nn.Module):
    """Keeps the newest features of each class; its content is saved with checkpoints.

    Args:
        num_classes: C.
        feature_size: D.
        capacity: features kept per class; when full, the oldest make room.
    """

    features: Tensor  # (C, capacity, D), normalised rows
    filled: Tensor  # (C,) rows in use
    position: Tensor  # (C,) next row to write

    def __init__(self, num_classes: int, feature_size: int, capacity: int) -> None:
        super().__init__()
        if min(num_classes, feature_size, capacity) < 1:
            raise ValueError(
                f"MemoryBank: num_classes {num_classes}, feature_size {feature_size}, capacity {capacity}; expected 1+"
            )
        self.capacity = capacity
        self.register_buffer("features", torch.zeros(num_classes, capacity, feature_size))
        self.register_buffer("filled", torch.zeros(num_classes, dtype=torch.long))
        self.register_buffer("position", torch.zeros(num_classes, dtype=torch.long))

    @torch.no_grad()
    def push(self, class_index: int, features: Tensor) -> None:
        """Append features (A, D) of one class, oldest first; they are detached and normalised to length 1.

        Raises:
            ValueError: other shape than (A, D), or non-finite values.
        """
        if features.ndim != 2 or features.shape[1] != self.features.shape[2]:
            raise ValueError(
                f"MemoryBank.push: features have shape {tuple(features.shape)}, expected (A, {self.features.shape[2]})"
            )
        if not torch.isfinite(features).all():
            raise ValueError("MemoryBank.push: features hold NaN or infinite values; nothing was stored")
        newest = F.normalize(features.detach().float(), dim=1)[-self.capacity :]
        start = int(self.position[class_index])
        rows = (start + torch.arange(len(newest), device=newest.device)) % self.capacity
        self.features[class_index, rows] = newest.to(self.features)
        self.position[class_index] = (start + len(newest)) % self.capacity
        self.filled[class_index] = min(self.capacity, int(self.filled[class_index]) + len(newest))

    def center(self, class_index: int) -> Tensor | None:
        """z_c^+ of Eq. 14: mean of the stored features, normalised to length 1, (D,); None while the class is empty."""
        features = self.stored(class_index)
        if len(features) == 0:
            return None
        return F.normalize(features.mean(dim=0), dim=0)

    def stored(self, class_index: int) -> Tensor:
        """The stored features of one class, rows of length 1, in no particular order: (filled, D), not a copy."""
        return self.features[class_index, : int(self.filled[class_index])]

    def __len__(self) -> int:
        return int(self.filled.sum())
