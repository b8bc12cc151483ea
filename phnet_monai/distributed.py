"""Several processes started by `torchrun`: one folder over all of them, or one training over several GPUs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

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

        _join("gloo", timeout=LONGEST_WAIT)
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


def start_processes() -> Shard:
    """Join the processes of a training: NCCL where there are GPUs, one for each process of a machine, else gloo.

    Does nothing for a process of its own, and for one that has joined already.
    """
    import torch
    import torch.distributed as dist

    shard = current_shard()
    if shard.world > 1 and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(shard.local)
        _join("nccl" if torch.cuda.is_available() else "gloo")
    return shard


def _join(backend: str, **options: Any) -> None:
    # before the group exists: imported later, by an optimiser's first step or DistributedDataParallel, it keeps a
    # reference to the group for good. Then gloo's threads outlive it, and one that still holds a tensor while Python
    # shuts down aborts the process (SIGABRT, "terminate called without an active exception") after a good run.
    import torch._dynamo.utils  # noqa: F401
    import torch.distributed as dist

    dist.init_process_group(backend, **options)


def end_processes() -> None:
    """Leave the group and end its threads, so that the process ends well. A training holds the group while it runs."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def joined_shard() -> Shard:
    """This process among those that have joined: the only one, where none has."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return Shard()
    return Shard(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", 0)))


def joined_for_training() -> Shard:
    """`joined_shard`, unless several processes would train side by side into one folder, each by itself.

    Raises:
        ValueError: `torchrun` has started several processes, and they have not joined.
    """
    shard, started = joined_shard(), current_shard()
    if started.world > shard.world:
        raise ValueError(
            f"torchrun has started {started.world} processes, and each would train by itself: lay the config "
            "multi_gpu_train.json over the others, or start one process"
        )
    return shard


def local_device() -> torch.device:
    """The GPU of this process, by its number on this machine; the CPU where there is none.

    Raises:
        ValueError: more processes than GPUs.
    """
    import torch

    local = current_shard().local
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if local >= torch.cuda.device_count():
        raise ValueError(
            f"process {local} of this machine has no GPU of its own, there are {torch.cuda.device_count()}; start "
            f"torchrun with --nproc-per-node {torch.cuda.device_count()}"
        )
    return torch.device("cuda", local)


def gather_all(value: Item) -> list[Item]:
    """The values of all joined processes, by rank, in each of them; plain values or CPU tensors."""
    shard = joined_shard()
    if shard.world == 1:
        return [value]
    import torch.distributed as dist

    values: list[Any] = [None] * shard.world
    dist.all_gather_object(values, value)
    return values


def average_(tensors: Sequence[torch.Tensor]) -> None:
    """Each tensor becomes its mean over the joined processes, in place; one message for those of one type."""
    shard = joined_shard()
    if shard.world == 1 or not tensors:
        return
    import torch
    import torch.distributed as dist

    for dtype in {tensor.dtype for tensor in tensors}:
        same = [tensor for tensor in tensors if tensor.dtype == dtype]
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in same])
        dist.all_reduce(flat)
        flat /= shard.world
        parts = flat.split([tensor.numel() for tensor in same])
        with torch.no_grad():
            for tensor, part in zip(same, parts, strict=True):
                tensor.copy_(part.view_as(tensor))


def summed(value: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over the joined processes; the tensor itself for one process. Without gradient."""
    if joined_shard().world == 1:
        return value
    import torch.distributed as dist

    total = value.detach().clone()
    dist.all_reduce(total)
    return total


def greatest(number: int, device: torch.device) -> int:
    """The greatest number that any of the joined processes has."""
    if joined_shard().world == 1:
        return number
    import torch
    import torch.distributed as dist

    tensor = torch.tensor(number, device=device)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return int(tensor)
