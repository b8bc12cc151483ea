"""Kill a training at random moments, resume it, and compare what it ends with to an unbroken run, bit for bit.

    python scripts/kill_and_resume.py --kills 50
    python scripts/kill_and_resume.py --kills 50 --workers 2

Trains the shipped `train.json` (profile `smoke`) on phantoms. Each life of a run is a process with the command line
`phnet train ... --resume` that is killed by SIGKILL, SIGTERM or SIGINT in a phase drawn at random. When a run reaches
its end, its weights (student, teacher), optimiser, memory bank, random numbers to come, best checkpoint, scores and log
are compared with those of the unbroken run, and a new run begins, until there were enough kills. After each kill the
checkpoint must be readable. A rename, which takes no time, is drawn out to milliseconds, so that kills come within.
Exit code 1: something was lost.
"""

from __future__ import annotations

import argparse
import json
import logging
import mmap
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

PHASES = ("start", "between steps", "step", "validation", "checkpoint", "rename", "end")
VISITS = {"start": 0, "between steps": 12, "step": 12, "validation": 3, "checkpoint": 6, "rename": 12, "end": 0}
"""How often a life may go through a phase before it is killed there."""
DRAWN_OUT = 0.01
"""Seconds before and after the system call of a rename."""
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}
LENGTH = {"max_epochs": 4, "epoch_length": 5, "pretrain_epochs": 1, "batch_size": 4, "network_def#dropout": 0.3}


