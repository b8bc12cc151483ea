"""`phnet compare` on phantoms: shared starts, files of a cell, going on after a kill, growing, failing cells."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from phnet_monai import __version__
from phnet_monai.comparison import Matrix, MatrixError, compare, read_comparison, write_report
from phnet_monai.comparison.cells import split_sha256, tracked, train
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
    assert cell["split_sha256"] == split_sha256(str(finished / "work" / "data" / SPLIT / "datalist.json"))
    assert cell["seconds"] > 0
    assert cell["configuration"]["max_epochs"] == 2
    assert not {"output_dir", "datalist", "device"} & cell["configuration"].keys()
    assert len(cell["starts_sha256"]["init"]) == 64
    (go,) = cell["trained"]
    assert go.items() <= cell.items()
    assert (cell["version"], cell["machine"]["threads"]) == (__version__, 1)
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
        training = tracked(arguments["datalist"], arguments["arguments"])
        with pytest.raises(_Stop):
            train_run(arguments["datalist"], arguments["folder"], resume=True, **training)
    finally:
        patch.undo()
        torch.set_num_threads(threads)


def test_finished_trainings_of_other_settings_or_images_are_not_taken(
    finished: Path, phantoms: Path, tmp_path: Path
) -> None:
    work = finished.parent / "copied" / "work"  # as deep, since datalists name their images from where they are
    shutil.copytree(finished / "work", work)
    longer = replace(MATRIX, overrides={**MATRIX.overrides, "max_epochs": 3})
    outcome = run(longer, phantoms, tmp_path / "longer", work=work)
    assert {name for name in outcome.errors if name in CELLS} == set(CELLS)
    assert all("other settings (max_epochs was 2, is 3)" in outcome.errors[name] for name in CELLS)
    warmer = replace(MATRIX, warm_start={**(MATRIX.warm_start or {}), "max_epochs": 2})
    outcome = run(warmer, phantoms, tmp_path / "warmer", work=work)
    assert all("holds a training of other starts" in outcome.errors[name] for name in CELLS)
    shutil.copytree(phantoms, tmp_path / "others")
    outcome = run(MATRIX, tmp_path / "others", tmp_path / "out", work=work)
    assert "its datalist is of other images" in outcome.errors[f"data__{SPLIT}"]
    assert list((tmp_path / "out" / "results").glob("*.json")) == []


def test_a_folder_in_which_nothing_was_saved_may_be_used_for_other_settings(
    finished: Path, phantoms: Path, tmp_path: Path
) -> None:
    plan = Plan(MATRIX, phantoms, "folder", tmp_path, finished / "work", "cpu", False)
    start = next(task for task in plan.tasks.values() if task.function.endswith(":train"))
    folder = tmp_path / "start"
    folder.mkdir()
    (folder / "training.json").write_text('{"images": "others"}', encoding="utf-8")
    train(**{**start.arguments, "folder": str(folder)})
    assert (folder / "last.pt").is_file()
    stamp = read(folder / "training.json")
    assert stamp["images"] == split_sha256(start.arguments["datalist"])
    assert [go["version"] for go in stamp["trained"]] == [__version__]
    (folder / "training.json").write_text('{"images": "others"}', encoding="utf-8")
    with pytest.raises(ValueError, match="holds a training of other images"):
        train(**{**start.arguments, "folder": str(folder)})


@pytest.mark.parametrize(("masks", "scored"), [([], False), ([0], True), ([0, 1], True)])
def test_pseudo_labels_are_scored_where_any_mask_is_known(
    masks: list[int], scored: bool, phantoms: Path, tmp_path: Path
) -> None:
    """A folder of one's own has images without any outline."""
    pictures = [{"image": str(path)} for path in sorted((phantoms / "images").iterdir())[:2]]
    for number in masks:
        pictures[number]["hidden_label"] = str(phantoms / "masks" / Path(pictures[number]["image"]).name)
    parts = {"labeled": [], "unlabeled": pictures, "validation": [], "test": []}
    (tmp_path / "datalist.json").write_text(json.dumps(parts), encoding="utf-8")
    found = tracked(str(tmp_path / "datalist.json"), {"config": ["options/mine"]})["config"]
    assert found == ["options/mine", *(["options/pseudo_label_scores"] if scored else [])]


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


def test_the_fully_supervised_ceiling(phantoms: Path, tmp_path: Path) -> None:
    """Every training image is labeled: nothing is left whose pseudo-labels could be followed."""
    rows = rows_of_methods(("sup_only_ema", "sup_only"))
    outcome = run(replace(MATRIX, rows=rows, labeled=("1/1",)), phantoms, tmp_path)
    assert outcome.errors == {}
    for row, evaluated in (("sup_only_ema", "teacher"), ("sup_only", "student")):
        cell = read(tmp_path / "results" / f"{row}__smoke__1-1__seed0.json")
        assert cell["counts"]["unlabeled"] == 0 < cell["counts"]["labeled"]
        assert (cell["evaluated"], cell["steps"]) == (evaluated, 4)
        assert all("unlabeled" not in epoch for epoch in cell["history"])
        assert 0 <= cell["scores"]["test"]["last"]["pooled_dice"] <= 1
    text = write_report(tmp_path, pictures=False, draw=False, n_resamples=50).read_text(encoding="utf-8")
    assert "## 1/1 labeled" in text


def test_a_cross_validation_tests_each_image_once(phantoms: Path, tmp_path: Path) -> None:
    folds = replace(MATRIX, rows=rows_of_methods(("sup_only",)), folds=3, warm_start=None)
    outcome = run(folds, phantoms, tmp_path)
    assert outcome.errors == {}
    tested: list[str] = []
    for fold in (1, 2, 3):
        name = f"sup_only__smoke__{SPLIT}__fold{fold}of3"
        assert read(tmp_path / "results" / f"{name}.json")["fold"] == fold
        lines = (tmp_path / "results" / f"{name}__test.csv").read_text(encoding="utf-8").splitlines()[1:]
        tested += [line.split(",")[0] for line in lines]
    images = [path.stem for path in (phantoms / "images").iterdir()]
    assert sorted(tested) == sorted(images)
    text = write_report(tmp_path, pictures=False, draw=False, n_resamples=50).read_text(encoding="utf-8")
    assert "**3 of 3 trainings are finished**" in text
