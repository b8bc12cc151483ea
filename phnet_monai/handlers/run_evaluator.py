"""A further evaluation at the end of epochs."""

from __future__ import annotations

from ignite.engine import Engine, Events
from monai.engines import Evaluator


class RunEvaluator:
    """Runs `evaluator` after every `interval` epochs and after the last; None does nothing.

    MONAI's `ValidationHandler` with two differences: an evaluator may be left out by an overlay, and the last epoch is
    always seen.
    """

    def __init__(self, evaluator: Evaluator | None, *, interval: int = 1) -> None:
        if interval < 1:
            raise ValueError(f"RunEvaluator: interval is {interval}, expected at least 1")
        self.evaluator, self.interval = evaluator, interval

    def attach(self, engine: Engine) -> None:
        if self.evaluator is not None:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        assert self.evaluator is not None
        if engine.state.epoch % self.interval == 0 or engine.state.epoch == engine.state.max_epochs:
            self.evaluator.run()
        else:
            self.evaluator.state.metrics = {}  # an old result is not this epoch's
