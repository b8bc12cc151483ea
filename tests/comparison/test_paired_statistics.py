"""The reference row against the others, and Dice by lesion size, against scipy and figures worked out by hand."""

from __future__ import annotations

import math
import runpy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from phnet_monai.comparison import statistics
from phnet_monai.comparison.results import read_results
from phnet_monai.comparison.statistics import group_list, paired_records, per_image, size_records

known = runpy.run_path(str(Path(__file__).with_name("conftest.py")))["known_dice"]
Make = Callable[..., Path]
CASES = range(20)


def dice_of(folder: Path, row: str, runs: list[tuple[int, int | None]]) -> np.ndarray:
    """(runs, images) straight from the tables."""
    found = {r.run: r.per_image("test", "last") for r in read_results(folder).of("cpu", "1/8")[row]}
    return np.array([[found[run][f"case {n:02d}"]["dice"] for n in CASES] for run in runs])


def test_against_scipy_and_holm_by_hand(make_comparison: Make) -> None:
    folder = make_comparison()
    records = paired_records(read_results(folder), "cpu", "1/8", n_resamples=200)
    assert [record["other"] for record in records] == ["sup_only", "cutmix"]
    runs = [(0, None), (1, None)]
    ours = dice_of(folder, "phnet", runs).mean(axis=0)
    for record in records:
        difference = np.round(ours - dice_of(folder, record["other"], runs).mean(axis=0), 12)
        nonzero = difference[difference != 0]
        assert record["p"] == pytest.approx(stats.wilcoxon(nonzero, method="auto").pvalue)
        assert record["difference"] == pytest.approx(difference.mean())
        assert record["median_difference"] == pytest.approx(np.median(difference))
        ranks = stats.rankdata(np.abs(nonzero))
        expected = (ranks[nonzero > 0].sum() - ranks[nonzero < 0].sum()) / ranks.sum()
        assert record["rank_biserial"] == pytest.approx(expected)
        assert record["difference_low"] < record["difference"] < record["difference_high"]
        assert (record["images"], record["groups"], record["runs"]) == (20, 20, 2)
    first, second = sorted(record["p"] for record in records)
    assert sorted(record["p_holm"] for record in records) == pytest.approx(
        [min(1, 2 * first), min(1, max(2 * first, second))]
    )


def test_bootstrap_interval_is_scipys(make_comparison: Make) -> None:
    folder = make_comparison()
    record = paired_records(read_results(folder), "cpu", "1/8", n_resamples=20_000)[0]
    runs = [(0, None), (1, None)]
    difference = (dice_of(folder, "phnet", runs) - dice_of(folder, "sup_only", runs)).mean(axis=0)
    expected = stats.bootstrap(
        (difference,), np.mean, n_resamples=20_000, method="percentile", rng=1
    ).confidence_interval
    assert (record["difference_low"], record["difference_high"]) == pytest.approx(tuple(expected), abs=0.001)


def test_pooled_difference_by_hand(make_comparison: Make) -> None:
    # all lesions have 1000 pixels and as many false as missed ones, so pooled Dice is the mean of Dice
    folder = make_comparison()
    record = paired_records(read_results(folder), "cpu", "1/8", n_resamples=500)[0]
    assert record["pooled_difference"] == pytest.approx(record["difference"])
    assert record["pooled_difference_low"] == pytest.approx(record["difference_low"])
    assert record["pooled_difference_high"] == pytest.approx(record["difference_high"])


def test_pooled_weighs_by_pixels() -> None:
    counts = np.array([[[30.0, 10.0], [0.0, 10.0], [10.0, 0.0]]])  # tp, fp, fn of two images, one seed
    table = statistics.PerImage(["a", "b"], np.zeros(2), counts, np.zeros(2))
    assert table.pooled() == pytest.approx([80 / 100])
    # the first image drawn twice: its own Dice, 60 / 70
    assert table.pooled(np.array([[2.0, 0.0], [1.0, 1.0]])) == pytest.approx([60 / 70, 0.8])


