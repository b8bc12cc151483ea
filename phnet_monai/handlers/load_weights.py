"""Start from the weights of an earlier run, or evaluate them."""

from __future__ import annotations

from pathlib import Path

from ignite.engine import Engine, Events
from torch import nn

from phnet_monai.networks.checkpoint import load_weights, network_weights, read_checkpoint


class LoadWeights:
    """Copies weights of a checkpoint into `network` before the first step; a resumed run keeps its own.

    Attach before `EMATeacher`, so that the teacher starts from the same weights. A projector that the checkpoint lacks
    keeps its random start.

    Args:
        network: the network to fill.
        path: a checkpoint of `phnet train`, or a plain state dict; None does nothing.
        which: `student` (warm start) or `teacher` (evaluation; the student where no teacher was trained).
    """

    def __init__(self, network: nn.Module, path: str | Path | None = None, which: str = "student") -> None:
        self.network, self.path = network, path
        if path is not None:  # read now, so that a bad path ends the run before any work
            self.weights = network_weights(read_checkpoint(path), path, which)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        if self.path is not None and engine.state.iteration == 0:
            load_weights(self.network, self.weights, self.path)
