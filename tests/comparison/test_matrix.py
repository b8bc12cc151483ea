"""Matrices of comparisons: read, made from flags, checked before work, joined with earlier ones."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from phnet_monai.comparison.matrix import (
    LABELS,
    Matrix,
    MatrixError,
    Row,
    check_matrix,
    check_reference,
    choose_matrix,
    matrix_from_data,
    merge,
    read_matrix,
    row_config,
    rows_of_methods,
    with_digests,
)
from phnet_monai.shipped import bundle_folder

NOTHING = dict.fromkeys(("rows", "labeled", "seeds", "profiles", "folds", "reference"))


def matrix(*methods: str, **values) -> Matrix:
    return Matrix(rows_of_methods(methods or ("sup_only", "phnet")), **values)


def test_cells_are_all_combinations_fraction_by_fraction() -> None:
    found = [cell.name for cell in matrix(labeled=("1/8", "12"), seeds=(0, 3)).cells()]
    assert found == [
        "sup_only__cpu__1-8__seed0",
        "sup_only__cpu__1-8__seed3",
        "phnet__cpu__1-8__seed0",
        "phnet__cpu__1-8__seed3",
        "sup_only__cpu__12__seed0",
        "sup_only__cpu__12__seed3",
        "phnet__cpu__12__seed0",
        "phnet__cpu__12__seed3",
    ]


def test_folds_multiply_the_cells() -> None:
    cells = list(matrix("phnet", folds=3, seeds=(1,)).cells())
    assert [cell.fold for cell in cells] == [1, 2, 3]
    assert [cell.split for cell in cells] == [f"1-8__seed1__fold{fold}of3" for fold in (1, 2, 3)]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    rows = (
        Row(
            "a", "A", "phnet", "native", ("ablations/table2_I",), {"apa#threshold": 0.8}, {"BUSI": {"1/8": {"dice": 1}}}
        ),
    )
    whole = Matrix(rows, ("paper",), ("1/2",), (4,), 5, "a", {"amp": None}, None, "BUSI", "T")
    (tmp_path / "m.json").write_text(json.dumps(whole.as_data()))
    assert read_matrix(tmp_path / "m.json") == whole


def test_rows_may_be_names_only() -> None:
    found = matrix_from_data({"rows": ["phnet", {"method": "sup_only", "name": "base"}]}, "here")
    assert [(row.name, row.label, row.method) for row in found.rows] == [
        ("phnet", "PH-Net", "phnet"),
        ("base", "base", "sup_only"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "expected a JSON object with a list `rows`"),
        ({"rows": []}, "expected a JSON object with a list `rows`"),
        ({"rows": ["phnet"], "seed": [1]}, "unknown entry 'seed'; did you mean 'seeds'"),
        ({"rows": [{"name": "x"}]}, "row 1: expected a method's name"),
        ({"rows": ["phnet", {"method": "phnet", "overide": {}}]}, "row 2: unknown entry 'overide'; did you mean"),
        ({"rows": ["phnet"], "labeled": "1/8"}, "`labeled` is '1/8', expected a list, each entry text"),
        ({"rows": ["phnet"], "labeled": [20]}, "`labeled` is"),
        ({"rows": ["phnet"], "seeds": ["0"]}, "`seeds` is"),
        ({"rows": ["phnet"], "title": ["x"]}, "`title` is ['x'], expected text"),
        ({"rows": ["phnet"], "reference": 3}, "`reference` is 3, expected text"),
        ({"rows": [{"method": 5}]}, "row 1: `method` is 5, expected text"),
        ({"rows": [{"method": "phnet", "name": 5}]}, "row 1: `name` is 5, expected text"),
        ({"rows": [{"method": "phnet", "label": 7}]}, "row 1: `label` is 7, expected text"),
        ({"rows": [{"method": "phnet", "paper": {"BUSI": {"1/8": "x"}}}]}, "`paper` has {'1/8': 'x'} for 'BUSI'"),
        ({"rows": [{"method": "phnet", "paper": {"dice": "x"}}]}, "`paper` has 'x' for 'dice', expected"),
        ({"rows": [{"method": "phnet", "paper": {"note": 1}}]}, "`paper` has 1 for 'note', expected a text"),
        ({"rows": ["phnet"], "seeds": [0.5]}, "`seeds` is"),
        ({"rows": ["phnet"], "seeds": 3}, "`seeds` is 3, expected a list, each entry a whole number"),
        ({"rows": ["phnet"], "folds": "5"}, "`folds` is '5', expected a whole number"),
        ({"rows": ["phnet"], "overrides": None}, "`overrides` is None, expected an object"),
        ({"rows": [{"method": "phnet", "config": "a.json"}]}, "row 1: `config` is 'a.json', expected a list"),
        ({"rows": [{"method": "phnet", "overrides": [1]}]}, "row 1: `overrides` is"),
    ],
)
def test_wrong_files_are_refused_by_entry(content, message: str) -> None:
    with pytest.raises(MatrixError, match=f"here.*{re.escape(message)}"):
        matrix_from_data(content, "here")


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no\.json"):
        read_matrix(tmp_path / "no.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(MatrixError, match=r"bad\.json: not valid JSON"):
        read_matrix(tmp_path / "bad.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": rows_of_methods(("phnet", "phnet"))}, "two rows are called 'phnet'"),
        ({"rows": (Row("a__b", "", "phnet"),)}, "row 'a__b': a name consists of"),
        ({"rows": (Row("../x", "", "phnet"),)}, "a name consists of"),
        ({"rows": (Row("phnet", "", "phnte"),)}, "row 'phnet': method 'phnte' does not exist"),
        ({"rows": (Row("phnet", "", "phnet", "own"),)}, "recipe is 'own'"),
        ({"rows": rows_of_methods(("phnet:native",))}, "row 'phnet_native': method 'phnet' has no native recipe"),
        ({"rows": (Row("phnet", "", "phnet", config=("ablations/none",)),)}, "ablation 'none' does not exist"),
        ({"rows": (Row("phnet", "", "phnet", config=("no.json",)),)}, "no.json: no such config file"),
        ({"rows": (Row("phnet", "", "phnet", overrides={"apa#treshold": 1}),)}, "did you mean 'apa#threshold'"),
        ({"overrides": {"max_epoch": 1}}, "did you mean 'max_epochs'"),
        ({"overrides": {"seed": 7}}, "`overrides`: 'seed' is what the comparison gives to each training"),
        ({"rows": (Row("a", "", "phnet", overrides={"init": "x.pt"}),)}, "row 'a': 'init' is what the comparison"),
        ({"profiles": ("gpu",)}, "profile 'gpu' does not exist"),
        ({"profiles": ()}, "`profiles` is"),
        ({"seeds": (1, 1)}, "`seeds` is"),
        ({"seeds": (0, -1)}, "`seeds`: seed is -1, expected a whole number from 0"),
        ({"labeled": ()}, "`labeled` is"),
        ({"labeled": ("many",)}, "`labeled`: "),
        ({"folds": 1}, "`folds` is 1, expected at least 2"),
    ],
)
def test_mistakes_are_found_before_any_training(changes: dict, message: str) -> None:
    check_matrix(matrix())
    with pytest.raises(MatrixError) as error:
        check_matrix(replace(matrix(), **changes))
    assert message in str(error.value)


def test_flags_make_a_matrix() -> None:
    given = {**NOTHING, "rows": ["sup_only", "mean_teacher:native"], "labeled": ["1/4"], "seeds": [5], "folds": 4}
    found = choose_matrix(None, None, given)
    assert [(row.name, row.recipe) for row in found.rows] == [
        ("sup_only", "harmonised"),
        ("mean_teacher_native", "native"),
    ]
    assert (found.labeled, found.seeds, found.folds, found.profiles) == (("1/4",), (5,), 4, ("cpu",))
    assert found.reference is None
    assert found.reference_row() == "mean_teacher_native"  # the last where phnet is not there
    assert choose_matrix(None, None, {**NOTHING, "rows": ["phnet", "sup_only"]}).reference_row() == "phnet"


def test_seed_zero_alone_is_a_choice() -> None:
    assert choose_matrix(None, None, {**NOTHING, "rows": ["phnet"], "seeds": [0]}).seeds == (0,)


def test_flags_narrow_a_matrix_file(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(json.dumps(matrix("sup_only", "cutmix", "phnet", seeds=(0, 1, 2)).as_data()))
    found = choose_matrix(tmp_path / "m.json", None, {**NOTHING, "rows": ["phnet", "cutmix"], "seeds": [1]})
    assert [row.name for row in found.rows] == ["phnet", "cutmix"]
    assert found.seeds == (1,)
    with pytest.raises(MatrixError, match="no row 'bcp' in the matrix; its rows are sup_only, cutmix, phnet"):
        choose_matrix(tmp_path / "m.json", None, {**NOTHING, "rows": ["bcp"]})
    with pytest.raises(MatrixError, match="nothing to compare"):
        choose_matrix(None, None, NOTHING)


def test_a_preset_may_be_narrowed_to_rows_without_its_reference() -> None:
    found = choose_matrix(None, "table1", {**NOTHING, "rows": ["cps", "imas"]})
    check_reference(found)
    assert found.reference_row() == "imas"
    grown = merge(choose_matrix(None, "table1", NOTHING), found, "here")
    assert grown.reference_row() == "phnet"


def test_the_reference_is_a_row_of_this_call_or_of_an_earlier_one() -> None:
    with pytest.raises(MatrixError, match="reference is 'bcp', expected one of the rows sup_only, phnet"):
        check_reference(replace(matrix("sup_only", "phnet"), reference="bcp"))
    check_reference(merge(matrix("phnet"), replace(matrix("cutmix"), reference="phnet"), "here"))


def test_a_row_is_composed_in_order() -> None:
    row = Row("x", "X", "phnet", config=("ablations/table2_I",), overrides={"rate": 0.5})
    found = row_config(matrix(overrides={"rate": 0.1, "max_epochs": 2}), row, "cpu")
    assert found["hpc"] is None  # the ablation
    assert found["size"] == 160  # the profile
    assert (found["rate"], found["max_epochs"]) == (0.5, 2)  # the row's own word is the last


SHIPPED = sorted(path.stem for path in (bundle_folder() / "configs" / "methods").glob("*.json"))


@pytest.mark.parametrize("method", [name for name in SHIPPED if "warm_start" not in name])
def test_every_method_has_a_label_and_native_is_never_the_same_as_harmonised(method: str) -> None:
    assert method in LABELS
    harmonised, native = (Row("x", "", method, recipe) for recipe in ("harmonised", "native"))
    if (bundle_folder() / "configs" / "native" / f"{method}.json").is_file():
        assert row_config(matrix(), native, "cpu") != row_config(matrix(), harmonised, "cpu")
        return
    with pytest.raises(MatrixError) as error:
        row_config(matrix(), native, "cpu")
    known = str(error.value).rpartition(": ")[2].split(", ")
    assert {"bcp", "cps", "mean_teacher", "unimatch"} < set(known) < set(SHIPPED)
    assert not any(name.endswith("warm_start") for name in known)


def test_the_native_mean_teacher_is_that_of_its_source() -> None:
    found = row_config(matrix(), Row("x", "", "mean_teacher", "native"), "cpu")
    assert (found["rate"], found["scheduler"]["power"], found["ema"]["decay"]) == (0.01, 0.9, 0.99)
    assert (found["batch_size"], found["train"]["trainer"]["supervised_loss"]) == (12, "ce_dice")
    assert found["max_epochs"] * found["epoch_length"] == 30_000
    assert found["pretrain_epochs"] * found["epoch_length"] == 1_000  # no consistency before


def test_the_example_of_the_documentation_can_be_run(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "comparison.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```json\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (tmp_path / "m.json").write_text(example)
    found = read_matrix(tmp_path / "m.json")
    check_matrix(found)
    assert [row.name for row in found.rows] == ["sup_only_ema", "unet", "unet_apa"]


def test_a_preset_says_its_own_recipe_and_folds_of_0_are_none_of_it() -> None:
    with pytest.raises(MatrixError, match="says itself which recipe each row has; leave 'native' out"):
        choose_matrix(None, "table1", {}, recipe="native")
    with pytest.raises(MatrixError, match="`folds` is 0"):
        check_matrix(choose_matrix(None, "table1", {"folds": 0}))


def test_an_edited_overlay_is_another_row(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text('{"apa#threshold": 0.5}')
    row = Row("mine", "Mine", "phnet", config=(str(file),))
    old = with_digests(Matrix((row,), seeds=(0,)))
    assert merge(old, with_digests(Matrix((row,), seeds=(1,))), "here").seeds == (0, 1)
    assert matrix_from_data(old.as_data(), "here") == old
    file.write_text('{"apa#threshold": 0.6}')
    with pytest.raises(MatrixError, match="row 'mine' was begun with other settings"):
        merge(old, with_digests(Matrix((row,), seeds=(1,))), "here")


def test_a_comparison_grows_but_never_changes() -> None:
    old = matrix("sup_only", "phnet", seeds=(0,))
    grown = merge(old, matrix("cutmix", seeds=(1,), labeled=("1/4",)), "here")
    assert [row.name for row in grown.rows] == ["sup_only", "phnet", "cutmix"]
    assert (grown.seeds, grown.labeled) == ((0, 1), ("1/8", "1/4"))
    assert merge(replace(old, reference="sup_only"), matrix("cutmix"), "here").reference == "sup_only"
    titled = replace(old, title="Ours")
    assert merge(titled, matrix("cutmix"), "here").title == "Ours"
    assert merge(titled, matrix("cutmix", title="Theirs"), "here").title == "Theirs"
    other = replace(old.rows[1], overrides={"apa#threshold": 0.5})
    with pytest.raises(MatrixError, match="here: row 'phnet' was begun with other settings"):
        merge(old, replace(old, rows=(other,)), "here")
    for key, value in (("folds", 5), ("overrides", {"rate": 1}), ("warm_start", None), ("dataset", "X")):
        with pytest.raises(MatrixError, match=f"here: was begun with {key} ="):
            merge(old, replace(old, **{key: value}), "here")
    relabelled = replace(old, rows=(replace(old.rows[1], label="Ours"),))
    assert [row.label for row in merge(old, relabelled, "here").rows] == ["SupOnly", "Ours"]  # names are no settings


def test_a_preset_that_was_narrowed_first_ends_in_its_own_order() -> None:
    whole = with_digests(choose_matrix(None, "table2", NOTHING))
    part = with_digests(choose_matrix(None, "table2", {**NOTHING, "rows": ["III"]}))
    assert [row.name for row in merge(part, whole, "here").rows] == ["SupOnly", "I", "II", "III"]
    assert [row.name for row in merge(whole, part, "here").rows] == ["SupOnly", "I", "II", "III"]