def test_only_runs_that_both_have_finished_count(make_comparison: Make) -> None:
    def dice(cell, number):
        # seed 1 of the reference would lift it by 0.3
        return 0.4 + 0.01 * number + (0.3 * cell.seed if cell.row.name == "phnet" else 0.01 * (number % 3))

    folder = make_comparison(dice=dice, missing=("sup_only__cpu__1-8__seed1",))
    records = {
        record["other"]: record for record in paired_records(read_results(folder), "cpu", "1/8", n_resamples=100)
    }
    assert records["sup_only"]["runs"] == 1
    assert records["sup_only"]["difference"] == pytest.approx(-0.01 * np.mean([n % 3 for n in CASES]))
    assert records["cutmix"]["difference"] == pytest.approx(0.15 - 0.01 * np.mean([n % 3 for n in CASES]))


def test_without_the_reference_or_a_common_run_there_is_nothing(make_comparison: Make) -> None:
    missing = ("phnet__cpu__1-8__seed0", "sup_only__cpu__1-8__seed1", "cutmix__cpu__1-8__seed1")
    folder = make_comparison(missing=missing)
    assert paired_records(read_results(folder), "cpu", "1/8") == []
    (folder / "results" / "phnet__cpu__1-8__seed1.json").unlink()
    assert paired_records(read_results(folder), "cpu", "1/8") == []


def test_other_images_are_refused(make_comparison: Make) -> None:
    folder = make_comparison(images=lambda cell: list(range(20 if cell.row.name == "phnet" else 19)))
    with pytest.raises(ValueError, match="phnet and sup_only .* were scored on different test images"):
        paired_records(read_results(folder), "cpu", "1/8")


def test_images_without_lesion_are_left_out(make_comparison: Make) -> None:
    folder = make_comparison(
        dice=lambda cell, number: math.nan if number < 5 else 0.5 + 0.01 * number * (cell.seed + 1)
    )
    record = paired_records(read_results(folder), "cpu", "1/8", n_resamples=50)[0]
    assert record["images"] == 15
    assert (record["p"], record["difference"]) == (1, 0)


def test_folds_stand_side_by_side(make_comparison: Make) -> None:
    """Three folds of 20 images are one table of 20 images."""

    def images(cell):
        return [number for number in CASES if cell.fold in (None, number % 3 + 1)]

    folder = make_comparison(folds=3, images=images)
    in_folds = paired_records(read_results(folder), "cpu", "1/8", n_resamples=300)
    folder.rename(folder.with_name("folds"))
    at_once = paired_records(read_results(make_comparison()), "cpu", "1/8", n_resamples=300)
    for one, other in zip(in_folds, at_once, strict=True):
        assert (one["runs"], other["runs"]) == (6, 2)
        assert {key: one[key] for key in one if key != "runs"} == pytest.approx(
            {key: other[key] for key in other if key != "runs"}
        )


def test_groups_are_drawn_together(make_comparison: Make) -> None:
    results = read_results(make_comparison())
    single = paired_records(results, "cpu", "1/8", n_resamples=4000)[0]
    groups = {f"case {number:02d}": f"g{number % 5}" for number in CASES if number != 19}
    grouped = paired_records(results, "cpu", "1/8", groups=groups, n_resamples=4000)[0]
    assert (single["groups"], grouped["groups"]) == (20, 6)
    # the bonus of an image depends on number % 5: members of a group are alike
    assert grouped["difference_high"] - grouped["difference_low"] > 1.3 * (
        single["difference_high"] - single["difference_low"]
    )
    assert group_list(["a", "b"], {"a": "g"}) == ["g", "case b"]
    assert group_list(["a"], {}) is None


