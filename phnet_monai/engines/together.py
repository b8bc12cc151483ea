"""One student in several processes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Features = Callable[[Tensor], tuple[Tensor, Tensor | None]]

# PyTorch renamed it in 2.14, with a warning for the old name
_PARAMETERS = inspect.signature(DistributedDataParallel.__init__).parameters
_SYNC_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _PARAMETERS else "broadcast_buffers"


class _Call(nn.Module):
    """Holds the student's parameters and calls whatever way of asking it is set: `DistributedDataParallel` knows only
    `forward`, and a step may ask for features, or for features that are changed between encoder and decoder."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.features: Features | None = None

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        assert self.features is not None
        return self.features(images)


class StudentTogether:
    """`DistributedDataParallel` around a student whose own methods stay in use everywhere else.

    Gradients are averaged during the backward pass. Buffers are left to the trainer, which averages them after the
    step: those of the first process alone would be statistics of its images alone.

    Lives as long as a training: it holds the processes' group, which can end only after it
    (`phnet_monai.distributed.end_processes`).

    Args:
        network: the student, with the same weights in all processes (they are sent from the first one).
        device: of this process.
    """

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        options: dict[str, Any] = {_SYNC_BUFFERS: False}
        if device.type == "cuda":
            options["device_ids"] = [device.index]
        self.parallel = DistributedDataParallel(_Call(network), **options)

    def calling(self, features: Features) -> Features:
        """`features`, a function that asks the student, with the gradients of its parameters averaged."""
        self.parallel.module.features = features
        return self.parallel
