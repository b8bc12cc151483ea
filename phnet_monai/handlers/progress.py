"""Progress bar over all epochs, on stderr."""

from __future__ import annotations

import sys
from typing import Any

from ignite.engine import Engine, Events
from tqdm import tqdm

from phnet_monai.distributed import joined_shard


class Progress:
    """One tqdm bar for the whole run, with the current epoch and loss.

    Shown on a terminal only, unless `always`; a log file gets no bar.
    """

    def __init__(self, *, always: bool = False) -> None:
        self.always = always
        self.bar: tqdm | None = None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.step)
        engine.add_event_handler(Events.COMPLETED, self.close)

    def start(self, engine: Engine) -> None:
        self.bar = tqdm(
            total=(engine.state.max_epochs or 0) * (engine.state.epoch_length or 0),
            initial=engine.state.iteration,
            desc="train",
            unit="step",
            file=sys.stderr,
            disable=True if not joined_shard().first else None if not self.always else False,
        )

    def step(self, engine: Engine) -> None:
        assert self.bar is not None
        self.bar.update()
        output: Any = engine.state.output[0]  # type: ignore[index]
        self.bar.set_postfix(epoch=engine.state.epoch, loss=f"{output['loss']:.3f}", refresh=False)

    def close(self, engine: Engine) -> None:
        assert self.bar is not None
        self.bar.close()
