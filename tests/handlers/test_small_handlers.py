"""Warm start, scores as files, further evaluations, and the progress bar."""

from __future__ import annotations

import csv
import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from phnet_monai.data.loaders import evaluation_loader
from phnet_monai.engines import LesionEvaluator
from phnet_monai.handlers import LoadWeights, Progress, RunEvaluator, WriteScores
from phnet_monai.networks import CheckpointError


def at(iteration: int) -> SimpleNamespace:
    return SimpleNamespace(state=SimpleNamespace(iteration=iteration))


# LoadWeights


def test_a_warm_start_reaches_student_and_teacher(tiny, tmp_path):
    earlier = tiny.build(folder=tmp_path / "earlier", max_epochs=1)
    earlier.trainer.run()
    run = tiny.build(init_seed=5, max_epochs=1)
    seen = {}

    class Look:
        def attach(self, engine):
            from ignite.engine import Events

            engine.add_event_handler(Events.EPOCH_STARTED, self)

        def __call__(self, engine):
            seen.update(student=tiny.weights(run.student), teacher=tiny.weights(run.teacher))

    # in the order of train.json: warm start before the EMA teacher
    warm = LoadWeights(run.student, tmp_path / "earlier" / "last.pt")
    run.trainer = type(run.trainer)(
        "cpu", 1, run.loader, run.student, run.optimizer, teacher=run.teacher, train_handlers=[warm, run.ema, Look()]
    )
    run.trainer.run()
    assert tiny.equal(seen["student"], earlier.student.state_dict())
    own = {name: t for name, t in earlier.student.state_dict().items() if not name.startswith("projector.")}
    assert tiny.equal(seen["teacher"], own)


def test_a_resumed_run_keeps_its_weights(tmp_path):
    source, network = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    torch.save(source.state_dict(), tmp_path / "model.pt")  # a plain state dict
    handler, before = LoadWeights(network, tmp_path / "model.pt"), network.weight.clone()
    handler(at(7))
    assert torch.equal(network.weight, before)
    handler(at(0))
    assert torch.equal(network.weight, source.weight)


def test_which_weights_are_taken(tmp_path):
    student, teacher, network = (torch.nn.Linear(2, 2) for _ in range(3))
    torch.save({"student": student.state_dict(), "teacher": teacher.state_dict()}, tmp_path / "x.pt")
    for which, source in (("student", student), ("teacher", teacher)):
        LoadWeights(network, tmp_path / "x.pt", which)(at(0))
        assert torch.equal(network.weight, source.weight)


def test_without_a_path_nothing_happens():
    network = torch.nn.Linear(2, 2)
    before = network.weight.clone()
    LoadWeights(network)(at(0))
    assert torch.equal(network.weight, before)


