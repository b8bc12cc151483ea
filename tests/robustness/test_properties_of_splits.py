"""What holds for every datalist and every split, whatever the sizes, fractions and seeds."""

from __future__ import annotations

import json
import string
from collections import defaultdict
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from phnet_monai.data import Record, load_datalist, load_meta, make_splits, write_datalist
from phnet_monai.data.splits import PARTS, parse_labeled

SAME = settings(
    derandomize=True,
    deadline=None,
    max_examples=50,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)

SEEDS = st.integers(0, 2**32 - 1)
SHARES = st.one_of(
    st.integers(1, 60),
    st.floats(0.01, 1),
    st.tuples(st.integers(1, 8), st.integers(8, 16)).map(lambda pair: f"{pair[0]}/{pair[1]}"),
)


@st.composite
def datasets(draw: st.DrawFn) -> list[Record]:
    """Images of a few classes in groups of one to six, most of them outlined."""
    records: list[Record] = []
    groups = draw(st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=3, max_size=40))
    bare = draw(st.floats(0, 0.4))
    for number, (size, named) in enumerate(groups):
        for member in range(size if named else 1):
            name = f"{number}-{member}"
            outlined = draw(st.floats(0, 1)) >= bare
            records.append(
                Record(
                    image=Path(f"{name}.png"),
                    masks=(Path(f"{name}_mask.png"),) if outlined else (),
                    case_id=name,
                    group_id=f"g{number}" if named else None,
                    class_name=draw(st.sampled_from(["benign", "malignant", None])),
                )
            )
    return records


def split(records: list[Record], **options: Any) -> dict[str, list[Record]]:
    """The split; examples that no split fits are left out: too few images or groups, more labels than images."""
    try:
        return make_splits(records, **options)
    except ValueError as error:
        known = ("cannot be divided", "groups", "No image is left", "Ask for", "leave none to train on")
        assume(not any(words in str(error) for words in known))
        raise


def side_of(part: str) -> str:
    return "training" if part in ("labeled", "unlabeled") else part


@given(records=datasets(), labeled=SHARES, seed=SEEDS, data=st.data())
@SAME
def test_no_group_lies_on_two_sides_and_every_image_in_one_part(
    records: list[Record], labeled: Any, seed: int, data: st.DataObject
) -> None:
    folds = data.draw(st.none() | st.integers(2, 5))
    fold = None if folds is None else data.draw(st.integers(1, folds))
    parts = split(records, labeled=labeled, seed=seed, folds=folds, fold=fold)
    assert set(parts) == set(PARTS)
    sides: dict[str, set[str]] = defaultdict(set)
    for part, members in parts.items():
        for record in members:
            sides[record.group_id or record.case_id].add(side_of(part))
    assert all(len(where) == 1 for where in sides.values())
    found = sorted(record.case_id for members in parts.values() for record in members)
    assert found == sorted(record.case_id for record in records)
    for part in ("labeled", "validation", "test"):
        assert parts[part]
        assert all(record.masks for record in parts[part])


@given(records=datasets(), labeled=SHARES, seed=SEEDS)
@SAME
def test_a_split_depends_on_its_seed_and_not_on_the_order(records: list[Record], labeled: Any, seed: int) -> None:
    first = split(records, labeled=labeled, seed=seed)
    second = split(records[::-1], labeled=labeled, seed=seed)
    for part in PARTS:
        assert {record.case_id for record in first[part]} == {record.case_id for record in second[part]}


@given(records=datasets(), seed=SEEDS, counts=st.tuples(st.integers(1, 20), st.integers(1, 20)))
@SAME
def test_fewer_labels_are_among_more_and_tests_stay(records: list[Record], seed: int, counts: tuple[int, int]) -> None:
    few, many = (split(records, labeled=count, seed=seed) for count in sorted(counts))
    assert {record.case_id for record in few["labeled"]} <= {record.case_id for record in many["labeled"]}
    assert len(few["labeled"]) == min(counts)
    for part in ("validation", "test"):
        assert few[part] == many[part]


@given(SHARES)
@SAME
def test_shares_are_read_as_they_are_written(labeled: Any) -> None:
    value = parse_labeled(labeled)
    assert value > 0
    assert parse_labeled(str(labeled)) == value
    assert isinstance(value, int) == isinstance(labeled, int)


NAMES = st.text(
    st.sampled_from(string.ascii_letters + string.digits + " .,;'()[]#%äß超🩺\"\\\n"), min_size=1, max_size=12
)
WORDS = st.text(st.characters(codec="utf-8"), max_size=12)


@st.composite
def parts_of(draw: st.DrawFn) -> dict[str, list[tuple[str, bool, str | None, str, dict[str, str]]]]:
    """For each part: (name, outlined, group, class, details) of its images; names are unique."""
    names = draw(st.lists(NAMES.map(str.strip).filter(lambda n: n.strip(".")), max_size=12, unique_by=str.casefold))
    parts: dict[str, list[Any]] = {part: [] for part in PARTS}
    for name in names:
        part = draw(st.sampled_from(PARTS))
        outlined = part != "unlabeled" or draw(st.booleans())
        details = draw(st.dictionaries(st.sampled_from(["scanner", "birads"]), WORDS))
        parts[part].append((name, outlined, draw(st.none() | WORDS), draw(WORDS), details))
    return parts


@given(parts=parts_of(), meta=st.dictionaries(st.sampled_from(["dataset", "note"]), WORDS))
@settings(SAME, max_examples=30)
def test_a_datalist_comes_back_as_it_was_written(parts: Any, meta: dict[str, str], tmp_path: Path) -> None:
    def record(name: str, outlined: bool, group: str | None, kind: str, details: dict[str, str]) -> Record:
        image, mask = tmp_path / f"{name}.png", tmp_path / f"{name}.mask.png"
        for path in (image, mask):
            path.write_bytes(name.encode())
        return Record(image, (mask,) if outlined else (), name, group, kind, details)

    written = {part: [record(*entry) for entry in entries] for part, entries in parts.items()}
    write_datalist(written, tmp_path / "list", meta=meta, overwrite=True, progress=False)
    found = load_datalist(tmp_path / "list")
    for part, records in written.items():
        assert len(found[part]) == len(records)
        for entry, original in zip(found[part], records, strict=True):
            assert Path(entry["image"]) == original.image
            masks = [Path(entry[key]) for key in ("label", "hidden_label") if key in entry]
            assert masks == list(original.masks)
            assert ("hidden_label" in entry) == (part == "unlabeled" and bool(original.masks))
            assert entry["case_id"] == original.case_id
            assert entry["group_id"] == (original.case_id if original.group_id is None else original.group_id)
            assert entry["class"] == original.class_name
            assert {key: entry[key] for key in original.details} == original.details
    assert meta.items() <= load_meta(tmp_path / "list").items()
    again = json.loads((tmp_path / "list" / "datalist.json").read_text(encoding="utf-8"))
    assert again["meta"]["counts"] == {part: len(records) for part, records in written.items()}
