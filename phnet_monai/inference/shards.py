"""One folder over several processes (`torchrun -m phnet_monai infer ...`), with one summary."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """Which of `world` processes this one is; `local` counts those of this machine (it chooses the GPU)."""

    rank: int = 0
    world: int = 1
    local: int = 0

    def share(self, items: Sequence[Item]) -> list[Item]:
        """Every `world`-th item, beginning with the `rank`-th."""
        return list(items[self.rank :: self.world])

    def gather(self, value: Any) -> list[Any] | None:
        """The values of all processes, by rank, in the first process; None in the others. Waits for the last one."""
        if self.world == 1:
            return [value]
        import torch.distributed as dist

        if not dist.is_initialized():
            dist.init_process_group("gloo")
        found: list[Any] | None = [None] * self.world if self.rank == 0 else None
        dist.gather_object(value, found)
        return found

    def close(self) -> None:
        """End the group of processes, if one was begun."""
        if self.world > 1:
            import torch.distributed as dist

            if dist.is_initialized():
                dist.destroy_process_group()


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
