"""Reading ahead, and batches that come apart."""

from __future__ import annotations

import threading

import pytest

from phnet_monai.inference.batches import answer_all, is_out_of_memory, read_ahead


def test_items_come_in_order_with_what_was_read_or_went_wrong() -> None:
    def read(item: int) -> int:
        if item == 3:
            raise OSError("three")
        return item * item

    found = list(read_ahead(range(6), read, ahead=2))
    assert [item for item, _ in found] == list(range(6))
    assert [answer for item, answer in found if item != 3] == [0, 1, 4, 16, 25]
    assert isinstance(found[3][1], OSError)


def test_no_more_is_read_than_may_wait() -> None:
    begun: list[int] = []
    reading = read_ahead(range(100), lambda item: begun.append(item) or item, ahead=6, weight=lambda item: 3)
    next(reading)
    assert len(begun) <= 3  # two of weight three wait, and the one that was given out
    reading.close()
    assert len(begun) <= 3


def test_what_is_not_needed_any_more_is_not_read() -> None:
    gate, begun = threading.Event(), []

    def read(item: int) -> int:
        begun.append(item)
        if item:
            gate.wait()
        return item

    reading = read_ahead(range(50), read, ahead=20)
    assert next(reading) == (0, 0)
    gate.set()
    reading.close()
    assert len(begun) < 50


def asked(log: list[list[int]], guilty: set[int]):  # type: ignore[no-untyped-def]
    def ask(items: list[int]) -> list[int]:
        log.append(list(items))
        if guilty & set(items):
            raise ValueError(f"{guilty & set(items)}")
        return [-item for item in items]

    return ask


def test_only_the_guilty_fail() -> None:
    log: list[list[int]] = []
    answers = answer_all(asked(log, {5}), list(range(1, 9)))
    assert [a for a in answers if not isinstance(a, Exception)] == [-1, -2, -3, -4, -6, -7, -8]
    assert isinstance(answers[4], ValueError)
    assert answers[4].__traceback__ is None  # it would hold what the network had allocated
    assert log == [list(range(1, 9)), [1, 2, 3, 4], [5, 6, 7, 8], [5, 6], [5], [6], [7, 8]]


def test_nothing_to_ask() -> None:
    log: list[list[int]] = []
    assert answer_all(asked(log, set()), []) == []
    assert log == []


def test_a_shortage_is_told_with_the_size_that_is_tried_next() -> None:
    sizes: list[int] = []

    def ask(items: list[int]) -> list[int]:
        if len(items) > 2:
            raise RuntimeError("CUDA out of memory")
        return items

    assert answer_all(ask, list(range(7)), on_shortage=sizes.append) == list(range(7))
    assert sizes == [4, 2, 2]
    told: list[int] = []
    answer_all(asked([], {1}), [1, 2], on_shortage=told.append)
    assert told == []  # another error is no shortage


@pytest.mark.parametrize(
    ("error", "known"),
    [
        (MemoryError(), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("Storage size calculation overflowed with sizes=[1, 1, 18089287703]"), True),
        (RuntimeError("size mismatch"), False),
    ],
)
def test_what_counts_as_too_little_memory(error: BaseException, known: bool) -> None:
    assert is_out_of_memory(error) is known
