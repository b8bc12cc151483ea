"""Working through many items with bounded memory: reading ahead, and batches that come apart where they fail."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")
Answer = TypeVar("Answer")

READERS = 2
"""Threads that decode the next items while the network works on the present ones."""


def read_ahead(
    items: Iterable[Item],
    read: Callable[[Item], Read],
    *,
    ahead: int,
    weight: Callable[[Item], int] = lambda item: 1,
) -> Generator[tuple[Item, Read | BaseException], None, None]:
    """Each item in order with what `read` gives for it, or with the error that it raises.

    Close it (`contextlib.closing`) where it may be left early: what the garbage collector closes later, perhaps in a
    thread that is just starting, waits for its own threads there, for ever.

    Args:
        read: called in threads.
        ahead: items that wait in memory at most, each counted with its `weight`.
    """
    waiting: deque[tuple[Item, Future[Read], int]] = deque()
    with ThreadPoolExecutor(READERS, thread_name_prefix="read") as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(read, item), weight(item)))
                while sum(counted for _, _, counted in waiting) > ahead:
                    first, future, _ = waiting.popleft()
                    yield first, future.exception() or future.result()
            while waiting:
                first, future, _ = waiting.popleft()
                yield first, future.exception() or future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def answer_all(
    ask: Callable[[Sequence[Item]], Sequence[Answer]],
    items: Sequence[Item],
    *,
    on_shortage: Callable[[int], Any] | None = None,
) -> list[Answer | Exception]:
    """Ask for all items together; where that fails, for each half, so that only the guilty fail.

    Args:
        ask: gives one answer per item, in order.
        on_shortage: called with the size of the halves where memory did not suffice.

    Returns:
        an answer or an error for each item.
    """
    if not items:
        return []
    try:
        return list(ask(items))
    except Exception as error:
        # its traceback holds what the network had allocated: no memory would be free for the next try
        failure = error.with_traceback(None)
    if len(items) == 1:
        return [failure]
    half = (len(items) + 1) // 2
    if is_out_of_memory(failure):
        release_memory()
        if on_shortage is not None:
            on_shortage(half)
    return [
        answer for part in (items[:half], items[half:]) for answer in answer_all(ask, part, on_shortage=on_shortage)
    ]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch, numpy or a runtime says that memory did not suffice."""
    text = str(error).lower()
    known = (
        "out of memory",
        "not enough memory",
        "can't allocate memory",
        "failed to allocate",
        "bad_alloc",
        "could not create a primitive",
        "storage size calculation overflowed",
    )
    return isinstance(error, MemoryError) or any(words in text for words in known)


def release_memory() -> None:
    """Give unused memory of a GPU back before a smaller batch is tried."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
