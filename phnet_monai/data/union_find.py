"""Connected components."""

from __future__ import annotations

from collections.abc import Iterable


def components(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """Component of each of `count` things that are joined by `pairs`.

    Returns:
        component numbers from 0, in the order in which the components first appear.
    """
    parent = list(range(count))

    def root(member: int) -> int:
        while parent[member] != member:
            parent[member] = parent[parent[member]]  # halves the path, so that later look-ups are short
            member = parent[member]
        return member

    for one, other in pairs:
        parent[root(other)] = root(one)
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root(member), len(numbers)) for member in range(count)]
