"""Tables of a comparison against figures worked out by hand."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from phnet_monai.comparison import tables
from phnet_monai.comparison.results import read_results
from phnet_monai.comparison.tables import FIGURES, POOLED_DICE, Spread, marked, spread

Make = Callable[..., Path]


def cells_of(table: str) -> list[list[str]]:
    """Cells of a Markdown table without its second line."""
    lines = [line.strip("|").split(" | ") for line in table.splitlines()]
    assert len({len(line) for line in lines}) == 1
    return [[cell.strip() for cell in line] for number, line in enumerate(lines) if number != 1]


def test_spread() -> None:
    assert spread([0.2, None, 0.4, math.nan]) == pytest.approx((0.3, math.sqrt(0.02), 2))
    mean, std, runs = spread([0.7])
    assert (mean, runs) == (0.7, 1)
    assert math.isnan(std)
    assert spread([None]).runs == 0


def test_texts_and_the_best_one() -> None:
    found = {
        "a": Spread(61.23, 1.25, 2),
        "b": Spread(63.0, math.nan, 1),
        "c": Spread(math.nan, math.nan, 0),
        "d": Spread(62.98, 0.3, 3),
    }
    # b and d print the same mean, so neither is better
    assert marked(found, POOLED_DICE) == {"a": "61.2 ± 1.2", "b": "**63.0**", "c": "-", "d": "**63.0 ± 0.3**"}
    lower = FIGURES[4]
    assert not lower.higher_is_better
    assert marked({"a": Spread(9.0, math.nan, 1), "b": Spread(12.0, math.nan, 1)}, lower) == {"a": "**9**", "b": "12"}
    assert marked({"a": Spread(61.0, math.nan, 1)}, POOLED_DICE) == {"a": "61.0"}
    equal = {name: Spread(61.02, math.nan, 1) for name in "ab"}
    assert marked(equal, POOLED_DICE) == {"a": "61.0", "b": "61.0"}


def test_scores_are_means_over_runs(make_comparison: Make) -> None:
    def dice(cell, number):
        return {"sup_only": 0.5, "phnet": 0.6}[cell.row.name] + 0.1 * cell.seed

    folder = make_comparison(rows=("sup_only", "phnet"), dice=dice, missing=("phnet__cpu__1-8__seed1",))
    header, supervised, phnet = cells_of(tables.scores(read_results(folder), "cpu", "1/8", "test", "last"))
    # 0.5 and 0.6: mean 0.55, std 0.0707; no row has a missed rate or an ECE here
    assert header == [
        "method",
        "runs",
        "pooled Dice",
        "pooled IoU",
        "Dice per image",
        "HD95, px",
        "*validation: pooled Dice*",
    ]
    assert supervised[:3] == ["SupOnly", "2", "55.0 ± 7.1"]
    assert phnet[:3] == ["PH-Net", "1 of 2", "**60.0**"]
    assert (
        supervised[3]
        == f"{100 * np.mean([0.5 / 1.5, 0.6 / 1.4]):.1f} ± {100 * np.std([0.5 / 1.5, 0.6 / 1.4], ddof=1):.1f}"
    )
    assert [supervised[5], phnet[5]] == ["45 ± 7", "**40**"]


def test_overview_has_the_paper_beside_ours(make_comparison: Make) -> None:
    paper = {
        "phnet": {
            "UDIAT": {"1/4": {"dice": 86.23, "std": 0.5}},
            "BUSI": {"1/8": {"dice": 73.61, "std": 0.48}, "1/4": {"dice": 76.84, "std": 0.52}},
            "note": "text",
        },
        "sup_only": {"BUSI": {"1/8": {"dice": 70.99, "std": 1.21, "p": 0.03}}},
    }
    folder = make_comparison(
        labeled=("1/8", "1/4"),
        paper=paper,
        dataset="our BUSI",
        missing=("phnet__cpu__1-4__seed1",),
        dice=lambda c, n: 0.5,
    )
    header, *rows = cells_of(tables.overview(read_results(folder), "cpu", "test", "last"))
    # the data set of the comparison first
    assert header == [
        "method",
        "1/8, pooled Dice",
        "1/4, pooled Dice",
        "1/8, *paper, BUSI: Dice*",
        "1/4, *paper, BUSI: Dice*",
        "1/8, *paper, UDIAT: Dice*",
        "1/4, *paper, UDIAT: Dice*",
    ]
    assert [row[0] for row in rows] == ["SupOnly", "CutMix", "PH-Net"]
    assert rows[0][3:] == ["70.99 ± 1.21 (p 0.030)", "", "", ""]
    assert rows[2][3:] == ["73.61 ± 0.48", "76.84 ± 0.52", "", "86.23 ± 0.50"]
    assert rows[2][2] == "50.0 (1 of 2)"


def test_overview_shows_iou_where_the_paper_does(make_comparison: Make) -> None:
    paper = {"phnet": {"UDIAT": {"1/8": {"dice": 86.23, "iou": 75.8}}}}
    header, *rows = cells_of(tables.overview(read_results(make_comparison(paper=paper)), "cpu", "test", "last"))
    assert header[1:] == [
        "1/8, pooled Dice",
        "1/8, pooled IoU",
        "1/8, *paper, UDIAT: Dice*",
        "1/8, *paper, UDIAT: IoU*",
    ]
    assert rows[-1][3:] == ["86.23", "75.80"]


def test_records_for_the_csv(make_comparison: Make, tmp_path: Path) -> None:
    paper = {"phnet": {"BUSI": {"1/8": {"dice": 73.61, "std": 0.48}}}}
    records = tables.score_records(read_results(make_comparison(paper=paper)))
    assert len(records) == 3 * 2 * 2  # rows, parts, checkpoints
    tables.write_csv(tmp_path / "t.csv", records)
    with open(tmp_path / "t.csv", newline="", encoding="utf-8") as stream:
        read = list(csv.DictReader(stream))
    last = read[-1]
    assert (last["row"], last["part"], last["checkpoint"], last["runs"]) == ("phnet", "validation", "best", "2")
    assert float(last["pooled_dice"]) == pytest.approx(records[-1]["pooled_dice"])
    assert (last["paper_BUSI_dice"], read[0]["paper_BUSI_dice"], last["ece"]) == ("73.61", "", "")


def test_markdown_keeps_bars_inside_cells() -> None:
    assert tables.markdown(["a", "b"], [["x|y", "1"]]).splitlines() == ["| a | b |", "| :-- | --: |", "| x\\|y | 1 |"]
