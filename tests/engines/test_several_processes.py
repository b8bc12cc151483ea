"""Two processes on the CPU train one student (gloo): the mathematics of one process with twice the batch."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from phnet_monai.networks import CheckpointError

SCRIPT = Path(__file__).parents[1] / "reference" / "two_processes.py"
STEPS, EPOCHS = 4, 3


def torchrun(**tasks: Path) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for folder in tasks.values():
        folder.mkdir(exist_ok=True)
    words = [f"{task}={folder}" for task, folder in tasks.items()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*launcher, str(SCRIPT), *words], capture_output=True, text=True, check=False, env=environment
    )


def kept(folder: Path) -> list[dict[str, Any]]:
    """What each process left at the end of a training."""
    return [torch.load(folder / f"end_{rank}.pt", weights_only=False) for rank in range(2)]


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Trainings that end well, in one go."""
    top = tmp_path_factory.mktemp("processes")
    tasks = {name: top / name for name in ("gradients", "whole", "not_finite")}
    done = torchrun(**tasks)
    assert done.returncode == 0, done.stderr
    return tasks


@pytest.mark.slow
def test_two_halves_of_a_batch_give_the_gradients_of_the_whole(folders: dict[str, Path], tmp_path: Path) -> None:
    """BN in eval mode. Images of different size have different numbers of valid pixels: a mean of means differs."""
    runpy.run_path(str(SCRIPT))["gradients"](tmp_path)
    files = (tmp_path / "1_0.pt", folders["gradients"] / "2_0.pt", folders["gradients"] / "2_1.pt")
    alone, *halves = (torch.load(file, weights_only=False) for file in files)
    assert len(alone["steps"]) == 2
    for number, step in enumerate(alone["steps"]):
        parts = [half["steps"][number] for half in halves]
        assert torch.equal(torch.cat([part["images"] for part in parts]), step["images"])
        assert set(step["loss"]) == ({"labeled"} if number == 0 else {"labeled", "unlabeled"})
        for name, value in step["loss"].items():
            torch.testing.assert_close(sum(part["loss"][name] for part in parts) / 2, value, rtol=1e-5, atol=1e-7)
        for part in parts:
            for name, gradient in step["gradients"].items():
                torch.testing.assert_close(part["gradients"][name], gradient, rtol=1e-4, atol=1e-6)
    assert equal(halves[0]["student"], halves[1]["student"])
    for which in ("student", "teacher"):
        for name, tensor in alone[which].items():
            torch.testing.assert_close(halves[0][which][name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_networks_scores_and_best_are_the_same_in_all_processes(folders: dict[str, Path]) -> None:
    first, second = kept(folders["whole"])
    for which in ("student", "teacher"):
        assert equal(first[which], second[which]), which
    assert first["scores"] == second["scores"]
    assert [row["case_id"] for row in json.loads(first["scores"])] == ["case-0", "case-1", "case-2"]  # all, in order
    assert first["best"] == second["best"]
    assert not equal(first["bank"], second["bank"])  # of own images
    assert first["outputs"] != second["outputs"]


@pytest.mark.slow
def test_the_first_process_writes_for_all(folders: dict[str, Path]) -> None:
    folder = folders["whole"] / "run"
    names = ["best.pt", "history.jsonl", "last.pt", "previous.pt", "tensorboard"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert len(list((folder / "tensorboard").iterdir())) == 1
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    both = [output["loss"] for end in kept(folders["whole"]) for output in end["outputs"][:STEPS]]
    assert rows[0]["train"]["loss"] == pytest.approx(sum(both) / len(both))


@pytest.mark.slow
def test_a_step_that_one_cannot_take_is_skipped_by_both(folders: dict[str, Path]) -> None:
    first, second = kept(folders["not_finite"])
    assert [output["skipped"] for output in first["outputs"]] == [float(n == STEPS) for n in range(EPOCHS * STEPS)]
    assert equal(first["student"], second["student"])


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Trainings that were cut in the sixth step."""
    top = tmp_path_factory.mktemp("cut")
    tasks = {name: top / name for name in ("one_hears_a_signal", "one_dies")}
    for name, folder in tasks.items():
        assert torchrun(**{name: folder}).returncode != 0  # torchrun ends the other one
    return tasks


@pytest.fixture(scope="module")
def places(cut: dict[str, Path]) -> dict[str, tuple[int, bool]]:
    """Where they stopped; after this they have gone on to the end."""
    states = {name: torch.load(folder / "run" / "last.pt", weights_only=True) for name, folder in cut.items()}
    done = torchrun(resumed=cut["one_dies"], resumed_too=cut["one_hears_a_signal"])
    assert done.returncode == 0, done.stderr
    return {name: (s["training"]["iteration"], s["training"]["completed"]) for name, s in states.items()}


@pytest.mark.slow
@pytest.mark.parametrize(("task", "place"), [("one_hears_a_signal", (STEPS + 2, False)), ("one_dies", (STEPS, True))])
def test_a_run_that_was_cut_goes_on_and_ends_as_an_unbroken_one(
    task: str, place: tuple[int, bool], places: dict[str, Any], cut: dict[str, Path], folders: dict[str, Path]
) -> None:
    assert places[task] == place
    ends = kept(cut[task])
    assert ends[0]["rows"] == [EPOCHS * STEPS - place[0]] * 2
    for end, expected in zip(ends, kept(folders["whole"]), strict=True):
        for which in ("student", "teacher", "bank"):
            assert equal(end[which], expected[which]), which
        assert (end["scores"], end["best"]) == (expected["scores"], expected["best"])
    rows = [(folder / "run" / "history.jsonl").read_text().splitlines() for folder in (folders["whole"], cut[task])]
    assert [json.loads(line)["validation"] for line in rows[0]] == [json.loads(line)["validation"] for line in rows[1]]
    for one, other in zip(*rows, strict=True):  # sums over two processes are added in another order after a stop
        assert json.loads(one)["train"] == pytest.approx(json.loads(other)["train"])


@pytest.mark.slow
def test_as_many_processes_must_resume(folders: dict[str, Path]) -> None:
    with pytest.raises(CheckpointError, match="was trained by 2 processes, now there are 1; resume with as many"):
        runpy.run_path(str(SCRIPT))["resumed"](folders["whole"])
