"""`phnet compare`: what of the command line reaches the comparison, and what is refused before any work."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from phnet_monai import comparison
from phnet_monai.cli.main import main


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What was called with what; nothing is trained."""
    seen: dict[str, Any] = {"outcome": SimpleNamespace(errors={}, skipped=[])}

    def compare(matrix: Any, data: str, out: str, **options: Any) -> Any:
        seen["compare"] = (matrix, data, out, options)
        return seen["outcome"]

    def write_report(out: str, **options: Any) -> Path:
        seen["report"] = (out, options)
        (tmp_path / "table.md").write_text("| the table |")
        return tmp_path / "table.md"

    monkeypatch.setattr(comparison, "compare", compare)
    monkeypatch.setattr(comparison, "write_report", write_report)
    (tmp_path / "data" / "benign").mkdir(parents=True)
    return seen


def run(tmp_path: Path, *words: str) -> int:
    return main(["compare", str(tmp_path / "data"), str(tmp_path / "out"), *words])


def test_flags_make_the_matrix(calls: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--methods", "sup_only,phnet", "--methods", "bcp:native", "--labeled", "1/8,12", "--seeds", "0,3"]
    more = [
        "--folds",
        "5",
        "--jobs",
        "2",
        "--threads",
        "1",
        "--work",
        str(tmp_path / "w"),
        "--max_epochs",
        "3",
        "--quiet",
    ]
    assert run(tmp_path, *words, *more) == 0
    matrix, data, out, options = calls["compare"]
    assert [(row.name, row.recipe) for row in matrix.rows] == [
        ("sup_only", "harmonised"),
        ("phnet", "harmonised"),
        ("bcp_native", "native"),
    ]
    assert matrix.dataset == "BUSI"
    assert (matrix.labeled, matrix.seeds, matrix.folds, matrix.overrides) == (
        ("1/8", "12"),
        (0, 3),
        5,
        {"max_epochs": 3},
    )
    assert (data, out) == (str(tmp_path / "data"), str(tmp_path / "out"))
    work = str(tmp_path / "w")
    assert options == {
        "layout": "busi",
        "work": work,
        "jobs": 2,
        "threads": 1,
        "device": "auto",
        "progress": False,
        "allow_leak": False,
    }
    report = {"work": work, "part": "test", "checkpoint": "last", "reference": None, "pictures": True, "device": "auto"}
    assert calls["report"] == (out, report)
    assert "| the table |" in capsys.readouterr().out


def test_a_preset_can_be_narrowed(calls: dict[str, Any], tmp_path: Path) -> None:
    assert run(tmp_path, "--preset", "table1", "--methods", "phnet,bcp", "--labeled", "1/4", "--reference", "bcp") == 0
    matrix = calls["compare"][0]
    assert [row.name for row in matrix.rows] == ["phnet", "bcp"]
    assert (matrix.labeled, matrix.reference_row()) == (("1/4",), "bcp")


def test_failed_cells_give_code_3_and_a_report(calls: dict[str, Any], tmp_path: Path) -> None:
    calls["outcome"].errors["phnet__cpu__1-8__seed0"] = "diverged"
    assert run(tmp_path, "--methods", "phnet") == 3
    assert "report" in calls


def test_failed_cells_without_any_report_give_code_3_too(
    calls: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nothing(*_: Any, **__: Any) -> None:
        raise ValueError("no cell is finished")

    calls["outcome"].errors["phnet__cpu__1-8__seed0"] = "diverged"
    monkeypatch.setattr("phnet_monai.comparison.write_report", nothing)
    assert run(tmp_path, "--methods", "phnet") == 3
    assert "phnet: no report: no cell is finished" in capsys.readouterr().err


def test_the_report_alone(calls: dict[str, Any], tmp_path: Path) -> None:
    assert run(tmp_path, "--report-only", "--no-pictures", "--part", "validation", "--reference", "cutmix") == 0
    assert "compare" not in calls
    assert calls["report"][1]["pictures"] is False
    assert (calls["report"][1]["part"], calls["report"][1]["reference"]) == ("validation", "cutmix")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to compare"),
        (["--matrix", "m.json", "--preset", "table1"], "--matrix and --preset exclude each other"),
        (["--matrix", "none.json"], "none.json: no such matrix file"),
        (["--methods", "phnet", "--seeds", "one"], "--seeds: expected whole numbers such as 0,1,2; found 'one'"),
        (["--report-only", "--methods", "phnet"], "--report-only shows what was trained"),
        (["--report-only", "--recipe", "native"], "--report-only shows what was trained"),
        (["--report-only", "--jobs", "2"], "--report-only shows what was trained"),
        (["--report-only", "--threads", "1"], "--report-only shows what was trained"),
        (["--preset", "table9"], "expected one of table1"),
        (["--methds", "phnet"], "did you mean --methods"),
    ],
)
def test_mistakes_are_refused(
    words: list[str], message: str, calls: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, *words) == 2
    assert message in capsys.readouterr().err
    assert not calls.keys() & {"compare", "report"}


def test_an_unknown_layout_is_named(calls: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data" / "benign").rmdir()
    assert run(tmp_path, "--methods", "phnet") == 2
    assert "found neither" in capsys.readouterr().err
