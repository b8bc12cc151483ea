"""Cores for the network beside reading and writing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from phnet_monai.inference.cores import HEAVY, CoreShare


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_one_core_is_left_to_readers_and_writers_once_there_is_something_to_write() -> None:
    with CoreShare("cpu") as cores:
        assert torch.get_num_threads() == 4
        cores.note(16, 16 * HEAVY / 4 * 0.9)
        assert torch.get_num_threads() == 3
        cores.note(16, 16 * HEAVY / 3 * 0.9)  # the same work on three threads
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == 4


def test_a_network_that_takes_long_keeps_all_cores_or_gets_them_back() -> None:
    with CoreShare("cpu") as cores:
        cores.note(16, 16 * HEAVY / 4 * 1.1)
        assert torch.get_num_threads() == 4
        cores.note(16, 16 * HEAVY / 4 * 0.9)
        assert torch.get_num_threads() == 3
        cores.note(16, 16 * HEAVY / 3 * 1.1)
        assert torch.get_num_threads() == 4


def test_a_single_core_stays() -> None:
    torch.set_num_threads(1)
    with CoreShare("cpu") as cores:
        cores.note(1, 100)
        assert torch.get_num_threads() == 1


def test_a_gpu_needs_no_core() -> None:
    with CoreShare("cuda:0") as cores:
        assert torch.get_num_threads() == 4
        cores.note(16, 100)
        assert torch.get_num_threads() == 4


def test_threads_come_back_after_an_error() -> None:
    cores = CoreShare("cpu")
    with pytest.raises(KeyboardInterrupt), cores:
        raise KeyboardInterrupt(cores.note(1, 0))
    assert torch.get_num_threads() == 4
