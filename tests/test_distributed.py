"""Shares of several processes."""

from __future__ import annotations

import pytest

from phnet_monai.distributed import Shard, current_shard, joined_for_training


def test_shares_are_all_items_once() -> None:
    items = list(range(11))
    shares = [Shard(rank, 3).share(items) for rank in range(3)]
    assert sorted(item for share in shares for item in share) == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_alone() -> None:
    shard = Shard()
    assert shard.share([1, 2]) == [1, 2]
    assert shard.first
    with shard.joined():
        assert shard.gather("x") == ["x"]
        assert shard.broadcast("x") == "x"
        shard.wait()


def test_what_torchrun_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert current_shard() == Shard(0, 1, 0)
    for name, value in [("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1")]:
        monkeypatch.setenv(name, value)
    assert current_shard() == Shard(3, 4, 1)
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match="torchrun"):
        current_shard()


def test_processes_that_have_not_joined_do_not_train(monkeypatch: pytest.MonkeyPatch) -> None:
    assert joined_for_training() == Shard()
    for name, value in [("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")]:
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="torchrun has started 2 processes, .*multi_gpu_train.json"):
        joined_for_training()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert joined_for_training() == Shard()
