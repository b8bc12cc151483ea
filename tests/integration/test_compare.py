"""`phnet compare` on phantoms: shared starts, files of a cell, going on after a kill, growing, failing cells."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from phnet_monai.comparison import Matrix, MatrixError, compare, read_comparison
from phnet_monai.comparison.matrix import Row, rows_of_methods
from phnet_monai.comparison.plan import Plan
from phnet_monai.data import load_datalist

FEW = {"max_epochs": 2, "pretrain_epochs": 0, "epoch_length": 2, "batch_size": 2}
MATRIX = Matrix(
    rows_of_methods(("sup_only_ema", "phnet")),
    profiles=("smoke",),
    labeled=("1/2",),
    seeds=(0,),
    overrides={**FEW, "device": "cpu"},
    warm_start={"max_epochs": 1, "pretrain_epochs": 1, "epoch_length": 2, "batch_size": 2},
    dataset="phantoms",
)
SPLIT = "1-2__seed0"
CELLS = [f"{row.name}__smoke__{SPLIT}" for row in MATRIX.rows]


def run(matrix: Matrix, phantoms: Path, out: Path, **options: Any) -> Any:
    values = {"jobs": 0, "threads": 1, "progress": False, "device": "cpu", **options}
    return compare(matrix, phantoms, out, layout="folder", **values)


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def finished(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("comparison") / "out"
    outcome = run(MATRIX, phantoms, out, jobs=2)  # the only one with processes: each takes seconds to import torch
    assert outcome.errors == {}
    assert [name for name in outcome.done if name in CELLS]
    return out


def test_every_cell_leaves_its_scores_history_and_tables(finished: Path) -> None:
    assert sorted(path.stem for path in (finished / "results").glob("*.json")) == sorted(CELLS)
    cell = read(finished / "results" / f"{CELLS[1]}.json")
    assert (cell["row"], cell["label"], cell["method"], cell["profile"]) == ("phnet", "PH-Net", "phnet", "smoke")
    assert (cell["labeled"], cell["seed"], cell["fold"], cell["steps"]) == ("1/2", 0, None, 4)
    datalist = load_datalist(finished / "work" / "data" / SPLIT / "datalist.json")
    assert cell["counts"] == {part: len(datalist[part]) for part in ("labeled", "unlabeled", "validation", "test")}
    assert cell["seconds"] > 0
    assert cell["evaluated"] == "teacher"
    assert [row["epoch"] for row in cell["history"]] == [1, 2]
    for row in cell["history"]:
        assert 0 <= row["validation"]["pooled_dice"] <= 1
        assert 0 <= row["unlabeled"]["pooled_dice"] <= 1  # pseudo-labels against the hidden masks
    for part in ("validation", "test"):
        assert {"last", "best"} == set(cell["scores"][part])
        assert cell["scores"][part]["last"]["images"] == cell["counts"][part]
        rows = (finished / "results" / f"{CELLS[1]}__{part}.csv").read_text(encoding="utf-8").splitlines()
        assert len(rows) == cell["counts"][part] + 1
    assert read_comparison(finished) == MATRIX


def test_methods_share_one_labeled_only_start(finished: Path) -> None:
    starts = list((finished / "work" / "starts").iterdir())
    assert len(starts) == 1
    start = torch.load(starts[0] / "last.pt", weights_only=True)
    assert start["info"]["method"] == "warm_start"
    for name in CELLS:
        assert read(finished / "results" / f"{name}.json")["warm_start"] == {"name": starts[0].name, "steps": 2}
        config = read(finished / "work" / "cells" / name / "config.json")
        assert config["init"] == str(starts[0] / "last.pt")


def test_finished_cells_are_kept_and_a_half_finished_one_is_resumed(
    finished: Path, phantoms: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    half = out / "work" / "cells" / CELLS[1]
    (out / "results" / f"{CELLS[1]}.json").unlink()
    # as a kill in the second epoch leaves it: the checkpoint of the first, no run.json
    whole = torch.load(half / "last.pt", weights_only=True)
    shutil.rmtree(half)
    (out / "results" / f"{CELLS[1]}__test.csv").unlink()
    stop = replace(MATRIX, rows=MATRIX.rows[1:])
    plan = Plan(stop, phantoms, "folder", out, out / "work", "cpu")
    _train_one_epoch(plan.tasks[CELLS[1]].arguments)
    assert not (half / "run.json").exists()
    kept = (out / "results" / f"{CELLS[0]}.json").stat().st_mtime_ns

    outcome = run(MATRIX, phantoms, out)
    assert outcome.errors == {}
    assert (out / "results" / f"{CELLS[0]}.json").stat().st_mtime_ns == kept
    again = torch.load(half / "last.pt", weights_only=True)
    config = read(half / "config.json")
    assert config["init"].startswith(str(out))
    for which in ("student", "teacher"):
        assert all(torch.equal(tensor, again[which][name]) for name, tensor in whole[which].items())
    first, second = (read(folder / "results" / f"{CELLS[1]}.json") for folder in (finished, out))
    assert second["seconds"] is None  # a time over two processes would mean nothing
    assert first["history"] == second["history"]
    assert first["scores"] == second["scores"]


class _Stop(Exception):
    pass


def _train_one_epoch(arguments: dict[str, Any]) -> None:
    """The cell's own training, ended at the start of its second epoch."""
    from phnet_monai.engines import SemiSupervisedTrainer
    from phnet_monai.engines.run import train_run

    original = SemiSupervisedTrainer._start_epoch

    def stop(self: SemiSupervisedTrainer) -> None:
        if self.state.epoch == 2:
            raise _Stop
        original(self)

    patch = pytest.MonkeyPatch()
    patch.setattr(SemiSupervisedTrainer, "_start_epoch", stop)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with pytest.raises(_Stop):
            train_run(arguments["datalist"], arguments["folder"], resume=True, **arguments["arguments"])
    finally:
        patch.undo()
        torch.set_num_threads(threads)