def show_phases(board: mmap.mmap) -> None:
    """Let this process write what it is doing into the byte of `board`."""
    from ignite.engine import Events

    from phnet_monai.engines import LesionEvaluator, SemiSupervisedTrainer

    def show(phase: int) -> None:
        board[0] = phase

    def during(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            before = board[0]
            show(PHASES.index(name))
            try:
                return function(*arguments, **named)
            finally:
                show(before)

        return call

    run = SemiSupervisedTrainer.run

    def with_events(trainer: Any) -> None:
        trainer.add_event_handler(Events.EPOCH_STARTED, lambda: show(PHASES.index("between steps")))
        run(trainer)
        board[0] = PHASES.index("end")

    SemiSupervisedTrainer.run = with_events  # type: ignore[method-assign]
    SemiSupervisedTrainer._iteration = during("step", SemiSupervisedTrainer._iteration)  # type: ignore[method-assign]
    LesionEvaluator.run = during("validation", LesionEvaluator.run)  # type: ignore[method-assign]
    torch.save = during("checkpoint", torch.save)

    def slow_replace(*arguments: Any, replace: Callable[..., None] = os.replace) -> None:
        time.sleep(DRAWN_OUT)
        replace(*arguments)
        time.sleep(DRAWN_OUT)

    os.replace = during("rename", slow_replace)


def life(datalist: Path, folder: Path, overrides: dict[str, Any], method: str, board: mmap.mmap) -> int:
    """A process that trains to the end; its number. A fork: a life need not begin with ten seconds of imports."""
    board[0] = PHASES.index("start")
    # a child that has just begun must not go the parent's way
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    child = os.fork()
    if child:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return child
    code = 1
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        from phnet_monai.cli.main import main as phnet

        words = ["train", str(datalist), str(folder), "--profile", "smoke", "--method", method, "--device", "cpu"]
        words += [word for name, value in overrides.items() for word in (f"--{name}", str(value))]
        os.dup2(os.open(folder.parent / f"{folder.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        os.dup2(2, 1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        show_phases(board)
        code = phnet([*words, "--resume"])
    except KeyboardInterrupt:  # before the command line listens
        code = 130
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        os._exit(code)


def differences(first: Any, second: Any, where: str = "") -> list[str]:
    """Where two checkpoints differ."""
    if isinstance(first, torch.Tensor):
        return [] if isinstance(second, torch.Tensor) and torch.equal(first, second) else [where]
    if isinstance(first, dict) and isinstance(second, dict):
        if first.keys() != second.keys():
            return [f"{where}: other names"]
        return [line for name in first for line in differences(first[name], second[name], f"{where}/{name}")]
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)) and len(first) == len(second):
        pairs = enumerate(zip(first, second, strict=True))
        return [line for number, pair in pairs for line in differences(*pair, f"{where}/{number}")]
    return [] if first == second else [where]


def compare(whole: Path, other: Path) -> list[str]:
    """Everything in which a resumed run differs from the unbroken one."""
    from phnet_monai.networks import read_checkpoint

    found = []
    for name in ("last.pt", "best.pt"):  # `previous.pt` may be of an interrupted step
        found += differences(read_checkpoint(whole / name), read_checkpoint(other / name), name)
    for name in ("history.jsonl", "run.json"):
        if not (other / name).is_file():
            found.append(f"{name} is missing, though the run ended with 0")
            continue
        texts = [(folder / name).read_text(encoding="utf-8").replace(str(folder), "") for folder in (whole, other)]
        found += [] if texts[0] == texts[1] else [name]
    return found + [str(path) for path in other.glob(".*.part")]


def check_after_kill(folder: Path, name: str, status: int, phase: str) -> list[str]:
    """What a kill may not do: end otherwise than the signal says, leave a checkpoint that cannot be read."""
    from phnet_monai.networks import read_checkpoint

    found = []
    expected = {"SIGKILL": -signal.SIGKILL, "SIGTERM": 143, "SIGINT": 130}[name]
    code = os.waitstatus_to_exitcode(status)
    # a signal that comes before the command line listens, or after the training is over, ends the process as such
    if code != expected and not (phase in ("start", "end") and code in (-SIGNALS[name], 130)):
        found.append(f"{folder.name}: ended with {code} after {name}, expected {expected}")
    for file in ("last.pt", "previous.pt"):
        if (folder / file).is_file():
            read_checkpoint(folder / file)
    return found


def wait_for(child: int, board: mmap.mmap, phase: str, draws: random.Random) -> None:
    """Until the child has been in `phase` some times and is in it again, and a moment more.

    Progress, not time: on a busy machine runs would end before they are killed.
    """
    visits, moment, inside = draws.randint(0, VISITS[phase]), draws.uniform(0, 0.02), False
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        now = PHASES[board[0]] == phase
        if now and not inside:
            visits -= 1
            if visits < 0:
                break
        inside = now
        time.sleep(0.0005)
    time.sleep(moment)


def kill_and_resume(
    work: Path, *, kills: int, seed: int, method: str, interval: int | None, workers: int
) -> dict[str, Any]:
    """Runs until there were `kills` kills; what happened, and what was lost."""
    from phnet_monai.data import prepare_folder, write_phantoms

    draws = random.Random(seed)
    datalist = prepare_folder(write_phantoms(work / "phantoms", 24, size_range=(40, 72)), work / "data", labeled=6)
    overrides = {**LENGTH, "checkpoints#interval": interval, "num_workers": workers}
    board = mmap.mmap(-1, 1)
    start = time.monotonic()
    _, status = os.waitpid(life(datalist, work / "whole", overrides, method, board), 0)
    whole_seconds = time.monotonic() - start
    if status:
        raise RuntimeError(f"the unbroken run failed: {(work / 'whole.log').read_text(encoding='utf-8')}")
    runs, done, lost = 0, 0, []
    where: Counter[str] = Counter()
    while done < kills:
        folder = work / f"run{runs}"
        while True:
            child = life(datalist, folder, overrides, method, board)
            name = draws.choice(list(SIGNALS)) if done < kills else None
            if name is not None:
                wait_for(child, board, draws.choice(list(PHASES)), draws)
                phase = PHASES[board[0]]
                os.kill(child, SIGNALS[name])
            _, status = os.waitpid(child, 0)
            if os.waitstatus_to_exitcode(status) == 0:  # it was quicker
                break
            if name is None:
                lost.append(f"{folder.name}: a life that was not killed failed, see its log")
                break
            done += 1
            where[f"{name} in {phase}"] += 1
            lost += check_after_kill(folder, name, status, phase)
        runs += 1
        lost += [f"{folder.name}: {line}" for line in compare(work / "whole", folder)]
        print(f"{done} kills, {runs} runs, {len(lost)} differences", file=sys.stderr)
    return {
        "kills": done,
        "runs": runs,
        "unbroken_seconds": round(whole_seconds, 1),
        "method": method,
        "interval": interval,
        "workers": workers,
        "seed": seed,
        "where": dict(sorted(where.items())),
        "lost": lost,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--method", default="phnet")
    parser.add_argument("--interval", type=int, default=3, help="steps between checkpoints; 0: at ends of epochs only")
    parser.add_argument("--workers", type=int, default=0, help="processes that load images, of each loader")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and signals")
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a fork must not inherit a pool of threads
    logging.getLogger("ignite").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        result = kill_and_resume(
            Path(folder),
            kills=arguments.kills,
            seed=arguments.seed,
            method=arguments.method,
            interval=arguments.interval or None,
            workers=arguments.workers,
        )
    print(json.dumps(result, indent=2))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 1 if result["lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
