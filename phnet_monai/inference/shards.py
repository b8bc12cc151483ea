"""One folder over several processes (`torchrun -m phnet_monai infer ...`), with one summary."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

Item = TypeVar("Item")
LONGEST_WAIT = timedelta(days=30)
"""Processes wait for one another as long as the slowest share takes; `torchrun` itself ends all if one dies."""


@dataclass(frozen=True)
class Shard:
    """Which of `world` processes this one is; `local` counts those of this machine (it chooses the GPU)."""

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        return self.rank == 0

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Inside, the processes can talk to one another."""
        if self.world == 1:
            yield
            return
        import torch.distributed as dist

        dist.init_process_group("gloo", timeout=LONGEST_WAIT)
        try:
            yield
        finally:
            dist.destroy_process_group()

    def share(self, items: Sequence[Item]) -> list[Item]:
        """Every `world`-th item, beginning with the `rank`-th."""
        return list(items[self.rank :: self.world])

    def broadcast(self, value: Item | None) -> Item:
        """What the first process gives, in all of them."""
        values = [value]
        if self.world > 1:
            import torch.distributed as dist

            dist.broadcast_object_list(values, src=0)
        return values[0]  # type: ignore[return-value]

    def gather(self, value: Item) -> list[Item]:
        """The values of all processes, by rank, in the first process; those of others get their own alone."""
        if self.world == 1:
            return [value]
        import torch.distributed as dist

        found: list[Any] | None = [None] * self.world if self.first else None
        dist.gather_object(value, found)
        return found or [value]

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            import torch.distributed as dist

            dist.barrier()


def current_shard() -> Shard:
    """What `torchrun` says of this process; a process of its own without it.

    Raises:
        ValueError: the variables contradict each other.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if not all(name in os.environ for name in names):
        return Shard()
    rank, world, local = (int(os.environ[name]) for name in names)
    if not 0 <= rank < world:
        raise ValueError(f"RANK is {rank} and WORLD_SIZE {world}; start the processes with torchrun")
    return Shard(rank, world, local)
