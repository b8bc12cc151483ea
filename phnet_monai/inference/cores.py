"""How the network shares the cores of the CPU with those that read and write."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from phnet_monai.inference.predictor import Predictor

Answer = TypeVar("Answer")

HEAVY = 0.1
"""Seconds of one core that a frame takes in the network, several times what its reading, measuring and writing take."""

MOST_LANES = 4
"""Batches in the network at once, at most: more would wait for the two threads that read."""


class NetworkThreads:
    """Where batches go through the network: one at a time on all cores, or several at once, each on cores of its own.

    A small network on the CPU gains little from several cores for one batch, and where one of them reads or writes
    meanwhile, all wait for it at every layer. From its second batch on each core therefore takes a batch of its own.
    A large network, whose batches take much memory and in which readers and writers hardly matter, keeps all cores for
    one batch; so does, for its first, any network, since that may be the only one. Other devices and runtimes get one
    batch at a time, and so do networks that are not known to keep no state (`stateless`), such as foreign TorchScript.
    Beside a runtime with threads of its own (`own_threads`) torch gets a single one: what is left to it, the fitting
    of images, is so little that two threads on busy cores mostly wait for each other.

    Args:
        predictor: whose batches they are.
    """

    def __init__(self, predictor: Predictor) -> None:
        stateless = getattr(predictor.network, "stateless", None) is True
        self.may_share = stateless and str(predictor.device) == "cpu"
        self.own_threads = getattr(predictor.network, "own_threads", None) is True
        self.lanes = 1
        self.pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> NetworkThreads:
        self.cores = torch.get_num_threads()
        if self.own_threads:
            torch.set_num_threads(1)
        return self

    def submit(self, work: Callable[[], Answer], frames: int) -> Future[Answer]:
        """Begin `work`, a batch of so many frames; where batches go one at a time it is done on return."""
        if self.pool is not None:
            return self.pool.submit(work)
        done: Future[Answer] = Future()
        begun = time.perf_counter()
        done.set_result(work())
        if self.may_share and (time.perf_counter() - begun) * self.cores < HEAVY * frames:
            self._share()
        return done

    def one_at_a_time(self) -> None:
        """From now on, since memory does not suffice for more; who submits has to wait for what is under way."""
        self.lanes, self.may_share = 1, False

    def _share(self) -> None:
        self.lanes = min(self.cores, MOST_LANES)
        if self.lanes > 1:
            each = self.cores // self.lanes
            torch.set_num_threads(each)  # of threads that begin to use torch from now on
            self.pool = ThreadPoolExecutor(
                self.lanes, thread_name_prefix="network", initializer=torch.set_num_threads, initargs=(each,)
            )

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self.cores)
