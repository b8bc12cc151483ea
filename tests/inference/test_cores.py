"""Batches in the network: one on all cores, or one on each."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from phnet_monai.inference import Predictor, cores
from phnet_monai.inference.cores import MOST_LANES, NetworkThreads

ALWAYS, NEVER = float("inf"), 0.0
"""Limits of `HEAVY` below which every network, or none, is a small one."""


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


class Stateless(nn.Identity):
    stateless = True


def threads(predictor: Any = None) -> NetworkThreads:
    return NetworkThreads(predictor or Predictor(Stateless(), size=8, pad_value=0.3))


def test_after_the_first_batch_a_small_network_has_a_batch_on_each_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "HEAVY", ALWAYS)
    meeting = threading.Barrier(4, timeout=60)
    with threads() as network:
        assert network.lanes == 1
        first = network.submit(torch.get_num_threads, 16)
        assert (first.done(), first.result(), network.lanes) == (True, 4, 4)

        def work() -> int:
            meeting.wait()  # passes only where four are at work
            return torch.get_num_threads()

        assert [future.result() for future in [network.submit(work, 16) for _ in range(4)]] == [1] * 4
    assert torch.get_num_threads() == 4


def test_many_cores_are_shared_out_to_few_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "HEAVY", ALWAYS)
    torch.set_num_threads(3 * MOST_LANES)
    with threads() as network:
        network.submit(lambda: None, 16)
        assert network.lanes == MOST_LANES
        assert network.submit(torch.get_num_threads, 16).result() == 3
    assert torch.get_num_threads() == 3 * MOST_LANES


def test_a_large_network_keeps_all_cores_for_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "HEAVY", NEVER)
    with threads() as network:
        for _ in range(3):
            found = network.submit(torch.get_num_threads, 16)
            assert (found.done(), found.result(), network.lanes) == (True, 4, 1)


def test_a_single_core_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "HEAVY", ALWAYS)
    torch.set_num_threads(1)
    with threads() as network:
        network.submit(lambda: None, 16)
        assert network.lanes == 1
        assert network.submit(torch.get_num_threads, 16).result() == 1


@pytest.mark.parametrize("other", ["gpu", "runtime", "state"])
def test_other_devices_runtimes_and_networks_get_one_batch_at_a_time(
    other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "HEAVY", ALWAYS)
    network = {"gpu": Stateless(), "runtime": nn.Identity().forward, "state": nn.Identity()}[other]
    predictor = Predictor(network, size=8, pad_value=0.3)
    if other == "gpu":
        predictor.device = torch.device("cuda:0")
    with threads(predictor) as network:
        assert [network.submit(torch.get_num_threads, 16).result() for _ in range(2)] == [4, 4]
        assert network.lanes == 1


def test_torch_has_one_thread_beside_a_runtime_with_threads_of_its_own() -> None:
    class Runtime:
        own_threads = True

        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            return images

    with threads(Predictor(Runtime(), size=8, pad_value=0.3)) as network:
        assert [network.submit(torch.get_num_threads, 16).result() for _ in range(2)] == [1, 1]
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize("limit", [ALWAYS, NEVER])
def test_threads_come_back_after_an_error(limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "HEAVY", limit)

    def run(network: NetworkThreads) -> None:
        with network:
            network.submit(lambda: None, 1).result()
            network.submit(lambda: 1 / 0, 1).result()

    with pytest.raises(ZeroDivisionError):
        run(threads())
    assert torch.get_num_threads() == 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("network")]
