"""Splits: nobody on two sides, sizes as asked, draws that repeat."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from phnet_monai.data import Record, make_splits
from phnet_monai.data.splits import assert_no_leak, parse_labeled


def _records(benign: int, malignant: int, bare: int = 0, group_size: int = 1) -> list[Record]:
    classes = ["benign"] * benign + ["malignant"] * malignant + [None] * bare
    records = []
    for index, name in enumerate(classes):
        image = Path(f"{index}.png")
        masks = (Path(f"{index}_mask.png"),) if name else ()
        group = f"g{index // group_size}" if group_size > 1 else None
        records.append(Record(image, masks, f"case {index}", group, name))
    return records


def _busi_like(seed: int = 0) -> list[Record]:
    """647 images in groups whose sizes are those of BUSI: mostly single, up to seven."""
    rng = np.random.default_rng(seed)
    sizes = rng.choice([1, 2, 3, 7], size=647, p=[0.78, 0.18, 0.03, 0.01])
    group_of = np.repeat(np.arange(647), sizes)[:647]
    names = ["benign"] * 437 + ["malignant"] * 210
    return [
        Record(Path(f"{n}.png"), (Path(f"{n}_mask.png"),), f"case {n}", f"g{group}", name)
        for n, (group, name) in enumerate(zip(group_of, names, strict=True))
    ]


def _names(records: list[Record]) -> set[str]:
    return {record.case_id for record in records}


def _sides(parts: dict[str, list[Record]]) -> tuple[int, int, int]:
    return len(parts["labeled"]) + len(parts["unlabeled"]), len(parts["validation"]), len(parts["test"])


@pytest.mark.parametrize("seed", range(5))
def test_paper_protocol_on_647_images(seed: int) -> None:
    parts = make_splits(_records(437, 210), protocol="paper", seed=seed)
    assert _sides(parts) == (517, 65, 65)
    assert len(parts["labeled"]) == 64


@pytest.mark.parametrize("seed", range(10))
def test_grouped_protocol_keeps_groups_together_and_sizes_close(seed: int) -> None:
    records = _busi_like(seed)
    parts = make_splits(records, seed=seed)
    assert_no_leak(parts)
    assert _sides(parts) == (517, 65, 65)
    assert sorted(record.case_id for records in parts.values() for record in records) == sorted(_names(records))
    held_out = [record for part in ("validation", "test") for record in parts[part]]
    # held-out parts are not made of single images alone
    sizes = Counter(record.group_id for record in records)
    assert (
        0.5 < np.mean([sizes[r.group_id] > 1 for r in held_out]) / np.mean([sizes[r.group_id] > 1 for r in records]) < 2
    )


@pytest.mark.parametrize("protocol", ["paper", "grouped"])
def test_stratified_by_class(protocol: str) -> None:
    parts = make_splits(_busi_like(), protocol=protocol)
    for part, records in parts.items():
        share = Counter(record.class_name for record in records)["malignant"] / len(records)
        assert share == pytest.approx(210 / 647, abs=1.5 / len(records) + (0.02 if protocol == "grouped" else 0)), part


@pytest.mark.parametrize("protocol", ["paper", "grouped"])
def test_labeled_sets_are_nested_and_test_does_not_depend_on_them(protocol: str) -> None:
    draws = [make_splits(_busi_like(), protocol=protocol, labeled=n, seed=3) for n in (8, "1/8", "1/4", "1/2", 1.0)]
    for smaller, larger in itertools.pairwise(draws):
        assert _names(smaller["labeled"]) < _names(larger["labeled"])
        assert smaller["test"] == larger["test"]
        assert smaller["validation"] == larger["validation"]
    assert [len(draw["labeled"]) for draw in draws] == [8, 64, 129, 258, 517]
    assert draws[-1]["unlabeled"] == []


@pytest.mark.parametrize("protocol", ["paper", "grouped"])
def test_seeds(protocol: str) -> None:
    records = _busi_like()
    first = make_splits(records, protocol=protocol, seed=1)
    again = make_splits(records, protocol=protocol, seed=1)
    other = make_splits(records, protocol=protocol, seed=2)
    shared = make_splits(records, protocol=protocol, seed=2, split_seed=1)
    assert first == again
    assert _names(first["test"]) != _names(other["test"])
    assert _names(shared["test"]) == _names(first["test"])
    assert _names(shared["labeled"]) != _names(first["labeled"])


@pytest.mark.parametrize("protocol", ["paper", "grouped"])
def test_order_of_files_does_not_matter(protocol: str) -> None:
    records = _busi_like()
    forward, backward = (make_splits(order, protocol=protocol) for order in (records, records[::-1]))
    assert {part: _names(forward[part]) for part in forward} == {part: _names(backward[part]) for part in backward}


def test_draws_never_change_between_versions() -> None:
    parts = make_splits(_records(20, 10), protocol="paper", seed=0)
    assert [record.case_id for record in parts["test"]] == ["case 4", "case 14", "case 21"]


@pytest.mark.parametrize("protocol", ["paper", "grouped"])
@pytest.mark.parametrize("folds", [2, 5, 7])
def test_every_image_is_tested_in_one_fold(protocol: str, folds: int) -> None:
    records = _busi_like()
    draws = [make_splits(records, protocol=protocol, folds=folds, fold=fold + 1, split_seed=4) for fold in range(folds)]
    tested = Counter(record.case_id for draw in draws for record in draw["test"])
    assert tested == Counter(_names(records))
    for draw in draws:
        assert sum(len(part) for part in draw.values()) == len(records)
        assert _sides(draw)[1] == 65
        assert len(draw["test"]) == pytest.approx(647 / folds, abs=1)
        for part in ("validation", "test"):
            share = Counter(record.class_name for record in draw[part])["malignant"] / len(draw[part])
            assert share == pytest.approx(210 / 647, abs=0.04), part
        if protocol == "grouped":
            assert_no_leak(draw)


@pytest.mark.parametrize("protocol", ["paper", "grouped"])
def test_labeled_sets_of_a_fold_are_nested(protocol: str) -> None:
    options = {"protocol": protocol, "folds": 5, "fold": 3, "split_seed": 0}
    draws = [make_splits(_busi_like(), labeled=n, seed=7, **options) for n in (8, "1/8", "1/2")]
    for smaller, larger in itertools.pairwise(draws):
        assert _names(smaller["labeled"]) < _names(larger["labeled"])
        assert (smaller["test"], smaller["validation"]) == (larger["test"], larger["validation"])
    other = make_splits(_busi_like(), labeled=8, seed=8, **options)
    assert other["test"] == draws[0]["test"]
    assert _names(other["labeled"]) != _names(draws[0]["labeled"])
    assert make_splits(_busi_like(), labeled=8, seed=7, **options) == draws[0]


def test_images_that_can_only_be_trained_on_are_in_no_fold() -> None:
    bare = [Record(Path("bare.png"), (), "bare", "g5"), Record(Path("b2.png"), (), "b2")]
    records = [*_records(60, 40, group_size=2), *bare]
    for fold in range(1, 5):
        parts = make_splits(records, folds=4, fold=fold)
        assert {"bare", "b2"} < _names(parts["unlabeled"])
        assert not any(record.group_id == "g5" for part in ("validation", "test") for record in parts[part])
        assert {len(parts["test"])} <= {24, 26}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 5}, "give both"),
        ({"fold": 1}, "give both"),
        ({"folds": 1, "fold": 1}, "2 or more"),
        ({"folds": 5, "fold": 6}, "expected 1 to 5"),
        ({"folds": 5, "fold": 0}, "expected 1 to 5"),
        ({"folds": 2.5, "fold": 1}, "whole number"),
        ({"folds": 101, "fold": 1}, "too few for 101 folds"),
        ({"folds": 2, "fold": 1, "ratios": (1, 8, 1)}, "leave none to train on"),
    ],
)
def test_impossible_folds(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_splits(_records(60, 40), **options)


@pytest.mark.parametrize("protocol", ["paper", "grouped"])
def test_images_without_mask_are_only_unlabeled(protocol: str) -> None:
    parts = make_splits(_records(40, 20, bare=30), protocol=protocol)
    assert sum(not record.masks for record in parts["unlabeled"]) == 30
    assert all(record.masks for part in ("labeled", "validation", "test") for record in parts[part])
    assert len(parts["labeled"]) == 48 // 8


def test_the_group_of_an_image_without_mask_is_trained_on() -> None:
    records = _records(60, 0, group_size=2)
    bare = Record(Path("bare.png"), (), "bare", "g5")
    for seed in range(20):
        parts = make_splits([*records, bare], seed=seed)
        assert not any(record.group_id == "g5" for part in ("validation", "test") for record in parts[part])


def test_leak_check_sees_groups_and_images() -> None:
    one, two = _records(2, 0, group_size=2)
    with pytest.raises(ValueError, match=r"group g0 \(test, training\)"):
        assert_no_leak({"unlabeled": [one], "test": [two]})
    with pytest.raises(ValueError, match="image case 0"):
        assert_no_leak({"validation": [one], "test": [one]})
    assert_no_leak({"labeled": [one], "unlabeled": [two]})


def test_the_paper_protocol_leaks() -> None:
    with pytest.raises(ValueError, match="leaks"):
        assert_no_leak(make_splits(_busi_like(), protocol="paper"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labeled": "1/1000"}, "is none"),
        ({"labeled": 81}, "only 80 training images"),
        ({"labeled": 0}, "not positive"),
        ({"labeled": -0.5}, "not positive"),
        ({"labeled": 1.5}, "above 1"),
        ({"labeled": "many"}, "give a fraction"),
        ({"labeled": "1/0"}, "give a fraction"),
        ({"labeled": True}, "give a fraction"),
        ({"protocol": "random"}, "expected one of grouped, paper"),
        ({"seed": "a"}, "whole number"),
        ({"ratios": (8, 0, 2)}, "three positive numbers"),
    ],
)
def test_impossible_arguments(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_splits(_records(60, 40), **options)


def test_too_few_images_or_groups() -> None:
    with pytest.raises(ValueError, match="every part needs one image"):
        make_splits(_records(3, 0), protocol="paper")
    with pytest.raises(ValueError, match="form 2 groups"):
        make_splits(_records(40, 0, group_size=20))
    with pytest.raises(ValueError, match="every part needs one image"):
        make_splits(_records(0, 0, bare=20))


def test_double_names_are_refused() -> None:
    records = _records(20, 0)
    with pytest.raises(ValueError, match=r"unique.*case 3"):
        make_splits([*records, records[3]])


@pytest.mark.parametrize(
    ("text", "value"), [("1/8", 0.125), ("0.125", 0.125), (0.125, 0.125), ("32", 32), (32, 32), (1, 1)]
)
def test_labeled_is_a_share_or_a_number(text: str | int | float, value: float) -> None:
    parsed = parse_labeled(text)
    assert parsed == value
    assert isinstance(parsed, int) == (value >= 1)
