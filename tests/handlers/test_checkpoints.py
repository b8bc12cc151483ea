"""Checkpoints during a training: best and last, whole or not at all, and resuming."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events

from phnet_monai.handlers import SaveCheckpoints
from phnet_monai.networks import CheckpointError, load_checkpoint, read_checkpoint


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def make(folder, *, score=None, resume=False, seed=0, **arguments) -> tuple[SaveCheckpoints, SimpleNamespace, Engine]:
    """A handler for one linear layer; the engine is at epoch 1. `evaluator.state.metrics` is set by the test."""
    torch.manual_seed(seed)
    student = torch.nn.Linear(2, 2)
    engine = Engine(lambda *_: None)
    engine.state.epoch, engine.state.iteration, engine.state.epoch_length, engine.state.max_epochs = 1, 4, 4, 3
    evaluator = SimpleNamespace(state=SimpleNamespace(metrics={}))
    handler = SaveCheckpoints(
        folder,
        student,
        torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9),
        evaluator=evaluator,
        input_size=32,
        pad_value=0.25,
        method="phnet",
        resume=resume,
        **arguments,
    )
    return handler, evaluator, engine


def save(handler, evaluator, engine, epoch: int, score: float | None) -> None:
    engine.state.epoch = epoch
    evaluator.state.metrics = {} if score is None else {"pooled_dice": score}
    with torch.no_grad():
        handler.student.bias.fill_(epoch)  # tells the epoch
    handler.save(engine)


def epoch_of(path) -> float:
    return read_checkpoint(path)["student"]["bias"][0].item()


def test_best_is_the_highest_score_and_last_the_newest(tmp_path):
    parts = make(tmp_path)
    handler = parts[0]
    seen = []
    for epoch, score in enumerate((0.5, 0.4, None, 0.7, float("nan"), 0.7, 0.6), start=1):
        save(*parts, epoch, score)
        seen.append((epoch_of(tmp_path / "best.pt"), epoch_of(tmp_path / "last.pt")))
    assert seen == [(1, 1), (1, 2), (1, 3), (4, 4), (4, 5), (4, 6), (4, 7)]
    assert (handler.best_score, handler.best_epoch, handler.last_score) == (0.7, 4, 0.6)
    info = read_checkpoint(tmp_path / "best.pt")["info"]
    assert (info["epoch"], info["score"]) == (4, {"name": "pooled_dice", "value": 0.7})
    assert info["method"] == "phnet"
    assert info["input"] == {"size": 32, "pad_value": 0.25}
    assert names(tmp_path) == ["best.pt", "last.pt", "previous.pt"]


def test_an_epoch_without_validation_is_not_taken_for_one(tmp_path):
    handler, evaluator, engine = make(tmp_path)
    evaluator.state.metrics = {"pooled_dice": 0.5}
    handler.save(engine)
    engine.state.epoch = 2
    handler.save(engine)  # no validation in between
    assert handler.last_score is None
    assert handler.best_epoch == 1
    assert read_checkpoint(tmp_path / "last.pt")["info"]["score"]["value"] is None


def test_without_an_evaluator_there_is_no_best(tmp_path):
    handler, _, engine = make(tmp_path)
    handler.evaluator = None
    handler.save(engine)
    assert names(tmp_path) == ["last.pt"]


def test_training_state_is_in_last_only(tmp_path):
    save(*make(tmp_path), 1, 0.5)
    assert "training" in read_checkpoint(tmp_path / "last.pt")
    assert "training" not in read_checkpoint(tmp_path / "best.pt")


@pytest.mark.parametrize("where", ["replace", "save"])
def test_a_failure_while_writing_leaves_the_old_file(tmp_path, monkeypatch, where):
    parts = make(tmp_path)
    save(*parts, 1, 0.5)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}

    def full(content, file):
        if where == "save":
            file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(*((os, "replace") if where == "replace" else (torch, "save")), full)
    with pytest.raises(OSError, match="No space left"):
        save(*parts, 2, 0.6)
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before  # and nothing partial


def test_the_checkpoint_before_the_last_is_kept(tmp_path, monkeypatch):
    parts = make(tmp_path)
    for epoch in (1, 2, 3):
        save(*parts, epoch, None)
    assert (epoch_of(tmp_path / "last.pt"), epoch_of(tmp_path / "previous.pt")) == (3, 2)

    def no_links(*_):
        raise OSError("not supported")

    monkeypatch.setattr(os, "link", no_links)  # some network drives
    save(*parts, 4, None)
    assert (epoch_of(tmp_path / "last.pt"), epoch_of(tmp_path / "previous.pt")) == (4, 3)
    assert names(tmp_path) == ["last.pt", "previous.pt"]


def resumed_from(tmp_path) -> float:
    handler, _, engine = make(tmp_path, resume=True, seed=5)
    handler.start(engine)
    return handler.student.bias[0].item()


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text", "missing"])
def test_a_last_checkpoint_that_cannot_be_read_is_replaced_by_the_one_before(tmp_path, capsys, damage):
    parts = make(tmp_path)
    for epoch in (1, 2, 3):
        save(*parts, epoch, None)
    last = tmp_path / "last.pt"
    whole = last.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(parts[0].student.weight.detach().numpy().tobytes())] ^= 1  # torch reads on without a word
    content = {
        "truncated": whole[:-500],
        "flipped": bytes(flipped),
        "empty": b"",
        "text": b"not a checkpoint",
        "missing": None,
    }[damage]
    last.unlink()  # `previous.pt` may be the same file by another name
    if content is not None:
        last.write_bytes(content)
    assert resumed_from(tmp_path) == 2
    said = capsys.readouterr().err
    assert str(last) in said
    assert f"Going on from {tmp_path / 'previous.pt'}" in said


@pytest.mark.parametrize("lost", ["training", "optimizer", "score", "finite"])
def test_a_last_checkpoint_that_lacks_something_is_replaced_by_the_one_before(tmp_path, capsys, lost):
    parts = make(tmp_path)
    for epoch in (1, 2, 3):
        save(*parts, epoch, None)
    content = read_checkpoint(tmp_path / "last.pt")
    if lost == "training":
        del content["training"]
    elif lost == "finite":
        content["student"]["weight"][0, 0] = float("nan")
    else:
        del content["info" if lost == "score" else "training"][lost]
    torch.save(content, tmp_path / "changed")
    os.replace(tmp_path / "changed", tmp_path / "last.pt")
    assert resumed_from(tmp_path) == 2
    assert "Going on from" in capsys.readouterr().err


def test_the_good_checkpoint_outlives_the_damaged_one(tmp_path, monkeypatch):
    parts = make(tmp_path)
    for epoch in (1, 2):
        save(*parts, epoch, None)
    (tmp_path / "last.pt").unlink()
    (tmp_path / "last.pt").write_bytes(b"PK")
    handler, evaluator, engine = make(tmp_path, resume=True)
    handler.start(engine)
    real = os.replace

    def killed(source, target):
        if str(target).endswith("last.pt"):
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save(handler, evaluator, engine, 2, None)
    monkeypatch.setattr(os, "replace", real)
    assert resumed_from(tmp_path) == 1  # not lost
    for epoch in (2, 3):
        save(handler, evaluator, engine, epoch, None)
        assert epoch_of(tmp_path / "last.pt") == epoch
        assert epoch_of(tmp_path / "previous.pt") == epoch - 1


def test_another_network_is_refused_with_a_reason(tmp_path):
    save(*make(tmp_path), 1, None)
    handler, _, engine = make(tmp_path, resume=True)
    handler.student = torch.nn.Linear(2, 3)
    with pytest.raises(CheckpointError, match=r"last\.pt: does not fit this training .*size mismatch"):
        handler.start(engine)


def test_two_unreadable_checkpoints_are_an_error(tmp_path):
    save(*make(tmp_path), 1, None)
    for name in ("last.pt", "previous.pt"):
        (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=r"neither checkpoint can be read: .*last\.pt.*previous\.pt"):
        make(tmp_path, resume=True)[0].start(make(tmp_path)[2])


def test_what_a_killed_write_left_is_removed(tmp_path):
    save(*make(tmp_path), 1, None)
    (tmp_path / f".{'0' * 32}.part").write_bytes(b"half")
    assert resumed_from(tmp_path) == 1
    assert names(tmp_path) == ["last.pt"]


def test_interval(tmp_path):
    with pytest.raises(ValueError, match="interval is 0, expected at least 1"):
        make(tmp_path, interval=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("which", ["student", "teacher"])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, bad, which):
    teacher = torch.nn.Linear(2, 2)
    handler, evaluator, engine = make(tmp_path, teacher=teacher)
    save(handler, evaluator, engine, 1, 0.5)
    before = (tmp_path / "last.pt").read_bytes()
    with torch.no_grad():
        (handler.student if which == "student" else teacher).weight[0, 0] = bad
    told = rf"epoch 2: weights are not finite \({which}\.weight\); .*last\.pt was left as it was"
    with pytest.raises(FloatingPointError, match=told):
        save(handler, evaluator, engine, 2, 0.9)
    assert (tmp_path / "last.pt").read_bytes() == before
    assert epoch_of(tmp_path / "best.pt") == 1


def test_a_folder_of_an_earlier_run_is_refused(tmp_path):
    save(*make(tmp_path), 1, 0.5)
    handler, _, engine = make(tmp_path)
    with pytest.raises(FileExistsError, match=r"last\.pt: a run was saved here before\. Use resume, another folder"):
        handler.start(engine)
    (tmp_path / "last.pt").rename(tmp_path / "previous.pt")
    with pytest.raises(FileExistsError, match=r"previous\.pt: a run was saved here before\. .*remove last\.pt and"):
        handler.start(engine)
    make(tmp_path / "other" / "folder")[0].start(engine)  # is made
    make(tmp_path / "other" / "folder", resume=True)[0].start(engine)  # nothing to resume: a fresh run


def test_resuming_restores_everything(tmp_path):
    scheduled = {}

    def with_schedule(seed, resume):
        handler, evaluator, engine = make(tmp_path, seed=seed, resume=resume)
        handler.scheduler = torch.optim.lr_scheduler.PolynomialLR(handler.optimizer, total_iters=12, power=0.9)
        counter = SimpleNamespace(value=0)
        counter.state_dict = lambda: {"value": counter.value}
        counter.load_state_dict = lambda state: setattr(counter, "value", state["value"])
        handler.handlers = {"ema": counter}
        scheduled[seed] = counter
        return handler, evaluator, engine

    first, evaluator, engine = with_schedule(0, False)
    for _ in range(4):
        first.student(torch.ones(3, 2)).square().sum().backward()
        first.optimizer.step()
        first.scheduler.step()
    scheduled[0].value = 17
    save(first, evaluator, engine, 1, 0.5)

    second, _, fresh = with_schedule(1, True)
    fresh.state.epoch = fresh.state.iteration = 0
    second.start(fresh)
    assert (fresh.state.epoch, fresh.state.iteration) == (1, 4)
    assert (second.best_score, second.best_epoch) == (0.5, 1)
    assert scheduled[1].value == 17
    assert torch.equal(second.student.weight, first.student.weight)
    for handler in (first, second):  # momentum and rate too: the next step is the same
        handler.optimizer.zero_grad()
        handler.student(torch.ones(3, 2)).square().sum().backward()
        handler.optimizer.step()
        handler.scheduler.step()
    assert torch.equal(second.student.weight, first.student.weight)
    assert second.scheduler.get_last_lr() == first.scheduler.get_last_lr()


@pytest.mark.parametrize(("name", "value"), [("max_epochs", 5), ("epoch_length", 9)])
def test_another_schedule_is_refused(tmp_path, name, value):
    save(*make(tmp_path), 1, 0.5)
    handler, _, engine = make(tmp_path, resume=True)
    setattr(engine.state, name, value)
    with pytest.raises(CheckpointError, match=rf"was trained with {name} = \d, now it is {value}"):
        handler.start(engine)


def test_another_method_is_refused(tmp_path):
    save(*make(tmp_path), 1, 0.5)
    for arguments in ({"teacher": torch.nn.Linear(2, 2)}, {"handlers": {"ema": torch.nn.Linear(2, 2)}}):
        handler, _, engine = make(tmp_path, resume=True, **arguments)
        with pytest.raises(CheckpointError, match="belongs to the method 'phnet' with other handlers"):
            handler.start(engine)


def test_whose_scores_are_shown():
    student, teacher = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)

    def evaluated(network, teacher):
        evaluator = None if network is None else SimpleNamespace(network=network)
        values = {"input_size": 8, "pad_value": 0.0, "method": "x", "teacher": teacher, "evaluator": evaluator}
        return SaveCheckpoints("unused", student, optimizer, **values).evaluated

    assert evaluated(teacher, teacher) == "teacher"
    assert evaluated(student, teacher) == "student"  # the recipe of BCP's authors
    assert evaluated(student, None) == "student"
    assert evaluated(None, teacher) == "teacher"
    assert evaluated(None, None) == "student"


def test_best_cannot_be_resumed(tmp_path):
    save(*make(tmp_path), 1, 0.5)
    os.replace(tmp_path / "best.pt", tmp_path / "last.pt")
    handler, _, engine = make(tmp_path, resume=True)
    with pytest.raises(CheckpointError, match=r"has no training state; only a `last.pt`"):
        handler.start(engine)


def test_disabled_handlers_are_dropped(tmp_path):
    parts = make(tmp_path, handlers={"hpc": None})
    save(*parts, 1, 0.5)
    assert read_checkpoint(tmp_path / "last.pt")["training"]["handlers"] == {}


def test_in_a_training(tiny, tmp_path):
    """What a training leaves can be loaded for inference, and holds the teacher's and the student's weights."""
    run = tiny.build(folder=tmp_path, validate=True)
    scores = []
    run.evaluator.add_event_handler(Events.COMPLETED, lambda e: scores.append(e.state.metrics["pooled_dice"]))
    run.trainer.run()
    assert names(tmp_path) == ["best.pt", "last.pt", "previous.pt"]
    last = read_checkpoint(tmp_path / "last.pt")
    assert tiny.equal(last["student"], run.student.state_dict())
    assert tiny.equal(last["teacher"], run.teacher.state_dict())
    assert len(scores) == 3
    assert run.checkpoints.best_score == max(scores)
    assert run.checkpoints.best_epoch == scores.index(max(scores)) + 1
    network, info = load_checkpoint(tmp_path / "last.pt")
    image = torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(image), run.teacher(image))  # other memory format
    assert info["input"] == {"size": 32, "pad_value": 0.33}
    assert last["training"]["iteration"] == 12
