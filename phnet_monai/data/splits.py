"""Who is trained on, who is tested on: the parts of a dataset.

All draws are by the SHA-256 of the seed and the name of an image, not by a library's random generator: a split is the
same under every version of numpy, and does not depend on the order in which a file system lists the files.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction

from phnet_monai.data.records import Record, shorten

PARTS = ("labeled", "unlabeled", "validation", "test")
PROTOCOLS = ("grouped", "paper")
SIDES = {"labeled": "training", "unlabeled": "training", "validation": "validation", "test": "test"}
"""Which side of the split a part is on: what is trained on, with or without masks, is one side."""


def make_splits(
    records: Sequence[Record],
    *,
    protocol: str = "grouped",
    labeled: str | int | float = "1/8",
    seed: int = 0,
    split_seed: int | None = None,
    ratios: tuple[int, int, int] = (8, 1, 1),
    folds: int | None = None,
    fold: int | None = None,
) -> dict[str, list[Record]]:
    """Divide a dataset into labeled, unlabeled, validation and test images.

    Validation and test depend on `split_seed`, `protocol`, `ratios` and the fold alone, never on `labeled`. For one
    pair of seeds a smaller labeled set is contained in every larger one. Labeled images are drawn at random from the
    training images, balanced by class; near-duplicates between labeled and unlabeled images are no leak.

    Args:
        records: images with unique `case_id`. Those without masks go to `unlabeled` and nowhere else.
        protocol: "grouped" keeps images of one `group_id` on one side (a record without group is its own group);
            "paper" is the random split of the literature, which ignores groups and leaks near-duplicates.
        labeled: how many training images show their mask: a fraction of them ("1/8" or 0.125, rounded down) or a
            number of images (32 or "32").
        seed: which labeled images are drawn.
        split_seed: which images are for training, validation and test; `seed` where not given. Several labeled draws
            with one `split_seed` share their test images.
        ratios: sizes of training : validation : test. Validation and test are rounded, training takes the rest.
        folds, fold: for cross-validation, the number of folds and which of them, counted from 1, is the test part;
            every image that may be tested on is in the test part of exactly one fold. The validation part, of the size
            that `ratios` asks for, is drawn from the rest. "grouped" keeps groups within a fold; both protocols
            balance the classes.

    Returns:
        dict with the keys labeled, unlabeled, validation, test; each part keeps the order of `records`.

    Raises:
        ValueError: unknown protocol, impossible numbers, too few images or groups; the message says which.
    """
    check_split_arguments(
        protocol=protocol, labeled=labeled, seed=seed, split_seed=split_seed, ratios=ratios, folds=folds, fold=fold
    )
    _check_unique(records)
    split_seed = seed if split_seed is None else split_seed
    outlined = [record for record in records if record.masks]
    sizes = _part_sizes(len(outlined), ratios)
    divide = _divide_by_group if protocol == "grouped" else _divide_at_random
    if folds is None or fold is None:
        chosen = divide(records, sizes, split_seed)
    else:
        tested = _fold_members(records, divide, folds, fold, split_seed)
        rest = [record for record in records if record.case_id not in tested]
        sizes = {"validation": sizes["validation"], "train": len(outlined) - len(tested) - sizes["validation"]}
        if sizes["train"] < 1:
            raise ValueError(f"{folds} folds of {len(outlined)} images leave none to train on. Ask for more folds.")
        chosen = dict.fromkeys(tested, "test") | divide(rest, sizes, split_seed)
    training = [record for record in outlined if chosen[record.case_id] == "train"]
    shown = {record.case_id for record in _draw_labeled(training, labeled, seed)}
    parts: dict[str, list[Record]] = {part: [] for part in PARTS}
    for record in records:
        part = chosen.get(record.case_id, "train")
        if part == "train":
            part = "labeled" if record.case_id in shown else "unlabeled"
        parts[part].append(record)
    if protocol == "grouped":
        assert_no_leak(parts)
    return parts


def check_split_arguments(
    *,
    protocol: str,
    labeled: str | int | float,
    seed: int,
    split_seed: int | None = None,
    ratios: tuple[int, int, int] = (8, 1, 1),
    folds: int | None = None,
    fold: int | None = None,
) -> None:
    """Check what can be checked before any image is read. Raises ValueError."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol is {protocol!r}, expected one of {', '.join(PROTOCOLS)}.")
    parse_labeled(labeled)
    for name, value in (("seed", seed), ("split_seed", split_seed), ("folds", folds), ("fold", fold)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise ValueError(f"{name} is {value!r}, expected a whole number.")
    if len(ratios) != 3 or min(ratios) <= 0:
        raise ValueError(f"ratios are {ratios!r}, expected three positive numbers, for example (8, 1, 1).")
    if (folds is None) != (fold is None):
        raise ValueError(f"folds is {folds} and fold is {fold}; give both (cross-validation) or neither.")
    if folds is not None and fold is not None:
        if folds < 2:
            raise ValueError(f"folds is {folds}, expected 2 or more.")
        if not 1 <= fold <= folds:
            raise ValueError(f"fold is {fold}, expected 1 to {folds}.")


def parse_labeled(labeled: str | int | float) -> Fraction | int:
    """A fraction of the training images in (0, 1], or a positive number of images.

    Whatever has a slash or a decimal point ("1/8", "0.125", 0.125) is a fraction, whole numbers (32, "32") are counts.

    Raises:
        ValueError: anything else.
    """
    hint = "give a fraction such as '1/8' or a number of images such as 32"
    if isinstance(labeled, bool) or not isinstance(labeled, (str, int, float)):
        raise ValueError(f"labeled is {labeled!r}; {hint}.")
    text = str(labeled).strip()
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"labeled is {labeled!r}; {hint}.") from None
    is_count = text.lstrip("+-").isdecimal()
    if value <= 0 or (not is_count and value > 1):
        raise ValueError(f"labeled is {labeled!r}, which is {'not positive' if value <= 0 else 'above 1'}; {hint}.")
    return int(value) if is_count else value


