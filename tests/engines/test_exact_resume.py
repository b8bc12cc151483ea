"""A training that is stopped at any point, and resumed, ends as an unbroken one: bit for bit, log and best included."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents

from phnet_monai.handlers.checkpoints import SaveCheckpoints
from phnet_monai.networks import read_checkpoint

STEPS, EPOCHS = 4, 3


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours runs after it but what a dying interpreter runs."""


def killed() -> None:
    raise Killed


def build(tiny: Any, folder: Path, **arguments: Any) -> SimpleNamespace:
    arguments = {"validate": True, "log": {"panel_epochs": 1}, "network": {"dropout": 0.3}, **arguments}
    return tiny.build(folder=folder, max_epochs=EPOCHS, **arguments)


def stop_at(event: Any, number: int, on: str = "trainer") -> dict[str, Any]:
    return {"event": event, "number": number, "on": on}


POINTS = {
    "before the first step": stop_at(Events.GET_BATCH_STARTED, 1),
    "in a labeled-only step": stop_at(IterationEvents.FORWARD_COMPLETED, 2),
    "in a step, weights half new": stop_at(IterationEvents.MODEL_COMPLETED, STEPS + 2),
    "after a step": stop_at(Events.ITERATION_COMPLETED, STEPS + 3),
    "waiting for a batch": stop_at(Events.GET_BATCH_STARTED, STEPS + 3),
    "in the last step of an epoch": stop_at(IterationEvents.LOSS_COMPLETED, 2 * STEPS),
    "in a validation": stop_at(Events.ITERATION_STARTED, 2, "evaluator"),
    "at the end of a validation": stop_at(Events.COMPLETED, 2, "evaluator"),
    "in the last validation": stop_at(Events.ITERATION_STARTED, EPOCHS, "evaluator"),
    "at the start of an epoch": stop_at(Events.EPOCH_STARTED, 3),
    "in the last step": stop_at(IterationEvents.BACKWARD_COMPLETED, EPOCHS * STEPS),
}


@pytest.fixture(scope="module")
def whole(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("whole")
    run = build(tiny, folder)
    run.trainer.run()
    run.folder = folder
    return run


def resumed(tiny: Any, folder: Path, **arguments: Any) -> SimpleNamespace:
    """The run that goes on; where there is something to go on from, its own start must not matter."""
    start = {"init_seed": 99} if (folder / "last.pt").is_file() else {}
    run = build(tiny, folder, resume=True, **start, **arguments)
    run.trainer.run()
    return run


def same_end(tiny: Any, whole: SimpleNamespace, folder: Path, run: SimpleNamespace) -> None:
    """Weights, optimiser, schedule, bank, best checkpoint, scores and log are those of the unbroken run."""
    for name in ("student", "teacher"):
        assert tiny.equal(tiny.weights(getattr(whole, name)), tiny.weights(getattr(run, name))), name
    for name in ("best_score", "best_epoch", "last_score"):
        assert getattr(whole.checkpoints, name) == getattr(run.checkpoints, name)
    for file in ("last.pt", "best.pt"):
        same_content(read_checkpoint(whole.folder / file), read_checkpoint(folder / file), file)
    rows = [
        [json.loads(line) for line in (f / "history.jsonl").read_text().splitlines()] for f in (whole.folder, folder)
    ]
    assert rows[0] == rows[1]
    assert not list(folder.glob(".*.part"))


def same_content(first: Any, second: Any, where: str) -> None:
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for name in first.keys() - {"random"}:  # numbers to come: every epoch begins with new ones
            same_content(first[name], second[name], f"{where}.{name}")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), where
        for number, pair in enumerate(zip(first, second, strict=True)):
            same_content(*pair, f"{where}.{number}")
    else:
        assert first == second, where


def stopped(
    tiny: Any, folder: Path, point: dict[str, Any], do: Any, error: type[BaseException], **arguments: Any
) -> None:
    """A run that ends at `point`."""
    run = build(tiny, folder, **arguments)
    engine = run.trainer if point["on"] == "trainer" else run.evaluator
    seen = []

    def handler() -> None:
        seen.append(1)
        if len(seen) == point["number"]:
            do()

    engine.add_event_handler(point["event"], handler)
    with pytest.raises(error):
        run.trainer.run()
    assert len(seen) >= point["number"]


class Ended(BaseException):
    """What the process did with SIGTERM before the training began."""


