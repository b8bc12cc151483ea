"""Which trainings a matrix becomes: datalists, labeled-only starts and cells, and what they need of one another."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phnet_monai.comparison.matrix import Matrix, MatrixError, Row, row_config, rows_of_methods
from phnet_monai.comparison.plan import Plan
from phnet_monai.engines.run import compose, native_methods, training_overlays
from phnet_monai.files import write_json
from phnet_monai.shipped import bundle_folder
from phnet_monai.tasks import Task

METHODS = sorted(
    path.stem for path in (bundle_folder() / "configs" / "methods").glob("*.json") if "warm_start" not in path.stem
)
NATIVE = native_methods()
SPLIT = "cpu__1-8__seed0"
Tasks = dict[str, Task]
MakePlan = Callable[..., Tasks]


@pytest.fixture
def plan(tmp_path: Path) -> MakePlan:
    """`plan("phnet", Row(...), **matrix)`: the tasks, by name."""

    def make(*rows: str | Row, **values: Any) -> Tasks:
        made = tuple(row if isinstance(row, Row) else rows_of_methods((row,))[0] for row in rows)
        matrix = Matrix(made, **{"seeds": (0,), **values})
        return Plan(matrix, tmp_path / "data", "busi", tmp_path / "out", tmp_path / "work").tasks

    return make


def starts(tasks: Tasks) -> list[str]:
    return [name for name, task in tasks.items() if task.function.endswith(":train")]


def training(tasks: Tasks, name: str) -> dict[str, Any]:
    """Arguments of `train_run`."""
    return tasks[name].arguments["arguments"]


def start_of(tasks: Tasks, cell: str, key: str = "init") -> str | None:
    """Name of the start whose checkpoint a cell takes for `init`, `second_init` or `labeler_init`."""
    arguments = training(tasks, cell)
    path = arguments["init"] if key == "init" else arguments["overrides"].get(key)
    if path is None:
        return None
    (found,) = (name for name, task in tasks.items() if task.folder and path == str(task.folder / "last.pt"))
    assert found in tasks[cell].needs
    return found


def test_a_cell_needs_its_datalist_and_its_start(plan: MakePlan) -> None:
    tasks = plan("phnet")
    assert list(tasks) == ["data__1-8__seed0", f"warm_start__{SPLIT}", f"phnet__{SPLIT}"]
    assert tasks[f"phnet__{SPLIT}"].needs == {"data__1-8__seed0", f"warm_start__{SPLIT}"}
    assert tasks[f"warm_start__{SPLIT}"].needs == {"data__1-8__seed0"}
    assert [tasks[name].steps for name in tasks] == [0, 600, 600]


def test_starts_are_shared_within_a_fraction_seed_profile_and_fold_only(plan: MakePlan) -> None:
    tasks = plan("phnet", "sup_only_ema", "cutmix", seeds=(0, 1), labeled=("1/8", "1/4"), folds=2)
    assert starts(tasks) == [
        f"warm_start__cpu__{labeled}__seed{seed}__fold{fold}of2"
        for labeled in ("1-8", "1-4")
        for seed in (0, 1)
        for fold in (1, 2)
    ]
    for name in starts(tasks):
        assert sum(name in task.needs for task in tasks.values()) == 3
        seed = int(name.split("__seed")[1][0])
        assert training(tasks, name)["seed"] == seed


def test_folds_have_datalists_of_their_own(plan: MakePlan) -> None:
    lists = [task.arguments for name, task in plan("phnet", seeds=(3,), folds=2).items() if name.startswith("data__")]
    assert [(entry["fold"], entry["folds"], entry["seed"]) for entry in lists] == [(1, 2, 3), (2, 2, 3)]


def test_methods_that_pretrain_in_another_way_have_a_start_of_their_own(plan: MakePlan) -> None:
    tasks = plan("phnet", "bcp", "ra_ugmt", "pdf_unet", "sup_only_ema_bn")
    found = {method: start_of(tasks, f"{method}__{SPLIT}") for method in ("phnet", "bcp", "ra_ugmt", "pdf_unet")}
    assert found == {
        "phnet": f"warm_start__{SPLIT}",
        "bcp": f"bcp_warm_start__{SPLIT}",
        "ra_ugmt": f"ra_ugmt_warm_start__{SPLIT}",
        "pdf_unet": f"pdf_unet_warm_start__{SPLIT}",
    }
    assert start_of(tasks, f"sup_only_ema_bn__{SPLIT}") == found["phnet"]
    assert start_of(tasks, f"pdf_unet__{SPLIT}", "labeler_init") == found["phnet"]
    assert len(starts(tasks)) == 4


@pytest.mark.parametrize("method", ["cps", "cps_cutmix"])
def test_the_second_student_starts_from_another_training_on_the_same_images(plan: MakePlan, method: str) -> None:
    tasks = plan(method)
    second = start_of(tasks, f"{method}__{SPLIT}", "second_init")
    assert second == f"warm_start__{SPLIT}__start1000"
    assert training(tasks, second)["seed"] == 1000
    assert tasks[second].arguments["datalist"] == tasks[f"{method}__{SPLIT}"].arguments["datalist"]
    assert start_of(tasks, f"{method}__{SPLIT}") == f"warm_start__{SPLIT}"


def test_finished_cells_are_left_out_with_what_only_they_need(plan: MakePlan, tmp_path: Path) -> None:
    finish(tmp_path, "bcp")
    assert list(plan("bcp", "phnet")) == ["data__1-8__seed0", f"warm_start__{SPLIT}", f"phnet__{SPLIT}"]
    finish(tmp_path, "phnet")
    assert plan("bcp", "phnet") == {}


def finish(folder: Path, method: str, **changes: Any) -> None:
    """A result file as an older version left it, without the configuration."""
    content = {"row": method, "method": method, "profile": "cpu", "labeled": "1/8", "seed": 0, "fold": None}
    content |= {"recipe": "harmonised", "config": [], "overrides": {}, **changes}
    write_json(folder / "out" / "results" / f"{method}__{SPLIT}.json", content)


def test_cells_that_were_finished_with_other_settings_are_no_part_of_it(plan: MakePlan, tmp_path: Path) -> None:
    finish(tmp_path, "bcp", overrides={"rate": 0.5})
    with pytest.raises(ValueError, match=r"bcp__cpu__1-8__seed0\.json: overrides is {'rate': 0\.5}, expected {}"):
        plan("bcp")
    matrix = Matrix(rows_of_methods(("phnet",)))
    shipped = row_config(matrix, matrix.rows[0], "cpu")
    finish(tmp_path, "phnet", configuration=shipped)
    assert plan("phnet") == {}
    older = {**shipped, "apa": {**shipped["apa"], "threshold": 0.123}}
    finish(tmp_path, "phnet", configuration=older)
    with pytest.raises(MatrixError, match=r"other settings than its row has now: apa#threshold was 0\.123, is "):
        plan("phnet")


def test_another_network_has_another_start_but_not_for_its_projector(plan: MakePlan) -> None:
    unet = {"network_def#decoder": "unet"}
    tasks = plan(
        "phnet",
        Row("unet", "", "phnet", overrides={**unet, "rate": 0.1}),
        Row("unet_32", "", "cutmix", overrides={**unet, "network_def#embedding_size": 32}),
    )
    own = start_of(tasks, f"unet__{SPLIT}")
    assert own == start_of(tasks, f"unet_32__{SPLIT}")
    assert own.startswith(f"warm_start__{SPLIT}__")
    assert training(tasks, own)["overrides"] == unet
    assert training(tasks, f"warm_start__{SPLIT}")["overrides"] == {}


def test_values_for_the_start_are_not_those_of_the_cells(plan: MakePlan) -> None:
    tasks = plan("phnet", overrides={"rate": 0.1}, warm_start={"max_epochs": 2})
    (start,) = starts(tasks)
    assert training(tasks, start)["overrides"] == {"max_epochs": 2}
    assert tasks[start].steps == 200
    assert training(tasks, f"phnet__{SPLIT}")["overrides"] == {"rate": 0.1}


def test_without_shared_start_there_is_none(plan: MakePlan) -> None:
    for values in ({"warm_start": None}, {"profiles": ("paper",)}, {"overrides": {"pretrain_epochs": 1}}):
        tasks = plan("phnet", "cps", **values)
        assert starts(tasks) == []
        assert all(task.arguments["arguments"]["init"] is None for name, task in tasks.items() if "data" not in name)


# --- native recipes


def test_a_labeler_is_trained_in_profiles_that_pretrain_themselves_too(plan: MakePlan) -> None:
    """It is no start of the student: without it PDF-UNet has no masks to learn from."""
    tasks = plan("pdf_unet_noden", profiles=("paper",))
    cell = "pdf_unet_noden__paper__1-8__seed0"
    assert start_of(tasks, cell) is None
    assert start_of(tasks, cell, "labeler_init") == "warm_start__paper__1-8__seed0"


def test_a_native_row_starts_from_its_own_native_start(plan: MakePlan) -> None:
    tasks = plan("pdf_unet_noden", "pdf_unet_noden:native")
    assert start_of(tasks, f"pdf_unet_noden__{SPLIT}") == f"pdf_unet_noden_warm_start__{SPLIT}"
    native = start_of(tasks, f"pdf_unet_noden_native__{SPLIT}")
    assert native == f"pdf_unet_noden_warm_start_native__{SPLIT}"
    assert training(tasks, native)["recipe"] == "native"
    labelers = {
        start_of(tasks, f"{row}__{SPLIT}", "labeler_init") for row in ("pdf_unet_noden", "pdf_unet_noden_native")
    }
    assert labelers == {f"warm_start__{SPLIT}"}  # masks of one and the same network
    assert training(tasks, f"warm_start__{SPLIT}")["recipe"] == "harmonised"


def test_a_native_row_shares_the_start_where_its_authors_set_nothing_else_for_it(plan: MakePlan) -> None:
    tasks = plan("phnet", "cps:native", "u2pl:native", "ps_mt:native", "ra_ugmt:native", "bcp:native")
    for row in ("cps_native", "u2pl_native", "ps_mt_native"):
        assert start_of(tasks, f"{row}__{SPLIT}") == f"warm_start__{SPLIT}"
    assert start_of(tasks, f"ra_ugmt_native__{SPLIT}") == f"ra_ugmt_warm_start__{SPLIT}"
    assert start_of(tasks, f"bcp_native__{SPLIT}") == f"bcp_warm_start_native__{SPLIT}"  # a rate of its own


@pytest.mark.parametrize("method", ["u2pl", "ps_mt", "mean_teacher"])
def test_labeled_only_epochs_of_a_native_recipe_are_kept_behind_the_start(plan: MakePlan, method: str) -> None:
    row = rows_of_methods((f"{method}:native",))[0]
    assert row_config(Matrix((row,)), row, "cpu")["pretrain_epochs"] > 0
    assert start_of(plan(row), f"{method}_native__{SPLIT}") is not None
    assert start_of(plan(row, profiles=("paper",)), f"{method}_native__paper__1-8__seed0") is None


@pytest.mark.parametrize(
    ("method", "recipe"),
    [(method, "harmonised") for method in METHODS] + [(method, "native") for method in METHODS if method in NATIVE],
)
def test_every_start_has_the_network_of_its_cell(plan: MakePlan, method: str, recipe: str) -> None:
    (row,) = rows_of_methods((method,), recipe)
    tasks = plan(row)

    def network(name: str) -> dict[str, Any]:
        given = training(tasks, name)
        overlays = training_overlays(
            given["profile"], given["method"], recipe=given["recipe"], config=given.get("config", ())
        )
        overrides = {key: value for key, value in given["overrides"].items() if not key.endswith("_init")}
        config = compose(bundle_folder() / "configs" / "train.json", overlays, overrides).get()
        return {**config["network_def"], "embedding_size": None}

    cell = f"{row.name}__{SPLIT}"
    keys = ["init", *(["second_init"] if start_of(tasks, cell, "second_init") else [])]
    assert all(network(start_of(tasks, cell, key) or "") == network(cell) for key in keys)
    assert json.dumps(tasks[cell].arguments)  # plain values: they go to another process
