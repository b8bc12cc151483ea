"""Repeated trainings in one folder, each into the model that is served."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events

from phnet_monai.distributed import Shard
from phnet_monai.handlers import SaveCheckpoints, UpdateModel
from phnet_monai.networks import PHNet, read_checkpoint
from phnet_monai.networks.digests import check_digest, read_digests, record_digests

NETWORK = {"decoder": "plain_unet", "unet_features": [2, 2, 2, 2, 2], "head_channels": 2, "embedding_size": 2}


def checkpoint(path: Path, seed: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    student, teacher = PHNet(**NETWORK), PHNet(**{**NETWORK, "embedding_size": None})
    info = {"network": student.arguments, "input": {"size": 32, "pad_value": 0.33}}
    content = {"student": student.state_dict(), "teacher": teacher.state_dict(), "info": info}
    torch.save(content, path)
    return content


def train_once(path: Path, seed: int, engine: Engine) -> None:
    checkpoint(path, seed)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run" / "tensorboard").mkdir(parents=True)
    (tmp_path / "run" / "mlruns.db").write_text("all runs")
    for name in ("last.pt", "best.pt", "history.jsonl"):
        (tmp_path / "run" / name).write_text(f"first {name}")
    return tmp_path / "run"


def run(handler: UpdateModel, during: Any = None, epochs: int = 1) -> None:
    engine = Engine(lambda engine, batch: None)
    handler.attach(engine)
    if during is not None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, during)
    engine.run([0], max_epochs=epochs)


def test_an_earlier_run_is_set_aside_each_time(folder: Path, tmp_path: Path) -> None:
    served = tmp_path / "models" / "model.pt"
    for seed in (1, 2):
        run(UpdateModel(folder, served), partial(train_once, folder / "last.pt", seed))
    assert (folder / "earlier" / "1" / "best.pt").read_text() == "first best.pt"
    assert sorted(path.name for path in (folder / "earlier" / "1").iterdir()) == [
        *("best.pt", "history.jsonl", "last.pt", "tensorboard")
    ]
    assert [path.name for path in (folder / "earlier" / "2").iterdir()] == ["last.pt"]
    assert sorted(path.name for path in folder.iterdir()) == ["earlier", "last.pt", "mlruns.db"]


@pytest.mark.parametrize("validated", [True, False])
def test_the_best_teacher_is_served_without_projector(validated: bool, folder: Path, tmp_path: Path) -> None:
    served, made = tmp_path / "models" / "model.pt", {}

    def train() -> None:
        made["last"] = checkpoint(folder / "last.pt", 1)
        if validated:
            made["best"] = checkpoint(folder / "best.pt", 2)

    run(UpdateModel(folder, served), train)
    expected = made["best" if validated else "last"]["teacher"]
    weights = read_checkpoint(served)
    assert set(weights) == set(expected)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_the_digest_of_the_served_model_follows(folder: Path, tmp_path: Path) -> None:
    served = tmp_path / "models" / "model.pt"
    served.parent.mkdir()
    served.write_bytes(b"the model that came with the bundle")
    record_digests(served.parent, ["model.pt"])
    before = read_digests(served.parent)
    run(UpdateModel(folder, served), lambda: checkpoint(folder / "last.pt", 1))
    assert read_digests(served.parent) != before
    check_digest(served)


def test_without_a_path_nothing_is_touched(folder: Path) -> None:
    before = sorted(folder.iterdir())
    run(UpdateModel(folder))
    assert sorted(folder.iterdir()) == before


def test_a_training_that_goes_on_keeps_its_files(folder: Path, tmp_path: Path) -> None:
    run(UpdateModel(folder, tmp_path / "model.pt", resume=True), lambda: checkpoint(folder / "best.pt", 1))
    assert (folder / "last.pt").read_text() == "first last.pt"
    assert not (folder / "earlier").exists()


def test_it_stands_before_the_checkpoints(tiny: Any, tmp_path: Path) -> None:
    """With the handler that resumes: a fresh training sets the other aside, one that goes on has all its steps."""
    for resume, epochs, steps in ((False, 1, [1, 2, 3, 4]), (True, 1, []), (False, 2, list(range(1, 9)))):
        trained = tiny.build(max_epochs=epochs)
        seen: list[int] = []
        saving = SaveCheckpoints(
            tmp_path / "run",
            trained.student,
            trained.optimizer,
            teacher=trained.teacher,
            input_size=tiny.SIZE,
            pad_value=0.33,
            method="phnet",
            resume=resume,
        )
        for handler in (UpdateModel(tmp_path / "run", tmp_path / "model.pt", resume=resume), saving):
            handler.attach(trained.trainer)
        trained.trainer.add_event_handler(
            Events.ITERATION_COMPLETED, lambda engine, seen=seen: seen.append(engine.state.iteration)
        )
        trained.trainer.run()
        assert seen == steps
    assert sorted(path.name for path in (tmp_path / "run" / "earlier").iterdir()) == ["1"]


def test_of_several_processes_the_first_moves_and_writes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phnet_monai.handlers.update_model.joined_shard", lambda: Shard(1, 2))
    run(UpdateModel(folder, tmp_path / "model.pt"), lambda: checkpoint(folder / "best.pt", 1))
    assert (folder / "last.pt").read_text() == "first last.pt"
    assert not (tmp_path / "model.pt").exists()
