"""Start from the weights of an earlier run, or evaluate them."""

from __future__ import annotations

from pathlib import Path

from ignite.engine import Engine, Events
from torch import nn

from phnet_monai.engines.evaluator import LesionEvaluator
from phnet_monai.networks.checkpoint import load_weights, network_weights, read_checkpoint


class LoadWeights:
    """Copies weights of a checkpoint into `network` before the first step; a resumed run keeps its own.

    Attach before `EMATeacher`, so that the teacher starts from the same weights. A projector that the checkpoint lacks
    keeps its random start.

    Args:
        network: the network to fill.
        path: a checkpoint of `phnet train`, or a plain state dict; None does nothing.
        which: `student` (warm start) or `teacher` (evaluation; the student where no teacher was trained).

    Raises:
        FileNotFoundError, CheckpointError: no such checkpoint; ValueError: attached to an evaluation at another input
            size or padding than the checkpoint's training had.
    """

    def __init__(self, network: nn.Module, path: str | Path | None = None, which: str = "student") -> None:
        self.network, self.path = network, path
        if path is not None:  # read now, so that a bad path ends the run before any work
            checkpoint = read_checkpoint(path)
            self.weights = network_weights(checkpoint, path, which)
            self.info = checkpoint.get("info")

    def attach(self, engine: Engine) -> None:
        if self.path is not None and isinstance(engine, LesionEvaluator):
            self._check_input(engine)
        engine.add_event_handler(Events.STARTED, self)

    def _check_input(self, engine: LesionEvaluator) -> None:
        """An evaluation at another input than that of the training would give other scores without a word."""
        trained = self.info.get("input") if isinstance(self.info, dict) else None
        if not isinstance(trained, dict):
            return
        for name, value in (("size", engine.size), ("pad_value", engine.pad_value)):
            if name in trained and trained[name] != value:
                raise ValueError(
                    f"{self.path}: was trained with {name} {trained[name]}, this evaluation has {value}; set {name} to "
                    f"{trained[name]}"
                )

    def __call__(self, engine: Engine) -> None:
        if self.path is not None and engine.state.iteration == 0:
            load_weights(self.network, self.weights, self.path)