def assert_no_leak(parts: Mapping[str, Iterable[Record]]) -> None:
    """Check that no image and no group lies on two sides (training, validation, test).

    Args:
        parts: as returned by `make_splits`; labeled and unlabeled are the same side.

    Raises:
        ValueError: names the first groups or images that do.
    """
    sides: dict[str, set[str]] = defaultdict(set)
    for part, records in parts.items():
        for record in records:
            sides[f"image {record.case_id}"].add(SIDES[part])
            if record.group_id is not None:
                sides[f"group {record.group_id}"].add(SIDES[part])
    leaks = [f"{name} ({', '.join(sorted(where))})" for name, where in sorted(sides.items()) if len(where) > 1]
    if leaks:
        raise ValueError(f"The split leaks: {len(leaks)} images or groups lie on two sides: {shorten(leaks)}.")


def _check_unique(records: Sequence[Record]) -> None:
    double = [name for name, count in Counter(record.case_id for record in records).items() if count > 1]
    if double:
        raise ValueError(f"case_id must be unique, {len(double)} stand twice or more: {shorten(double)}.")


def _part_sizes(count: int, ratios: tuple[int, int, int]) -> dict[str, int]:
    total = Fraction(sum(Fraction(ratio) for ratio in ratios))
    # floor(x + 1/2): Python's round() takes halves to even numbers, which would make 65 images give 6
    held_out = [math.floor(count * Fraction(ratio) / total + Fraction(1, 2)) for ratio in ratios[1:]]
    sizes = {"validation": held_out[0], "test": held_out[1], "train": count - sum(held_out)}
    if min(sizes.values()) < 1:
        raise ValueError(
            f"{count} images with a mask cannot be divided {':'.join(map(str, ratios))}: every part needs one image at "
            "least. Add outlined images."
        )
    return sizes


def _draw(seed: int, purpose: str, name: str) -> str:
    """A random number, as text, that depends on these three and nothing else."""
    return hashlib.sha256(f"{seed}\n{purpose}\n{name}".encode(errors="surrogateescape")).hexdigest()


def _balanced_order(records: Sequence[Record], seed: int, purpose: str) -> list[Record]:
    """Random order in which every beginning holds the classes in their proportions, to within one image a class."""
    by_class: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_class[record.class_name or ""].append(record)
    placed = []
    for members in by_class.values():
        shuffled = sorted(members, key=lambda record: _draw(seed, purpose, record.case_id))
        for rank, record in enumerate(shuffled):
            place = Fraction(2 * rank + 1, 2 * len(members))
            placed.append((place, _draw(seed, purpose, record.case_id), record))
    return [record for _, _, record in sorted(placed, key=lambda entry: entry[:2])]


Divide = Callable[..., dict[str, str]]
"""(records, size of each part, seed, purpose="split") -> part by case_id; the names of the parts are free."""