@pytest.fixture
def terminated(monkeypatch: pytest.MonkeyPatch) -> Any:
    def end(*_: Any) -> None:
        raise Ended

    before = signal.signal(signal.SIGTERM, end)
    yield end
    assert signal.getsignal(signal.SIGTERM) is end  # the training gave it back
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("point", POINTS)
def test_sigterm_saves_and_the_run_goes_on(
    tiny: Any, whole: SimpleNamespace, tmp_path: Path, terminated: Any, point: str, capfd: pytest.CaptureFixture[str]
) -> None:
    stopped(tiny, tmp_path, POINTS[point], lambda: signal.raise_signal(signal.SIGTERM), Ended)
    if point != "before the first step":
        assert f"saved {tmp_path / 'last.pt'} after step" in capfd.readouterr().err
    run = resumed(tiny, tmp_path)
    same_end(tiny, whole, tmp_path, run)
    done = EPOCHS * STEPS - len(run.recorder.outputs)
    number, on = POINTS[point]["number"], POINTS[point]["on"]
    if on == "evaluator":  # no step is repeated
        assert done == number * STEPS
    elif "step" in point:
        assert done == number * ("before" not in point)


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("interval", [None, 2, 3])
def test_a_killed_run_goes_on_from_its_last_checkpoint(
    tiny: Any, whole: SimpleNamespace, tmp_path: Path, point: str, interval: int | None
) -> None:
    stopped(tiny, tmp_path, POINTS[point], killed, Killed, interval=interval)
    run = resumed(tiny, tmp_path, interval=interval)
    same_end(tiny, whole, tmp_path, run)


def test_a_kill_while_a_checkpoint_is_written(
    tiny: Any, whole: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write of the run is the one that is cut, once; the run is resumed after every cut."""
    original, save = torch.save, {"count": 0, "cut": 1}

    def cut(content: Any, stream: Any) -> None:
        save["count"] += 1
        if save["count"] == save["cut"]:
            stream.write(b"half of it")
            raise Killed
        original(content, stream)

    monkeypatch.setattr(torch, "save", cut)
    cuts = 0
    for attempt in range(40):
        run = build(tiny, tmp_path, resume=True, interval=3)
        save["count"], save["cut"] = 0, 2 + attempt % 3  # not the first one, or nothing would go on
        try:
            run.trainer.run()
        except Killed:
            cuts += 1
        else:
            break
    assert cuts >= 3
    same_end(tiny, whole, tmp_path, run)


def test_a_second_stop_soon_after_a_resume(tiny: Any, whole: SimpleNamespace, tmp_path: Path, terminated: Any) -> None:
    """Many short lives, one or two steps each."""
    for life in range(60):
        run = build(tiny, tmp_path, resume=True)
        count = 1 + life % 2
        run.trainer.add_event_handler(
            Events.ITERATION_COMPLETED, lambda _, c=[count]: c.append(1) or (len(c) > c[0] and signal.raise_signal(15))
        )
        try:
            run.trainer.run()
        except Ended:
            continue
        break
    assert 6 <= life < 20
    same_end(tiny, whole, tmp_path, run)


def test_loader_processes_change_nothing(tiny: Any, whole: SimpleNamespace, tmp_path: Path, terminated: Any) -> None:
    loader = {"num_workers": 2}
    point = POINTS["in a step, weights half new"]
    stopped(tiny, tmp_path, point, lambda: signal.raise_signal(signal.SIGTERM), Ended, loader=loader)
    run = resumed(tiny, tmp_path, loader=loader)
    same_end(tiny, whole, tmp_path, run)


def test_ctrl_c_saves_too(tiny: Any, whole: SimpleNamespace, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    point = POINTS["in a labeled-only step"]
    stopped(tiny, tmp_path, point, lambda: signal.raise_signal(signal.SIGINT), KeyboardInterrupt)
    assert read_checkpoint(tmp_path / "last.pt")["training"]["iteration"] == point["number"]
    run = resumed(tiny, tmp_path)
    same_end(tiny, whole, tmp_path, run)


def test_weights_that_are_not_finite_are_not_saved_at_a_signal(tiny: Any, tmp_path: Path, terminated: Any) -> None:
    def spoil_and_stop() -> None:
        with torch.no_grad():
            next(run.student.parameters()).fill_(torch.nan)
        signal.raise_signal(signal.SIGTERM)

    run = build(tiny, tmp_path)
    good: list[bytes] = []
    run.trainer.add_event_handler(
        Events.EPOCH_COMPLETED(once=1), lambda: good.append((tmp_path / "last.pt").read_bytes())
    )
    run.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=STEPS + 1), spoil_and_stop)
    with pytest.raises(FloatingPointError, match="weights are not finite"):
        run.trainer.run()
    assert (tmp_path / "last.pt").read_bytes() == good[0]


def test_where_random_numbers_go_on_matters(
    tiny: Any, whole: SimpleNamespace, tmp_path: Path, terminated: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This file would not pass if the state of the generators were not restored: dropout draws in every step."""
    stopped(tiny, tmp_path, POINTS["after a step"], lambda: signal.raise_signal(signal.SIGTERM), Ended)
    monkeypatch.setattr(SaveCheckpoints, "_go_on_drawing", lambda self, engine: None)
    run = resumed(tiny, tmp_path)
    assert not tiny.equal(tiny.weights(whole.student), tiny.weights(run.student))
