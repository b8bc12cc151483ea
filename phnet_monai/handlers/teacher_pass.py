"""A teacher pass with the statistics of the batch, as U2PL makes its second one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from phnet_monai.distributed import average_
from phnet_monai.engines.trainer import SemiSupervisedTrainer


@torch.no_grad()
def batch_statistics_pass(
    engine: SemiSupervisedTrainer, image: Tensor, *, update: bool
) -> tuple[Tensor, Tensor | None]:
    """Teacher in train mode: batch normalisation by the batch's own statistics, dropout on.

    U2PL's code runs its second teacher pass so, and that pass is also where its teacher's running statistics come from
    (its EMA covers parameters only): `update=True`. With `update=False` the running statistics stay as they are, so
    that the evaluated teacher is what its EMA made.

    Args:
        engine: its teacher (or, without one, its student) is asked.
        image: (B, 1, H, W), all images that shall share statistics.

    Returns:
        Logits (B, C, H, W) and, with a projector, embedding (B, D, h, w) at stride 4; no gradient.
    """
    network = engine.network if engine.teacher is None else engine.teacher
    training = network.training
    network.train()
    try:
        with engine.autocast(), _running_statistics(network, update):
            answer = network.forward_features(image)  # type: ignore[operator]
    finally:
        network.train(training)
    if update:  # the teacher is the same in all processes
        average_([buffer for buffer in network.buffers() if buffer.is_floating_point()])
    return answer


@contextmanager
def _running_statistics(network: nn.Module, update: bool) -> Iterator[None]:
    """Inside, train mode leaves the running statistics alone unless `update`."""
    frozen = [] if update else [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for module in frozen:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in frozen:
            module.track_running_stats = True