def test_a_comparison_grows_by_a_row_without_doing_anything_again(
    finished: Path, phantoms: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    before = {path: path.stat().st_mtime_ns for path in (out / "results").iterdir()}
    outcome = run(replace(MATRIX, rows=rows_of_methods(("cutmix",)), reference="cutmix"), phantoms, out)
    assert outcome.errors == {}
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (out / "results" / f"cutmix__smoke__{SPLIT}.json").is_file()
    assert [row.name for row in read_comparison(out).rows] == ["sup_only_ema", "phnet", "cutmix"]
    changed = replace(MATRIX.rows[1], overrides={"apa#threshold": 0.5})
    with pytest.raises(MatrixError, match="row 'phnet' was begun with other settings"):
        run(replace(MATRIX, rows=(changed,)), phantoms, out)


def test_a_failing_cell_leaves_the_others_alone(phantoms: Path, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    rows = (
        Row("diverging", "", "sup_only_ema", overrides={"rate": 1e30}),
        Row("cutmix", "", "cutmix"),
    )
    outcome = run(replace(MATRIX, rows=rows, reference="cutmix"), phantoms, out)
    assert list(outcome.errors) == [f"diverging__smoke__{SPLIT}"]
    assert "not finite" in next(iter(outcome.errors.values()))
    assert (out / "results" / f"cutmix__smoke__{SPLIT}.json").is_file()
    assert not (out / "results" / f"diverging__smoke__{SPLIT}.json").exists()


# --- the plan


def plan(matrix: Matrix, tmp_path: Path) -> dict[str, Any]:
    return Plan(matrix, tmp_path, "busi", tmp_path / "out", tmp_path / "work").tasks


def test_another_network_has_a_start_of_its_own(tmp_path: Path) -> None:
    unet = Row("unet", "U-Net", "phnet", overrides={"network_def#decoder": "unet", "network_def#embedding_size": 32})
    tasks = plan(Matrix((*rows_of_methods(("phnet", "sup_only_ema")), unet), seeds=(0,)), tmp_path)
    starts = {name: task for name, task in tasks.items() if name.startswith("warm_start")}
    assert len(starts) == 2
    own = [task for task in starts.values() if task.arguments["arguments"]["overrides"]]
    assert [task.arguments["arguments"]["overrides"] for task in own] == [{"network_def#decoder": "unet"}]
    assert own[0].name in tasks["unet__cpu__1-8__seed0"].needs
    assert tasks["phnet__cpu__1-8__seed0"].needs == tasks["sup_only_ema__cpu__1-8__seed0"].needs


def test_methods_get_the_further_starts_that_they_ask_for(tmp_path: Path) -> None:
    tasks = plan(Matrix(rows_of_methods(("cps", "pdf_unet_noden", "bcp")), seeds=(2,)), tmp_path)

    def start_of(method: str, key: str) -> tuple[str, int]:
        arguments = tasks[f"{method}__cpu__1-8__seed2"].arguments["arguments"]
        path = arguments["init"] if key == "init" else arguments["overrides"][key]
        task = next(task for task in tasks.values() if task.folder and path == str(task.folder / "last.pt"))
        assert task.name in tasks[f"{method}__cpu__1-8__seed2"].needs
        return task.arguments["arguments"]["method"], task.arguments["arguments"]["seed"]

    assert start_of("cps", "init") == ("warm_start", 2)
    assert start_of("cps", "second_init") == ("warm_start", 1002)  # the second student: same images, other weights
    assert start_of("pdf_unet_noden", "labeler_init") == ("warm_start", 2)
    assert start_of("pdf_unet_noden", "init") == ("pdf_unet_noden_warm_start", 2)
    assert start_of("bcp", "init") == ("bcp_warm_start", 2)


def test_a_profile_that_pretrains_itself_has_no_shared_start(tmp_path: Path) -> None:
    tasks = plan(Matrix(rows_of_methods(("phnet",)), profiles=("paper",), seeds=(0,)), tmp_path)
    assert list(tasks) == ["data__1-8__seed0", "phnet__paper__1-8__seed0"]
    assert tasks["phnet__paper__1-8__seed0"].arguments["arguments"]["init"] is None


def test_folds_have_datalists_of_their_own(tmp_path: Path) -> None:
    tasks = plan(Matrix(rows_of_methods(("phnet",)), seeds=(3,), folds=2), tmp_path)
    lists = [task.arguments for name, task in tasks.items() if name.startswith("data__")]
    assert [(entry["fold"], entry["folds"], entry["seed"]) for entry in lists] == [(1, 2, 3), (2, 2, 3)]
