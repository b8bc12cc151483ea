"""Training again and again in one folder, each time into the model that is served: MONAI Label."""

from __future__ import annotations

from pathlib import Path

from ignite.engine import Engine, Events

from phnet_monai.distributed import gather_all, joined_shard
from phnet_monai.handlers.checkpoints import BEST, LAST, PREVIOUS
from phnet_monai.networks.checkpoint import export_state_dict

EARLIER = "earlier"
WRITTEN = (LAST, PREVIOUS, BEST, "history.jsonl", "tensorboard")


class UpdateModel:
    """At the start, sets an earlier training in `folder` aside; at the end, writes the trained model to `path`.

    An earlier run moves to `folder`/earlier/1, 2, ... The model is the teacher of the best epoch, of the last one where
    none was validated: a plain state dict, written atomically.

    Attach before `SaveCheckpoints`, which refuses a folder with a run in it. Of several joined processes the first
    moves and writes.

    Args:
        folder: of the checkpoints.
        path: `models/model.pt` of the bundle that is served; None: nothing is done.
        resume: the training goes on with the one in `folder`, if there is any: nothing is set aside.
    """

    def __init__(self, folder: str | Path, path: str | Path | None = None, *, resume: bool = False) -> None:
        self.folder, self.path, self.resume = Path(folder), path, resume

    def attach(self, engine: Engine) -> None:
        if self.path is not None:
            engine.add_event_handler(Events.STARTED, self.set_aside)
            engine.add_event_handler(Events.COMPLETED, self.write)

    def set_aside(self) -> None:
        """Makes room for this training, unless it goes on with one."""
        if not self.resume and joined_shard().first:
            self._move()
        gather_all(None)  # no process may look for checkpoints before the first has moved them

    def _move(self) -> None:
        found = [name for name in WRITTEN if (self.folder / name).exists()]
        if not found:
            return
        number = 1
        while (self.folder / EARLIER / str(number)).exists():
            number += 1
        place = self.folder / EARLIER / str(number)
        place.mkdir(parents=True)
        for name in found:
            (self.folder / name).rename(place / name)

    def write(self) -> None:
        assert self.path is not None  # else it would not be attached
        if not joined_shard().first:
            return
        best = self.folder / BEST
        export_state_dict(best if best.is_file() else self.folder / LAST, self.path)