def _fold_members(records: Sequence[Record], divide: Divide, folds: int, fold: int, seed: int) -> set[str]:
    """case_id of the images in the test part of one fold."""
    free = _testable(records) if divide is _divide_by_group else [record for record in records if record.masks]
    if len(free) < folds:
        raise ValueError(f"{len(free)} images can be tested on, too few for {folds} folds. Ask for fewer folds.")
    sizes = {f"fold {number}": len(free) // folds + (number <= len(free) % folds) for number in range(1, folds + 1)}
    return {case for case, name in divide(free, sizes, seed, "folds").items() if name == f"fold {fold}"}


def _testable(records: Sequence[Record]) -> list[Record]:
    """Records of groups that are fully outlined; the others can only be trained on."""
    return [r for members in _by_group(records).values() if all(m.masks for m in members) for r in members]


def _by_group(records: Sequence[Record]) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[f"g:{record.group_id}" if record.group_id is not None else f"i:{record.case_id}"].append(record)
    return groups


def _divide_at_random(
    records: Sequence[Record], sizes: Mapping[str, int], seed: int, purpose: str = "split"
) -> dict[str, str]:
    order = _balanced_order([record for record in records if record.masks], seed, purpose)
    # a slice of a balanced order is itself balanced by class
    places = (name for name, size in sizes.items() for _ in range(size))
    return {record.case_id: name for record, name in zip(order, places, strict=True)}


def _divide_by_group(
    records: Sequence[Record], sizes: Mapping[str, int], seed: int, purpose: str = "split"
) -> dict[str, str]:
    groups = _by_group(records)
    _check_enough_groups(groups, len(sizes))
    targets = _class_targets(records, sizes)
    filled: dict[str, Counter[str]] = {part: Counter() for part in sizes}
    chosen: dict[str, str] = {}
    # real groups first, single images last: these then fill the parts to their exact sizes
    for name in sorted(groups, key=lambda name: (len(groups[name]) == 1, _draw(seed, purpose, name))):
        members = groups[name]
        counts = Counter(record.class_name or "" for record in members if record.masks)
        bare = any(not record.masks for record in members)
        # an image without mask can only be trained on, so its whole group must be
        part = "train" if bare else _neediest_part(counts, filled, targets, sizes, _draw(seed, "tie", name))
        filled[part] += counts
        chosen.update((record.case_id, part) for record in members)
    missing = [part for part in sizes if not filled[part]]
    if missing:
        raise ValueError(
            f"No image is left for {' and '.join(missing)}: too many outlined images share a group with images "
            "that must be in training, or the groups are too large. Add outlined images, or use protocol='paper'."
        )
    return chosen


def _check_enough_groups(groups: Mapping[str, Sequence[Record]], parts: int) -> None:
    free = sum(all(record.masks for record in members) for members in groups.values())
    if len(groups) < parts or free < parts - 1:
        raise ValueError(
            f"The images form {len(groups)} groups, {free} of them fully outlined; a grouped split into {parts} parts "
            f"needs {parts} groups and {parts - 1} that are fully outlined, to test on. Add images of other patients."
        )


def _class_targets(records: Sequence[Record], sizes: Mapping[str, int]) -> dict[str, dict[str, Fraction]]:
    per_class = Counter(record.class_name or "" for record in records if record.masks)
    total = sum(per_class.values())
    return {
        part: {name: Fraction(size * count, total) for name, count in per_class.items()} for part, size in sizes.items()
    }


def _neediest_part(
    counts: Counter[str],
    filled: Mapping[str, Counter[str]],
    targets: Mapping[str, Mapping[str, Fraction]],
    sizes: Mapping[str, int],
    tie: str,
) -> str:
    """The part that lacks these classes most, relative to its size, among those that the group still fits into."""
    weight = counts.total()
    # a group that would fill half of a small part would decide its score alone: such a group is trained on
    fitting = [
        part
        for part, size in sizes.items()
        if filled[part].total() + weight <= size and (part == "train" or 2 * weight <= max(size, 2))
    ]
    if not fitting:
        return max(sizes, key=lambda part: (sizes[part] - filled[part].total(), part))

    def need(part: str) -> tuple[Fraction, str]:
        lacks = sum(
            (count * (1 - filled[part][name] / targets[part][name]) for name, count in counts.items()), Fraction(0)
        )
        return lacks, hashlib.sha256(f"{tie}{part}".encode()).hexdigest()

    return max(fitting, key=need)


def _draw_labeled(training: Sequence[Record], labeled: str | int | float, seed: int) -> list[Record]:
    wanted = parse_labeled(labeled)
    count = wanted if isinstance(wanted, int) else math.floor(len(training) * wanted)
    if count < 1:
        raise ValueError(f"labeled={labeled} of {len(training)} training images is none. Ask for a larger share.")
    if count > len(training):
        raise ValueError(
            f"labeled={labeled} asks for {count} images, but only {len(training)} training images have a mask. "
            "Ask for fewer."
        )
    return _balanced_order(training, seed, "labeled")[:count]