def test_a_bad_path_ends_the_run_before_any_work(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.pt: no such checkpoint file"):
        LoadWeights(torch.nn.Linear(2, 2), tmp_path / "gone.pt")
    (tmp_path / "broken.pt").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        LoadWeights(torch.nn.Linear(2, 2), tmp_path / "broken.pt")


def test_an_evaluation_at_another_input_than_the_training_is_refused(tmp_path):
    network = torch.nn.Linear(2, 2)
    info = {"input": {"size": 96, "pad_value": 0.33}}
    torch.save({"student": network.state_dict(), "info": info}, tmp_path / "x.pt")
    torch.save(network.state_dict(), tmp_path / "plain.pt")  # tells nothing
    for path, size, pad_value, message in (
        ("x.pt", 96, 0.33, None),
        ("plain.pt", 160, 0.33, None),
        ("x.pt", 160, 0.33, r"x\.pt: was trained with size 96, this evaluation has 160; set size to 96"),
        ("x.pt", 96, 0.0, r"x\.pt: was trained with pad_value 0.33"),
    ):
        handler = LoadWeights(network, tmp_path / path, "teacher")
        with nullcontext() if message is None else pytest.raises(ValueError, match=message):
            LesionEvaluator("cpu", [[]], network, size=size, pad_value=pad_value, val_handlers=[handler])


# WriteScores


def test_scores_are_written_after_an_evaluation(tiny, tmp_path):
    items = tiny.pictures(3)
    network = tiny.build().teacher
    evaluator = LesionEvaluator(
        "cpu", evaluation_loader(items), network, size=tiny.SIZE, val_handlers=[WriteScores(tmp_path / "scores")]
    )
    evaluator.run()
    with open(tmp_path / "scores" / "per_image.csv", newline="") as file:
        assert [row["case_id"] for row in csv.DictReader(file)] == ["case-0", "case-1", "case-2"]
    summary = json.loads((tmp_path / "scores" / "summary.json").read_text())
    assert summary["images"] == 3
    assert summary["pooled_dice"] == pytest.approx(evaluator.state.metrics["pooled_dice"])


# RunEvaluator


class CountingEvaluator:
    """Stands for an evaluator: notes how often it ran."""

    def __init__(self) -> None:
        self.runs = 0
        self.state = SimpleNamespace(metrics={})

    def run(self) -> None:
        self.runs += 1
        self.state.metrics = {"pooled_dice": self.runs / 10}


@pytest.mark.parametrize(
    ("interval", "expected"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (3, [3, 5]), (5, [5]), (9, [5])]
)
def test_every_few_epochs_and_the_last(tiny, interval, expected):
    evaluator, ran = CountingEvaluator(), []

    class Note:
        def attach(self, engine):
            from ignite.engine import Events

            engine.add_event_handler(Events.EPOCH_COMPLETED, self)

        def __call__(self, engine):
            if evaluator.state.metrics:  # an epoch without evaluation must not show the one before
                ran.append(engine.state.epoch)

    handlers = (RunEvaluator(evaluator, interval=interval), Note())
    tiny.build(max_epochs=5, pretrain_epochs=5, labeled=2, unlabeled=2, handlers=handlers).trainer.run()
    assert ran == expected
    assert evaluator.runs == len(expected)


def test_pseudo_labels_are_scored_during_training(tiny):
    """What it is for: the teacher on images whose masks are hidden from the training."""
    items = tiny.pictures(3, seed=4)
    run = tiny.build(max_epochs=2)
    evaluator = LesionEvaluator("cpu", evaluation_loader(items), run.teacher, size=tiny.SIZE)
    RunEvaluator(evaluator).attach(run.trainer)
    run.trainer.run()
    assert 0 <= evaluator.state.metrics["pooled_dice"] <= 1
    plain = tiny.build(max_epochs=2)
    plain.trainer.run()
    assert tiny.equal(tiny.weights(run.student), tiny.weights(plain.student))  # looking changes nothing


def test_an_evaluator_may_be_left_out(tiny):
    without, plain = tiny.build(max_epochs=1, handlers=(RunEvaluator(None),)), tiny.build(max_epochs=1)
    without.trainer.run()
    plain.trainer.run()
    assert tiny.equal(tiny.weights(without.student), tiny.weights(plain.student))


def test_an_interval_below_one_is_refused():
    with pytest.raises(ValueError, match="RunEvaluator: interval is 0, expected at least 1"):
        RunEvaluator(None, interval=0)


# Progress


def test_the_bar_counts_all_steps_and_shows_the_loss(tiny, capsys):
    run = tiny.build(max_epochs=1, handlers=(Progress(always=True),))
    run.trainer.run()
    written = capsys.readouterr().err
    assert "4/4" in written
    assert f"loss={run.recorder.outputs[-1]['loss']:.3f}" in written


def test_a_log_file_gets_no_bar(tiny, capsys):
    tiny.build(max_epochs=1, handlers=(Progress(),)).trainer.run()
    assert "step/s" not in capsys.readouterr().err
