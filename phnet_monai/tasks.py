"""Runs pieces of work that need one another, some at a time, each in a process of its own."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from typing import Any

from tqdm import tqdm

from phnet_monai.files import terminal_lines

POLL_SECONDS = 2.0
LONGEST_ERROR = 8000
"""Characters of an error that a child sends, less than a pipe holds: its parent reads when the child has ended."""


@dataclass(frozen=True)
class Task:
    """One piece of work.

    Attributes:
        name: unique.
        function: `module:name` of a module-level function.
        arguments: its keyword arguments, plain values.
        needs: names of tasks that must have succeeded before.
        steps: its share of the progress bar (training steps).
        folder: where its `history.jsonl` grows, for the progress bar.
    """

    name: str
    function: str
    arguments: Mapping[str, Any]
    needs: frozenset[str] = frozenset()
    steps: int = 0
    folder: Path | None = None

    def steps_done(self) -> int:
        """Steps that its history shows; a line that is being written does not count."""
        history = None if self.folder is None else self.folder / "history.jsonl"
        if history is None or not history.is_file():
            return 0
        for line in reversed(history.read_text(encoding="utf-8").splitlines()):
            with suppress(ValueError):
                return min(self.steps, int(json.loads(line)["iteration"]))
        return 0


@dataclass
class Outcome:
    """Names of the tasks by how they ended; `errors` holds the reason of each failed one."""

    done: list[str] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)


def run_tasks(
    tasks: Sequence[Task],
    *,
    jobs: int = 1,
    threads: int | None = None,
    progress: bool = True,
    on_done: Callable[[Task], None] | None = None,
) -> Outcome:
    """Run all tasks, earlier ones first, `jobs` at a time. One that fails does not stop those that do not need it.

    Args:
        jobs: processes at a time; 0: none, everything in this process (for debuggers; `threads` is left alone).
        threads: torch threads of each process; None leaves them alone.
        progress: a bar on a terminal; elsewhere (a log file) a line on stderr for each task that ends.
        on_done: called in this process after each task that succeeded.

    Raises:
        KeyboardInterrupt: after all processes have been ended.
    """
    if jobs == 0:
        return _run_here(tasks, on_done)
    outcome, waiting = Outcome(), list(tasks)
    running: dict[Any, tuple[Task, Any, Any]] = {}  # sentinel -> task, process, pipe
    context = multiprocessing.get_context("spawn")
    before, begun = sum(task.steps_done() for task in tasks), time.monotonic()
    total = sum(task.steps for task in tasks)
    bar = tqdm(total=total, initial=before, unit="step", disable=None if progress else True)
    try:
        while waiting or running:
            for task in _ready(waiting, outcome, jobs - len(running)):
                waiting.remove(task)
                receiver, sender = context.Pipe(duplex=False)
                # no daemon: such a process may not have children, and a training has loader processes
                process = context.Process(target=_work, args=(task, threads, sender), name=task.name)
                process.start()
                sender.close()
                running[process.sentinel] = (task, process, receiver)
            _skip(waiting, outcome)
            for sentinel in connection.wait(list(running), timeout=POLL_SECONDS):
                task, process, receiver = running.pop(sentinel)
                _finish(task, process, receiver, outcome, on_done)
                if progress and bar.disable and task.name in outcome.done:
                    now = _steps(tasks, outcome)
                    left = (time.monotonic() - begun) / (now - before) * (total - now) if now > before else 0.0
                    _tell(task, len(outcome.done), len(tasks), left)
            if not bar.disable:
                _show(bar, tasks, outcome, [task for task, _, _ in running.values()])
    finally:
        for _, process, _ in running.values():
            process.terminate()
        for _, process, _ in running.values():
            process.join()
        bar.close()
    return outcome


def _run_here(tasks: Sequence[Task], on_done: Callable[[Task], None] | None) -> Outcome:
    outcome, waiting = Outcome(), list(tasks)
    while waiting:
        task = _ready(waiting, outcome, 1)[0]
        waiting.remove(task)
        _settle(task, _call(task), outcome, on_done)
        _skip(waiting, outcome)
    return outcome


def _ready(waiting: Sequence[Task], outcome: Outcome, free: int) -> list[Task]:
    return [task for task in waiting if task.needs <= set(outcome.done)][: max(0, free)]


def _skip(waiting: list[Task], outcome: Outcome) -> None:
    """Tasks whose needs failed cannot run any more; neither can those that need them."""
    lost = set(outcome.errors) | set(outcome.skipped)
    while found := [task for task in waiting if task.needs & lost]:
        for task in found:
            waiting.remove(task)
            outcome.skipped.append(task.name)
            lost.add(task.name)


def _finish(task: Task, process: Any, receiver: Any, outcome: Outcome, on_done: Callable[[Task], None] | None) -> None:
    process.join()
    try:
        error = receiver.recv()
    except EOFError:  # the process is gone without a word: killed, or out of memory
        error = f"its process ended with code {process.exitcode}; killed, or out of memory"
    receiver.close()
    _settle(task, error, outcome, on_done)


def _settle(task: Task, error: str | None, outcome: Outcome, on_done: Callable[[Task], None] | None) -> None:
    if error is None:
        outcome.done.append(task.name)
        if on_done is not None:
            on_done(task)
    else:
        outcome.errors[task.name] = error
        tqdm.write(terminal_lines(f"{task.name}: {error}"), file=sys.stderr)


def _steps(tasks: Sequence[Task], outcome: Outcome) -> int:
    done = set(outcome.done)
    return sum(task.steps if task.name in done else task.steps_done() for task in tasks)


def _show(bar: tqdm, tasks: Sequence[Task], outcome: Outcome, running: Sequence[Task]) -> None:
    bar.set_description_str(", ".join(task.name for task in running), refresh=False)
    bar.update(max(0, _steps(tasks, outcome) - bar.n))


def _tell(task: Task, number: int, count: int, seconds: float) -> None:
    """A line of a log file; `seconds` are left at the pace so far, 0: none or not known."""
    left = f", about {tqdm.format_interval(seconds)} left" if seconds else ""
    print(f"done: {task.name} ({number} of {count}{left})", file=sys.stderr, flush=True)


def _work(task: Task, threads: int | None, sender: Any) -> None:
    """In the child: run the function, send None or the error."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    sender.send(_call(task))


def _end_with_parent() -> None:
    """A killed parent cannot end its children: what it started must not go on beside a second run of the same work."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _call(task: Task) -> str | None:
    """Run the function; what went wrong as text: one line for a mistake of the user, the traceback of a defect."""
    try:
        module, _, name = task.function.partition(":")
        getattr(importlib.import_module(module), name)(**task.arguments)
    except Exception as error:
        known = isinstance(error, (ValueError, OSError, FloatingPointError))
        text = " ".join(str(error).split()) if known and str(error) else traceback.format_exc()
        return text[-LONGEST_ERROR:]
    return None
