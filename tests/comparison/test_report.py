"""The report as a whole: what is in its folder, also where the comparison is not finished."""

from __future__ import annotations

import csv
import json
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from phnet_monai.comparison.matrix import check_matrix, read_matrix
from phnet_monai.comparison.report import _starts, write_report
from phnet_monai.data import load_datalist, prepare_folder, write_phantoms
from phnet_monai.extras import MissingExtraError
from phnet_monai.shipped import bundle_folder

Make = Callable[..., Path]
QUICK: dict[str, Any] = {"n_resamples": 50}
PRESETS = ("table1", "table2", "table3a", "table3b", "table3c", "fig8", "fig8_paper", "decisions", "plus")


def records(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_everything_is_there_and_linked(make_comparison: Make) -> None:
    folder = make_comparison(labeled=("1/8", "1/4"), missing=("cutmix__cpu__1-4__seed1",))
    path = write_report(folder, **QUICK)
    text = path.read_text(encoding="utf-8")
    assert path == folder / "report" / "table.md"
    linked = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert len(linked) == len(set(linked)) == 2 * 5  # five plots a fraction
    assert {*linked, "table.md", "table.csv", "statistics.csv", "dice_by_size.csv"} == {
        file.name for file in path.parent.iterdir()
    }
    assert "**11 of 12 trainings are finished**" in text
    assert "- `cutmix__cpu__1-4__seed1`" in text
    assert "Left out: no checkpoints" in text
    tested = records(path.parent / "statistics.csv")
    assert [(row["labeled"], row["other"]) for row in tested] == [
        (labeled, other) for labeled in ("1/8", "1/4") for other in ("sup_only", "cutmix")
    ]
    assert len(records(path.parent / "table.csv")) == 2 * 3 * 2 * 2
    assert len(records(path.parent / "dice_by_size.csv")) == 2 * 3 * 4


def test_the_same_results_give_the_same_report(make_comparison: Make, tmp_path: Path) -> None:
    folder = make_comparison()
    first, again = (write_report(folder, out=tmp_path / name, **QUICK).parent for name in "ab")
    for file in first.iterdir():
        assert (again / file.name).read_bytes() == file.read_bytes(), file.name


def test_one_cell_is_enough(make_comparison: Make) -> None:
    missing = tuple(f"{row}__cpu__1-8__seed{seed}" for row in ("sup_only", "cutmix", "phnet") for seed in (0, 1))
    folder = make_comparison(missing=missing[1:])
    text = write_report(folder, **QUICK).read_text(encoding="utf-8")
    assert "**1 of 6 trainings are finished**" in text
    assert "Not yet: PH-Net and another row need scores" in text
    assert records(folder / "report" / "statistics.csv") == []


def test_our_p_stands_where_the_paper_prints_its_own(make_comparison: Make) -> None:
    paper = {name: {"BUSI": {"1/8": {"dice": 70, "p": 0.01}}} for name in ("sup_only", "cutmix")}
    folder = make_comparison(paper=paper)
    text = write_report(folder, draw=False, **QUICK).read_text(encoding="utf-8")
    (line,) = (line for line in text.splitlines() if line.startswith("| CutMix |") and "(p 0.010)" in line)
    ours = float(records(folder / "report" / "statistics.csv")[1]["p_holm"])
    assert f"(p {ours:.3f})" in line.split("|")[2]
    assert "pooled Dice (p: Dice per image, Holm)" in text


def test_paper_figures_carry_their_remark(make_comparison: Make) -> None:
    paper = {"phnet": {"UDIAT": {"1/8": {"dice": 84.99}}, "note": "A note of the row."}}
    text = write_report(make_comparison(paper=paper), draw=False, **QUICK).read_text(encoding="utf-8")
    assert "*paper, UDIAT: Dice*" in text
    assert "not as parity" in text
    assert "*A note of the row.*" in text


def test_without_paper_and_with_one_fraction_there_is_no_overview(make_comparison: Make) -> None:
    text = write_report(make_comparison(), draw=False, **QUICK).read_text(encoding="utf-8")
    assert "Overview" not in text
    assert "parity" not in text
    assert ".png" not in text


def test_validation_part_and_best_checkpoint(make_comparison: Make) -> None:
    folder = make_comparison()
    text = write_report(folder, part="validation", draw=False, **QUICK).read_text(encoding="utf-8")
    assert "validation part; checkpoint `last`" in text
    # there are no tables per image of the best checkpoint here
    text = write_report(folder, checkpoint="best", draw=False, **QUICK).read_text(encoding="utf-8")
    assert "checkpoint `best`" in text
    assert "Not yet: PH-Net and another row need scores" in text
    with pytest.raises(ValueError, match="part is 'tests'"):
        write_report(folder, part="tests")
    with pytest.raises(ValueError, match="checkpoint 'first'"):
        write_report(folder, checkpoint="first")


@pytest.mark.parametrize(("images", "few"), [(19, True), (20, False)])
def test_few_images_are_told(images: int, few: bool, make_comparison: Make) -> None:
    folder = make_comparison(images=lambda cell: list(range(images)))
    text = write_report(folder, draw=False, **QUICK).read_text(encoding="utf-8")
    assert ("These are few images to test on" in text) is few


def test_another_reference(make_comparison: Make) -> None:
    folder = make_comparison()
    text = write_report(folder, reference="cutmix", draw=False, **QUICK).read_text(encoding="utf-8")
    assert "### CutMix against the others" in text
    assert [row["other"] for row in records(folder / "report" / "statistics.csv")] == ["sup_only", "phnet"]
    with pytest.raises(ValueError, match="reference is 'cutmx', expected one of the rows sup_only, cutmix, phnet"):
        write_report(folder, reference="cutmx")


def test_tables_are_written_without_matplotlib(make_comparison: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_comparison()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"written without plots.*pip install 'phnet-monai\[plot\]'"):
        write_report(folder, **QUICK)
    assert "PH-Net" in (folder / "report" / "table.md").read_text(encoding="utf-8")
    assert list((folder / "report").glob("*.png")) == []


@pytest.fixture
def with_work(make_comparison: Make) -> Path:
    """A comparison with the datalist and two of three checkpoints of seed 1."""
    checkpoint = runpy.run_path(str(Path(__file__).with_name("test_figures.py")))["checkpoint"]
    folder = make_comparison()
    phantoms = write_phantoms(folder / "phantoms", 30, seed=0, size_range=(50, 70))
    for kind in ("images", "masks"):  # the cases of the made-up scores
        for number, file in enumerate(sorted((phantoms / kind).iterdir())):
            file.rename(file.with_name(f"case {number:02d}{file.suffix}"))
    prepare_folder(phantoms, folder / "work" / "data" / "1-8__seed1", labeled=4, progress=False)
    for row in ("sup_only", "phnet"):
        checkpoint(folder / "work" / "cells" / f"{row}__cpu__1-8__seed1" / "last.pt")
    return folder


def test_a_report_without_pictures_shows_no_image(with_work: Path) -> None:
    text = write_report(with_work, pictures=False, **QUICK).read_text(encoding="utf-8")
    assert "Pictures" not in text
    drawn = {path.name for path in (with_work / "report").glob("*.png")}
    assert drawn >= {"methods.png", "learning_curves.png"}
    assert not drawn & {"masks.png", "probabilities.png"}


def test_pictures_come_from_the_first_run_with_checkpoints(with_work: Path) -> None:
    text = write_report(with_work, device="cpu", **QUICK).read_text(encoding="utf-8")
    assert "Of seed 1." in text
    assert "Left out: CutMix (no checkpoint)." in text
    for name in ("masks", "probabilities"):
        assert f"({name}.png)" in text
        assert (with_work / "report" / f"{name}.png").stat().st_size > 5000


def test_groups_are_kept_beside_the_results(with_work: Path) -> None:
    write_report(with_work, draw=False, **QUICK)
    groups = json.loads((with_work / "groups.json").read_text(encoding="utf-8"))
    datalist = load_datalist(with_work / "work" / "data" / "1-8__seed1" / "datalist.json")
    assert groups == {entry["case_id"]: entry["group_id"] for part in datalist.values() for entry in part}
    # a work folder of another data set must not replace them
    other = with_work / "other"
    prepare_folder(write_phantoms(other / "in", 30, seed=1), other / "data" / "1-8__seed1", labeled=4, progress=False)
    write_report(with_work, work=other, draw=False, **QUICK)
    assert json.loads((with_work / "groups.json").read_text(encoding="utf-8")) == groups
    # read back where the work folder is gone
    groups = {f"case {number:02d}": f"g{number // 2}" for number in range(20)}
    (with_work / "groups.json").write_text(json.dumps(groups), encoding="utf-8")
    (with_work / "work").rename(with_work / "elsewhere")
    text = write_report(with_work, draw=False, **QUICK).read_text(encoding="utf-8")
    assert "20 images with a lesion in 10 groups" in text
    assert "These are few images to test on" in text
    assert "p (Holm), group means" in text
    assert {row["groups"] for row in records(with_work / "report" / "statistics.csv")} == {"10"}


def test_every_commit_is_named_also_the_unknown_one(make_comparison: Make) -> None:
    changes: dict[str, dict[str, Any]] = {
        "sup_only__cpu__1-8__seed0": {"commit": "a1"},
        "sup_only__cpu__1-8__seed1": {"commit": "b2"},
        "cutmix__cpu__1-8__seed0": {"commit": None},
        "cutmix__cpu__1-8__seed1": {"commit": None},
        "phnet__cpu__1-8__seed0": {"commit": "a1"},
    }
    missing = ("phnet__cpu__1-8__seed1",)
    text = write_report(make_comparison(changes=changes, missing=missing), draw=False, **QUICK).read_text("utf-8")
    assert "- commit: a1 (2); b2 (1); unknown (2)\n" in text
    assert "- steps: 300\n" in text


def test_the_starts_are_named_with_the_rows_that_began_from_them(make_comparison: Make) -> None:
    starts = {"sup_only": "warm_start", "phnet": "warm_start", "cutmix": "bcp_warm_start"}
    changes = {
        f"{row}__cpu__1-8__seed{seed}": {"warm_start": {"name": f"{start}__cpu__1-8__seed{seed}__0a1b", "steps": 600}}
        for row, start in starts.items()
        for seed in (0, 1)
    }
    folder = make_comparison(changes=changes)
    text = write_report(folder, draw=False, **QUICK).read_text(encoding="utf-8")
    assert (
        "- start `warm_start__0a1b`, 600 steps: SupOnly; PH-Net\n- start `bcp_warm_start__0a1b`, 600 steps: CutMix\n"
        in text
    )


def test_starts_of_several_profiles_are_told_apart() -> None:
    def of(profile: str, start: dict | None) -> SimpleNamespace:
        cell = SimpleNamespace(profile=profile, split="1-8__seed0", row=SimpleNamespace(label="A"))
        return SimpleNamespace(cell=cell, content={"warm_start": start})

    own = of("cpu", {"name": "warm_start__cpu__1-8__seed0", "steps": 6})
    assert _starts(SimpleNamespace(finished=(own,))) == {"start `warm_start`, 6 steps": "all rows"}
    assert _starts(SimpleNamespace(finished=(own, of("paper", None)))) == {
        "start `warm_start`, 6 steps, profile `cpu`": "A",
        "no start but the profile's labeled-only epochs, profile `paper`": "A",
    }


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_and_their_overlays_are_there(name: str) -> None:
    matrix = read_matrix(bundle_folder() / "configs" / "compare" / f"{name}.json")
    check_matrix(matrix)
    assert len({row.label for row in matrix.rows}) == len(matrix.rows)


def test_presets_have_the_papers_figures() -> None:
    folder = bundle_folder() / "configs" / "compare"
    rows = {name: {row.name: row for row in read_matrix(folder / f"{name}.json").rows} for name in PRESETS}
    assert list(rows["table2"]) == ["SupOnly", "I", "II", "III"]
    assert rows["table1"]["augseg"].paper["BUSI"]["1/4"] == {"dice": 76.16, "std": 1.13, "p": 0.023}
    assert rows["table1"]["phnet"].paper["UDIAT"]["1/8"] == {"dice": 84.99, "std": 0.33}
    # as METHODS.md found: every pair of Tables 2 and 3 obeys IoU = D / (2 - D)
    for name in ("table2", "table3a", "table3b", "table3c"):
        for row in rows[name].values():
            for printed in row.paper.get("UDIAT", {}).values():
                dice = printed["dice"] / 100
                assert 100 * dice / (2 - dice) == pytest.approx(printed["iou"], abs=0.015), row.name
    # PH-Net with ResNet-50 is the paper's best everywhere, and the only row without a p
    best = rows["table1"]["phnet"].paper
    for other in rows["table1"].values():
        for dataset, fractions in {k: v for k, v in other.paper.items() if k != "note"}.items():
            assert set(fractions) == {"1/2", "1/4", "1/8"}
            for labeled, printed in fractions.items():
                assert printed["dice"] <= best[dataset][labeled]["dice"]
                assert ("p" in printed) == (other.name != "phnet")
    for name, known in (("table3a", "hard"), ("table3b", "beta_30"), ("table3c", "gamma_90"), ("table2", "III")):
        assert rows[name][known].paper["UDIAT"] == {"1/4": {"dice": 86.23, "iou": 75.8}}
