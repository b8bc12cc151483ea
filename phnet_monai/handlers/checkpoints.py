"""Best and last checkpoints, and resuming from the last."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn

from phnet_monai import __version__
from phnet_monai.distributed import gather_all, joined_shard
from phnet_monai.engines.step import SemiSupervisedEvents
from phnet_monai.files import atomic_writer, keep_as, remove_partial_files
from phnet_monai.handlers.random_state import random_state, set_random_state
from phnet_monai.networks.checkpoint import CheckpointError, network_weights, read_checkpoint
from phnet_monai.networks.ensemble import Ensemble

LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"

_PLACE = ("epoch", "completed", "iteration", "epoch_length", "max_epochs")
_STATE = (*_PLACE, "random", "other_processes", "optimizer", "best", "handlers")
"""What a run needs to go on."""


class SaveCheckpoints:
    """Writes `last.pt` after every epoch, `best.pt` when the validation score improves; resumes from `last.pt`.

    A checkpoint is a dictionary of tensors and plain values (`weights_only=True` reads it): `student`, `teacher`,
    `info` (network arguments, input, method, score, epoch) and, in `last.pt` only, the training state: optimiser,
    schedule, scaler, handlers, random numbers, position in the epoch. A run that goes on from it ends with the weights
    of an unbroken one, bit for bit on a CPU.

    A file is written beside its place, brought to the disk and renamed, so that a kill leaves the old or the new one.
    The `last.pt` before the last is kept as `previous.pt`; where `last.pt` cannot be read, resuming falls back to it.
    A run that is ended by SIGTERM or Ctrl-C saves first (`SemiSupervisedEvents.INTERRUPTED`). Non-finite weights are
    refused.

    Of several joined processes the first writes, with the random numbers of all and the memory banks of each; resuming
    takes as many processes.

    Attach after all other handlers that change anything in an iteration or run the validation.

    Args:
        folder: where to write.
        student: the network that is trained; teacher: its EMA, if any.
        optimizer, scheduler: saved with the last checkpoint.
        handlers: name -> whatever has `state_dict` and `load_state_dict` (EMA counter, memory bank, second student,
            log); the others, and None, are dropped.
        evaluator: engine with `state.metrics[score]`; None: no best checkpoint.
        score: name of the validation metric, higher is better.
        input_size, pad_value: how images meet the network, kept with it.
        method: name of the method, kept with it.
        interval: also write `last.pt` every so many steps within an epoch (long epochs); None: at its end only.
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
        interval: int | None = None,
        resume: bool = False,
    ) -> None:
        if interval is not None and interval < 1:
            raise ValueError(f"SaveCheckpoints: interval is {interval}, expected at least 1, or null")
        self.folder, self.student, self.teacher, self.optimizer = Path(folder), student, teacher, optimizer
        self.scheduler, self.evaluator, self.score, self.resume = scheduler, evaluator, score, resume
        self.interval = interval
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
        self.info["evaluated"] = self.evaluated
        self.best_score, self.best_epoch = -math.inf, 0
        self.last_score: float | None = None
        self._saved: int | None = None  # the iteration of `last.pt`
        # False: `last.pt` could not be read, so that it must not take the place of `previous.pt`
        self._last_is_good = True
        self._random: dict[str, Any] | None = None  # of a resumed run, until its first step

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_STARTED, self._go_on_drawing)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._save_within)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)
        engine.register_events(SemiSupervisedEvents.INTERRUPTED)  # for engines other than ours
        engine.add_event_handler(SemiSupervisedEvents.INTERRUPTED, self.save_interrupted)

    def start(self, engine: Engine) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        last, previous = self.folder / LAST, self.folder / PREVIOUS
        if not self.resume:
            # an older run's `previous.pt` would be what this one falls back to
            if found := [path for path in (last, previous) if path.is_file()]:
                raise FileExistsError(
                    f"{found[0]}: a run was saved here before. Use resume, another folder, or remove {LAST} and "
                    f"{PREVIOUS}."
                )
        elif last.is_file() or previous.is_file():
            if joined_shard().first:
                remove_partial_files(self.folder, below=False)
            content, path = read_newest(last, previous)
            self._last_is_good = path == last
            try:
                self._restore(engine, content, path)
            except (KeyError, TypeError, AttributeError, RuntimeError) as error:
                reason = " ".join(str(error).split())[:300]
                raise CheckpointError(
                    f"{path}: does not fit this training ({type(error).__name__}: {reason}). Resume with the network, "
                    "profile and method that it was trained with; a file that was changed must be replaced."
                ) from error

    def save(self, engine: Engine) -> None:
        """At the end of an epoch, its validation done: the best checkpoint, if it is one, and the last."""
        self._refuse_nonfinite(engine)
        score = self.last_score = self._score(engine)
        with _held(engine):
            if score is not None and score > self.best_score:
                self.best_score, self.best_epoch = score, engine.state.epoch
                self._write(BEST, self._content(engine, score))
            self._save_last(engine, completed=True)

    def save_interrupted(self, engine: Engine) -> None:
        """Before a signal ends the run: what was done since the last checkpoint."""
        iteration = engine.state.iteration
        if iteration > 0 and (self._saved is None or self._saved < iteration):
            self._refuse_nonfinite(engine)
            self._save_last(engine, completed=False)
        if self._saved is not None and joined_shard().first:
            _say(f"saved {self.folder / LAST} after step {self._saved}; resume goes on from there")

    def _save_within(self, engine: Engine) -> None:
        iteration = engine.state.iteration
        at_end = iteration % (engine.state.epoch_length or 1) == 0
        if self.interval is not None and iteration % self.interval == 0 and not at_end:
            self._refuse_nonfinite(engine)
            self._save_last(engine, completed=False)

    def _save_last(self, engine: Engine, *, completed: bool) -> None:
        content = self._content(engine, self.last_score)
        content["training"] = self._training_state(engine, completed)
        self._write(LAST, content, keep=PREVIOUS)
        self._saved = engine.state.iteration

    def _refuse_nonfinite(self, engine: Engine) -> None:
        states = {"student": self.student.state_dict(), "teacher": self.teacher.state_dict() if self.teacher else {}}
        states |= {name: handler.state_dict() for name, handler in self.handlers.items()}
        if (name := nonfinite(states)) is not None:
            raise FloatingPointError(
                f"epoch {engine.state.epoch}: weights are not finite ({name}); {self.folder / LAST} was left as it was."
                " Begin anew from it (`--init`, in another folder) with a lower learning rate."
            )

    def _score(self, engine: Engine) -> float | None:
        """This epoch's validation score, None where no validation ran in it."""
        if self.evaluator is None or not self.evaluator.state.metrics:
            return None
        if self.score not in self.evaluator.state.metrics:
            known = ", ".join(sorted(self.evaluator.state.metrics))
            raise ValueError(f"checkpoints#score is {self.score!r}, expected a score of the validation: {known}")
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

    def _training_state(self, engine: Engine, completed: bool) -> dict[str, Any]:
        own = gather_all(
            {
                "random": random_state(getattr(engine, "generator", None)),
                "handlers": {} if joined_shard().first else self._of_this_process(),
            }
        )
        state = {
            "epoch": engine.state.epoch,
            "completed": completed,
            "random": own[0]["random"],
            "other_processes": own[1:],
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

    def _of_this_process(self) -> dict[str, Any]:
        """State of the handlers that differ from process to process, on the CPU."""
        own = {name: handler for name, handler in self.handlers.items() if getattr(handler, "own_state", False)}
        return {name: _on_cpu(handler.state_dict()) for name, handler in own.items()}

    def _restore(self, engine: Engine, content: dict[str, Any], path: Path) -> None:
        state = content["training"]
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
        own = {"random": state["random"], "handlers": {}}
        shard = joined_shard()
        if shard.world != 1 + len(state["other_processes"]):
            raise CheckpointError(
                f"{path}: was trained by {1 + len(state['other_processes'])} processes, now there are {shard.world}; "
                "resume with as many"
            )
        if shard.rank:
            own = state["other_processes"][shard.rank - 1]
        for name, handler in self.handlers.items():
            handler.load_state_dict(own["handlers"].get(name, state["handlers"][name]))
        self.best_score, self.best_epoch = state["best"]["score"], state["best"]["epoch"]
        self._check_best()
        self.last_score = content["info"]["score"]["value"]
        self._saved = state["iteration"]
        self._place(engine, state, own["random"])

    def _check_best(self) -> None:
        """A run that goes on without its `best.pt` (only `last.pt` was copied) must not tell of it: the next best of
        its epochs takes the place."""
        if not self.best_epoch:
            return
        try:
            read_checkpoint(self.folder / BEST)
        except (CheckpointError, FileNotFoundError) as error:
            if joined_shard().first:
                _say(f"{error}; the best of the epochs from here on takes its place")
            self.best_score, self.best_epoch = -math.inf, 0

    def _place(self, engine: Engine, state: dict[str, Any], numbers: dict[str, Any]) -> None:
        """Where the run goes on: after an epoch, before its validation, or between two of its steps."""
        epoch, iteration = state["epoch"], state["iteration"]
        engine.state.epoch, engine.state.iteration = epoch, iteration
        within = not state["completed"] and iteration < epoch * state["epoch_length"]
        if within:
            engine.state.epoch = epoch - 1  # the engine counts it up
            self._random = numbers
            return
        set_random_state(numbers, getattr(engine, "generator", None))
        if not state["completed"]:
            engine.fire_event(Events.EPOCH_COMPLETED)

    def _go_on_drawing(self, engine: Engine) -> None:
        """At the first step after `_place`: by now the epoch's beginning has drawn what is to be forgotten."""
        if self._random is not None:
            set_random_state(self._random, getattr(engine, "generator", None))
            self._random = None

    def _write(self, name: str, content: dict[str, Any], keep: str | None = None) -> None:
        if not joined_shard().first:
            return
        with atomic_writer(self.folder / name, sync=True) as stream:
            torch.save(content, stream)
            stream.flush()
            os.fsync(stream.fileno())  # only when the new one is on the disk may the older one go
            if keep is not None and self._last_is_good and (self.folder / name).is_file():
                keep_as(self.folder / name, self.folder / keep)
        self._last_is_good |= name == LAST


def read_newest(last: Path, previous: Path) -> tuple[dict[str, Any], Path]:
    """The content of `last`, or of `previous` where `last` is missing, damaged or not finite, and which of them it is.

    Raises:
        CheckpointError: neither can be read.
    """
    try:
        return _whole(read_checkpoint(last), last), last
    except (CheckpointError, FileNotFoundError) as error:
        if not previous.is_file():
            raise
        _say(f"{error}\nGoing on from {previous}, the checkpoint before.")
        try:
            return _whole(read_checkpoint(previous), previous), previous
        except CheckpointError as second:
            raise CheckpointError(f"neither checkpoint can be read: {error}; {second}") from second


def _whole(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """The content, once it is certain that all is there by which a run goes on, and that its weights are finite."""
    state, info = content.get("training"), content.get("info")
    if state is None:
        raise CheckpointError(f"{path}: has no training state; only a `{LAST}` of `phnet train` can be resumed")
    lacking = [name for name in _STATE if not isinstance(state, dict) or name not in state]
    lacking += [name for name in ("method", "score") if not isinstance(info, dict) or name not in info]
    if lacking:
        raise CheckpointError(f"{path}: lacks {', '.join(lacking)} of the training state: it was changed or damaged")
    networks = ("student", "teacher") if "teacher" in content else ("student",)
    # each by its own name, whichever of them the training evaluated
    states = {which: network_weights({which: content.get(which)}, path, which) for which in networks}
    if (name := nonfinite({**states, **state["handlers"]})) is not None:
        raise CheckpointError(f"{path}: its weights are not finite ({name})")
    return content


def nonfinite(state: Any, name: str = "") -> str | None:
    """Where the first tensor of a nested state stands that is not finite, as `student.classifier.0.weight`."""
    if isinstance(state, torch.Tensor):
        return name if state.is_floating_point() and not torch.isfinite(state).all() else None
    parts: Iterable[tuple[Any, Any]] = ()
    if isinstance(state, dict):
        parts = state.items()
    elif isinstance(state, (list, tuple)):
        parts = enumerate(state)
    found = (nonfinite(part, f"{name}.{key}" if name else str(key)) for key, part in parts)
    return next((place for place in found if place is not None), None)


def _held(engine: Engine) -> contextlib.AbstractContextManager[None]:
    """Inside, a signal waits: several files belong together."""
    interruption = getattr(engine, "interruption", None)
    return contextlib.nullcontext() if interruption is None else interruption.held()


def _on_cpu(state: Any) -> Any:
    if isinstance(state, dict):
        return {name: _on_cpu(value) for name, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [_on_cpu(value) for value in state]
    return state.cpu() if isinstance(state, torch.Tensor) else state


def _say(text: str) -> None:
    print(f"phnet: {text}", file=sys.stderr)