def test_the_test_on_group_means_against_scipy_and_holm_by_hand(make_comparison: Make) -> None:
    folder = make_comparison()
    groups = {f"case {number:02d}": f"g{min(number // 2, 7)}" for number in CASES if number != 19}  # sizes 2 to 5, 1
    members = [[n for n in CASES if groups.get(f"case {n:02d}") == f"g{g}"] for g in range(8)] + [[19]]
    records = paired_records(read_results(folder), "cpu", "1/8", groups=groups, n_resamples=50)
    runs = [(0, None), (1, None)]
    ours = dice_of(folder, "phnet", runs).mean(axis=0)
    for record in records:
        difference = ours - dice_of(folder, record["other"], runs).mean(axis=0)
        means = np.round([difference[numbers].mean() for numbers in members], 12)
        assert (record["images"], record["groups"]) == (20, 9)
        assert record["p_groups"] == pytest.approx(stats.wilcoxon(means[means != 0], method="auto").pvalue)
        assert record["p_groups"] != record["p"]
    first, second = sorted(record["p_groups"] for record in records)
    assert sorted(record["p_groups_holm"] for record in records) == pytest.approx(
        [min(1, 2 * first), min(1, max(2 * first, second))]
    )
    text = statistics.paired_table(records, "PH-Net")
    header, _, *lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    column = header.index("p (Holm), group means")
    assert [line[column] for line in lines] == [statistics.p_text(record["p_groups_holm"]) for record in records]


def test_where_every_image_is_a_group_both_tests_are_one(make_comparison: Make) -> None:
    results = read_results(make_comparison())
    for groups in (None, {f"case {number:02d}": str(number) for number in CASES}):
        for record in paired_records(results, "cpu", "1/8", groups=groups, n_resamples=50):
            assert (record["p_groups"], record["p_groups_holm"]) == (record["p"], record["p_holm"])


def test_twins_make_an_image_no_more_than_one_piece_of_evidence(make_comparison: Make) -> None:
    """Ten images twice: the test on images takes the copies for new evidence, the one on groups does not."""
    single = make_comparison(images=lambda cell: list(range(10)))
    (alone, *_) = paired_records(read_results(single), "cpu", "1/8", n_resamples=50)
    single.rename(single.with_name("single"))
    twins = make_comparison(dice=lambda cell, number: known(cell, number % 10))
    groups = {f"case {number:02d}": str(number % 10) for number in CASES}
    (doubled, *_) = paired_records(read_results(twins), "cpu", "1/8", groups=groups, n_resamples=50)
    assert doubled["p"] < alone["p"]
    assert doubled["p_groups"] == pytest.approx(alone["p"])


def test_per_image_needs_every_table(make_comparison: Make) -> None:
    folder = make_comparison()
    (folder / "results" / "phnet__cpu__1-8__seed1__test.csv").unlink()
    finished = read_results(folder).of("cpu", "1/8")["phnet"]
    assert per_image(finished, [(0, None)], "test", "last") is not None
    assert per_image(finished, [(0, None), (1, None)], "test", "last") is None
    assert per_image(finished, [], "test", "last") is None
    assert len(paired_records(read_results(folder), "cpu", "1/8")) == 0


def test_quarters_of_lesion_area(make_comparison: Make) -> None:
    # areas are 1 % to 20 %: quarters of five images each
    folder = make_comparison(dice=lambda cell, number: 0.1 * (number // 5) + 0.2 + 0.02 * cell.seed, seeds=(0, 1))
    records = [r for r in size_records(read_results(folder), "cpu", "1/8", n_resamples=50) if r["row"] == "phnet"]
    assert [r["images"] for r in records] == [5, 5, 5, 5]
    assert [r["dice"] for r in records] == pytest.approx([0.21, 0.31, 0.41, 0.51])
    edges = np.quantile(0.01 * np.arange(1, 21), [0, 0.25, 0.5, 0.75, 1])
    assert [r["area_low"] for r in records] == pytest.approx(edges[:4])
    assert [r["area_high"] for r in records] == pytest.approx(edges[1:])
    assert all(r["dice_low"] == pytest.approx(r["dice"]) == pytest.approx(r["dice_high"]) for r in records)


def test_too_few_images_for_quarters(make_comparison: Make) -> None:
    folder = make_comparison(images=lambda cell: [0, 1, 2])
    assert size_records(read_results(folder), "cpu", "1/8") == []


def test_texts() -> None:
    assert statistics.points(0.0204) == "+2.0"
    assert statistics.interval_text(-0.01, 0.031) == "-1.0 to +3.1"
    assert statistics.interval_text(math.nan, math.nan) == "-"
    assert (statistics.p_text(0.0004), statistics.p_text(0.04)) == ("< 0.001", "0.040")
