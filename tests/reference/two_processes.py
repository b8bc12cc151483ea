"""What each of several processes of a training does in the tests; run by `torchrun`.

torchrun --nproc-per-node 2 two_processes.py TASK FOLDER
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from ignite.engine import Events

from phnet_monai.distributed import end_processes, gather_all, joined_shard, start_processes

TINY = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("tiny_training.py"))))
STEPS = 4


def frozen_statistics(run: SimpleNamespace) -> None:
    """BN in eval mode: its statistics are of one process's images, and would make batches differ."""
    run.student.train = lambda mode=True: torch.nn.Module.train(run.student, False)


def gradients(folder: Path) -> None:
    """One labeled and one semi-supervised step without mixing and contrast: gradients, losses, images."""
    seen: list[Any] = []
    world = joined_shard().world

    def keep(engine: Any) -> None:
        grads = {name: p.grad.clone() for name, p in engine.network.named_parameters() if p.grad is not None}
        seen.append(
            {
                "gradients": {name: grad for name, grad in grads.items() if not name.startswith("projector.")},
                "loss": {name: value.detach() for name, value in engine.state.step.losses.items()},
                "images": engine.state.step.views["labeled"].image,
            }
        )

    run = TINY.build(
        batch_size=4 // world,
        apa=False,
        hpc=False,
        max_epochs=2,
        loader={"epoch_length": 1},
        network={"dropout": 0.0},
    )
    frozen_statistics(run)
    run.trainer.add_event_handler(Events.ITERATION_COMPLETED, keep)
    run.trainer.run()
    weights = {"student": run.student.state_dict(), "teacher": run.teacher.state_dict()}
    torch.save({"steps": seen, **weights}, folder / f"{world}_{joined_shard().rank}.pt")


def training(folder: Path, *, resume: bool = False, at: Any = None, log: bool = True) -> SimpleNamespace:
    """PH-Net with everything on; `at` is called after each step."""
    run = TINY.build(
        folder=folder / "run", validate=True, log={} if log else None, resume=resume, network={"dropout": 0.3},
        loader={"epoch_length": STEPS}, init_seed=50 + joined_shard().rank if resume else 3,
    )  # fmt: skip
    if at is not None:
        run.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: at(engine.state.iteration))
    run.trainer.run()
    return run


def keep_all(folder: Path, run: SimpleNamespace) -> None:
    content = {
        "student": run.student.state_dict(),
        "teacher": run.teacher.state_dict(),
        "bank": run.hpc.state_dict(),
        "scores": json.dumps(run.evaluator.scores.rows()),  # as text, so that NaN equals NaN
        "best": run.checkpoints.best_score,
        "outputs": run.recorder.outputs,
        "rows": gather_all(len(run.recorder.outputs)),
    }
    torch.save(content, folder / f"end_{joined_shard().rank}.pt")


def whole(folder: Path) -> None:
    keep_all(folder, training(folder))


def resumed(folder: Path) -> None:
    keep_all(folder, training(folder, resume=True))


def one_hears_a_signal(folder: Path) -> None:
    """The second process alone gets SIGTERM in a step; both stop after it."""

    def at(iteration: int) -> None:
        if iteration == STEPS + 2 and joined_shard().rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    training(folder, at=at)


def one_dies(folder: Path) -> None:
    def at(iteration: int) -> None:
        if iteration == STEPS + 2 and joined_shard().rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    training(folder, at=at)


def not_finite(folder: Path) -> None:
    """One process meets NaN; with `skip` both pass the step over."""
    from monai.engines.utils import IterationEvents

    run = TINY.build(log={}, folder=folder / "run", on_nonfinite="skip", loader={"epoch_length": STEPS})

    def spoil(engine: Any) -> None:
        if engine.state.iteration == STEPS + 1 and joined_shard().rank == 1:
            engine.state.step.add_loss("spoilt", torch.tensor(float("nan"), requires_grad=True))

    run.trainer.add_event_handler(IterationEvents.FORWARD_COMPLETED, spoil)
    run.trainer.run()
    keep_all(folder, run)


TASKS = {
    "gradients": gradients,
    "whole": whole,
    "resumed": resumed,
    "resumed_too": resumed,
    "one_hears_a_signal": one_hears_a_signal,
    "one_dies": one_dies,
    "not_finite": not_finite,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    start_processes()
    for word in sys.argv[1:]:  # several of them: most of the time goes into starting the processes
        task, _, folder = word.partition("=")
        TASKS[task](Path(folder))
    end_processes()
    left = {file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm")}  # threads; none but on Linux
    assert not [name for name in left if "gloo" in name], f"{left}: one of them may abort Python's shutting down"
