"""Best and last checkpoints, and resuming from the last."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn

from phnet_monai import __version__
from phnet_monai.files import atomic_writer
from phnet_monai.networks.checkpoint import CheckpointError, read_checkpoint
from phnet_monai.networks.ensemble import Ensemble

LAST, BEST = "last.pt", "best.pt"


class SaveCheckpoints:
    """Writes `last.pt` after every epoch, `best.pt` when the validation score improves; resumes from `last.pt`.

    A checkpoint is a dictionary of tensors and plain values (`weights_only=True` reads it): `student`, `teacher`,
    `info` (network arguments, input, method, score, epoch) and, in `last.pt` only, the training state. It is written
    beside its place and renamed, so that a kill leaves the old or the new file. Non-finite weights are refused.

    Attach after the handler that runs the validation.

    Args:
        folder: where to write.
        student: the network that is trained; teacher: its EMA, if any.
        optimizer, scheduler: saved with the last checkpoint.
        handlers: name -> whatever has `state_dict` and `load_state_dict` (EMA counter, memory bank, second student);
            the others, and None, are dropped.
        evaluator: engine with `state.metrics[score]`; None: no best checkpoint.
        score: name of the validation metric, higher is better.
        input_size, pad_value: how images meet the network, kept with it.
        method: name of the method, kept with it.
        resume: continue from `last.pt` if it is there.
    """

    def __init__(
        self,
        folder: str | Path,
        student: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        teacher: nn.Module | None = None,
        scheduler: Any = None,
        handlers: dict[str, Any] | None = None,
        evaluator: Engine | None = None,
        score: str = "pooled_dice",
        input_size: int,
        pad_value: float,
        method: str,
        resume: bool = False,
    ) -> None:
        self.folder, self.student, self.teacher, self.optimizer = Path(folder), student, teacher, optimizer
        self.scheduler, self.evaluator, self.score, self.resume = scheduler, evaluator, score, resume
        self.handlers = {name: handler for name, handler in (handlers or {}).items() if hasattr(handler, "state_dict")}
        self.info = {
            "version": __version__,
            "method": method,
            "network": dict(getattr(student, "arguments", {})),
            "input": {"size": int(input_size), "pad_value": float(pad_value)},
        }
        if isinstance(teacher, Ensemble):
            self.info["ensemble"] = dict(teacher.arguments)
        # whose scores the validation shows: the teacher's, if there is one and the config does not say otherwise
        self.evaluated = "student" if getattr(evaluator, "network", teacher) in (None, student) else "teacher"
        self.best_score, self.best_epoch = -math.inf, 0
        self.last_score: float | None = None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def start(self, engine: Engine) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        last = self.folder / LAST
        if self.resume and last.is_file():
            self._restore(engine, last)
        elif not self.resume and last.is_file():
            raise FileExistsError(f"{last}: a run was saved here before. Use resume, another folder, or remove it.")

    def save(self, engine: Engine) -> None:
        tensors = [*self.student.state_dict().values(), *(self.teacher.state_dict().values() if self.teacher else ())]
        if not all(torch.isfinite(t).all() for t in tensors if t.is_floating_point()):
            raise FloatingPointError(
                f"epoch {engine.state.epoch}: weights are not finite; {self.folder / LAST} was left as it was. "
                "Lower the learning rate and resume."
            )
        score = self.last_score = self._score(engine)
        if score is not None and score > self.best_score:
            self.best_score, self.best_epoch = score, engine.state.epoch
            self._write(BEST, self._content(engine, score))
        content = self._content(engine, score)
        content["training"] = self._training_state(engine)
        self._write(LAST, content)

    def _score(self, engine: Engine) -> float | None:
        """This epoch's validation score, None where no validation ran in it."""
        if self.evaluator is None or self.evaluator.state.metrics.get(self.score) is None:
            return None
        value = float(self.evaluator.state.metrics[self.score])
        self.evaluator.state.metrics = {}  # so that an epoch without validation is not taken for one
        return value if math.isfinite(value) else None

    def _content(self, engine: Engine, score: float | None) -> dict[str, Any]:
        content = {
            "student": self.student.state_dict(),
            "info": {**self.info, "epoch": engine.state.epoch, "score": {"name": self.score, "value": score}},
        }
        if self.teacher is not None:
            content["teacher"] = self.teacher.state_dict()
        return content

    def _training_state(self, engine: Engine) -> dict[str, Any]:
        state = {
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "epoch_length": engine.state.epoch_length,
            "max_epochs": engine.state.max_epochs,
            "optimizer": self.optimizer.state_dict(),
            "best": {"score": self.best_score, "epoch": self.best_epoch},
            "handlers": {name: handler.state_dict() for name, handler in self.handlers.items()},
        }
        if self.scheduler is not None:
            state["scheduler"] = self.scheduler.state_dict()
        scaler = getattr(engine, "grad_scaler", None)
        if scaler is not None:
            state["scaler"] = scaler.state_dict()
        return state

    def _restore(self, engine: Engine, path: Path) -> None:
        content = read_checkpoint(path)
        state = content.get("training")
        if state is None:
            raise CheckpointError(f"{path}: has no training state; only a `{LAST}` of `phnet train` can be resumed")
        for name in ("max_epochs", "epoch_length"):
            if state[name] != getattr(engine.state, name):
                raise CheckpointError(
                    f"{path}: was trained with {name} = {state[name]}, now it is {getattr(engine.state, name)}; resume "
                    "with the same configuration (the learning-rate schedule depends on it)"
                )
        if set(state["handlers"]) != set(self.handlers) or ("teacher" in content) != (self.teacher is not None):
            raise CheckpointError(f"{path}: belongs to the method {content['info']['method']!r} with other handlers")
        self.student.load_state_dict(content["student"])
        if self.teacher is not None:
            self.teacher.load_state_dict(content["teacher"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        scaler = getattr(engine, "grad_scaler", None)
        if scaler is not None:
            scaler.load_state_dict(state["scaler"])
        for name, handler in self.handlers.items():
            handler.load_state_dict(state["handlers"][name])
        self.best_score, self.best_epoch = state["best"]["score"], state["best"]["epoch"]
        self.last_score = content["info"]["score"]["value"]
        engine.state.epoch, engine.state.iteration = state["epoch"], state["iteration"]

    def _write(self, name: str, content: dict[str, Any]) -> None:
        with atomic_writer(self.folder / name, sync=True) as stream:
            torch.save(content, stream)
