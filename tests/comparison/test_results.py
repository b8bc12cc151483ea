"""Finished cells read back, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from phnet_monai.comparison.matrix import MatrixError
from phnet_monai.comparison.results import common_runs, read_results

Make = Callable[..., Path]


def test_finished_and_missing_cells(make_comparison: Make) -> None:
    folder = make_comparison(missing=("phnet__cpu__1-8__seed1", "cutmix__cpu__1-8__seed0", "cutmix__cpu__1-8__seed1"))
    results = read_results(folder)
    assert results.missing == ("cutmix__cpu__1-8__seed0", "cutmix__cpu__1-8__seed1", "phnet__cpu__1-8__seed1")
    found = results.of("cpu", "1/8")
    assert {name: [result.run for result in group] for name, group in found.items()} == {
        "sup_only": [(0, None), (1, None)],
        "phnet": [(0, None)],
    }
    assert results.labels_with_runs("cpu", "1/8")["phnet"] == "PH-Net (1 of 2)"
    assert results.labels_with_runs("cpu", "1/8")["sup_only"] == "SupOnly"
    assert common_runs(found["sup_only"], found["phnet"]) == [(0, None)]


def test_scenes_are_those_with_results_in_the_order_of_the_matrix(make_comparison: Make) -> None:
    missing = tuple(f"{row}__cpu__1-4__seed{seed}" for row in ("sup_only", "cutmix", "phnet") for seed in (0, 1))
    folder = make_comparison(labeled=("1/2", "1/4", "1/8"), missing=missing)
    assert read_results(folder).scenes() == [("cpu", "1/2"), ("cpu", "1/8")]


def test_folds_count_as_runs(make_comparison: Make) -> None:
    results = read_results(make_comparison(folds=3, images=lambda cell: [cell.fold, 10 + cell.fold]))
    assert results.runs_wanted == 6
    assert [result.run for result in results.of("cpu", "1/8")["phnet"]] == [(s, f) for s in (0, 1) for f in (1, 2, 3)]


def test_scores_of_the_best_checkpoint_lie_in_tables_of_their_own(make_comparison: Make) -> None:
    folder = make_comparison()
    result = read_results(folder).finished[0]
    assert result.table_file("test", "last").name == "sup_only__cpu__1-8__seed0__test.csv"
    assert result.per_image("test", "best") is None
    table = result.per_image("test", "last")
    assert table is not None
    assert len(table) == 20
    assert table["case 03"]["dice"] == pytest.approx(0.46)


def test_nothing_finished(make_comparison: Make) -> None:
    folder = make_comparison(rows=("phnet",), missing=("phnet__cpu__1-8__seed0", "phnet__cpu__1-8__seed1"))
    with pytest.raises(MatrixError, match="nothing to report"):
        read_results(folder)
    with pytest.raises(FileNotFoundError, match=r"compare\.json"):
        read_results(folder / "results")


def test_files_that_are_refused(make_comparison: Make) -> None:
    folder = make_comparison(changes={"cutmix__cpu__1-8__seed1": {"seed": 0}})
    with pytest.raises(ValueError, match=r"cutmix__cpu__1-8__seed1\.json: seed is 0, expected 1"):
        read_results(folder)
    broken = folder / "results" / "cutmix__cpu__1-8__seed1.json"
    broken.write_text('{"row": "cut')
    with pytest.raises(ValueError, match=r"cutmix__cpu__1-8__seed1\.json: not valid JSON"):
        read_results(folder)
    broken.write_text("[]")
    with pytest.raises(ValueError, match="expected a JSON object, found a list"):
        read_results(folder)
    broken.write_text("{}")
    with pytest.raises(ValueError, match="row is None, expected 'cutmix' by the file's name"):
        read_results(folder)


def test_cells_of_other_settings_than_the_rows_have_are_refused(make_comparison: Make) -> None:
    folder = make_comparison(changes={"cutmix__cpu__1-8__seed1": {"method": "phnet", "overrides": {"rate": 0.5}}})
    with pytest.raises(ValueError, match=r"overrides is {'rate': 0\.5}, expected {} by the comparison's rows"):
        read_results(folder)


def test_one_row_has_one_configuration(make_comparison: Make) -> None:
    own = {"seed": 0, "rate": 0.1, "output_dir": "here", "apa": {"threshold": 0.5}}
    changes = {
        "phnet__cpu__1-8__seed0": {"configuration": own},
        "phnet__cpu__1-8__seed1": {"configuration": {**own, "seed": 1, "output_dir": "there"}},
        "cutmix__cpu__1-8__seed0": {"configuration": {**own, "rate": 0.2}},
    }
    folder = make_comparison(changes=changes)
    assert len(read_results(folder).finished) == 6
    cell = folder / "results" / "phnet__cpu__1-8__seed1.json"
    content = json.loads(cell.read_text())
    content["configuration"]["apa"] = {"threshold": 0.6}
    cell.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"different settings \(apa#threshold was 0\.5, is 0\.6\)"):
        read_results(folder)


def test_cells_of_different_images_are_refused(make_comparison: Make) -> None:
    names = [f"{row}__cpu__1-8__seed{seed}" for row in ("sup_only", "cutmix", "phnet") for seed in (0, 1)]
    changes = {name: {"split_sha256": name[-1]} for name in names}  # seeds draw other labeled images
    changes["cutmix__cpu__1-8__seed1"] = {"split_sha256": "other"}
    folder = make_comparison(changes=changes)
    with pytest.raises(ValueError, match=r"__seed1\.json and .*__seed1\.json are of different images or parts"):
        read_results(folder)
    (folder / "results" / "cutmix__cpu__1-8__seed1.json").unlink()
    assert len(read_results(folder).finished) == 5


def test_cells_of_one_start_of_which_there_were_two_are_refused(make_comparison: Make) -> None:
    def begun(start: str, weights: str) -> dict:
        return {"warm_start": {"name": start, "steps": 6}, "starts_sha256": {"init": weights}}

    changes = {
        "sup_only__cpu__1-8__seed0": begun("warm_start__cpu__1-8__seed0", "a"),
        "sup_only__cpu__1-8__seed1": begun("warm_start__cpu__1-8__seed1", "b"),
        "cutmix__cpu__1-8__seed0": begun("own_warm_start__cpu__1-8__seed0", "c"),
        "phnet__cpu__1-8__seed0": begun("warm_start__cpu__1-8__seed0", "a"),
    }
    folder = make_comparison(changes=changes)
    assert len(read_results(folder).finished) == 6  # those of older versions have no digest
    cell = folder / "results" / "phnet__cpu__1-8__seed0.json"
    cell.write_text(json.dumps(json.loads(cell.read_text()) | {"starts_sha256": {"init": "other"}}))
    with pytest.raises(ValueError, match=r"different trainings of the start warm_start__cpu__1-8__seed0"):
        read_results(folder)


def test_an_image_that_stands_twice_is_refused(make_comparison: Make) -> None:
    folder = make_comparison()
    table = folder / "results" / "phnet__cpu__1-8__seed0__test.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines, lines[-1]]))
    (result,) = (r for r in read_results(folder).of("cpu", "1/8")["phnet"] if r.cell.seed == 0)
    with pytest.raises(ValueError, match="1 images stand twice"):
        result.per_image("test", "last")
