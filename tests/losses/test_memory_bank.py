"""The memory bank: first in, first out, per class."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from phnet_monai.losses import MemoryBank


def numbered(*numbers: int) -> Tensor:
    """Unit vectors (A, 2) that tell their number: angle = number / 100."""
    angles = torch.tensor(numbers, dtype=torch.float32) / 100
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def stored(bank: MemoryBank, class_index: int) -> list[int]:
    """Numbers in the bank, oldest first."""
    rows = bank.features[class_index, : int(bank.filled[class_index])]
    found = (torch.atan2(rows[:, 1], rows[:, 0]) * 100).round().int().tolist()
    start = int(bank.position[class_index]) if len(found) == bank.capacity else 0
    return found[start:] + found[:start]


def test_first_in_first_out():
    bank = MemoryBank(2, 2, 5)
    history: list[int] = []
    for first, count in ((1, 3), (4, 1), (5, 3), (8, 2), (10, 4), (14, 5), (19, 1)):  # wraps around several times
        numbers = list(range(first, first + count))
        bank.push(1, numbered(*numbers))
        history += numbers
        assert stored(bank, 1) == history[-5:]
    assert stored(bank, 0) == []  # classes do not mix
    assert len(bank) == 5


def test_more_than_fits_keeps_the_newest():
    bank = MemoryBank(1, 2, 4)
    bank.push(0, numbered(1, 2, 3))
    bank.push(0, numbered(*range(10, 21)))
    assert stored(bank, 0) == [17, 18, 19, 20]
    bank.push(0, numbered(30))
    assert stored(bank, 0) == [18, 19, 20, 30]


def test_pushing_nothing_changes_nothing():
    bank = MemoryBank(1, 2, 4)
    bank.push(0, numbered(1, 2))
    bank.push(0, torch.zeros(0, 2))
    assert stored(bank, 0) == [1, 2]


def test_features_are_normalised_and_detached():
    bank = MemoryBank(1, 3, 4)
    features = (5 * torch.randn(3, 3)).requires_grad_()
    bank.push(0, features)
    torch.testing.assert_close(bank.features[0, :3], F.normalize(features.detach(), dim=1))
    assert not bank.features.requires_grad
    center = bank.center(0)
    assert center is not None
    assert not center.requires_grad


def test_later_changes_of_the_features_do_not_reach_the_bank():
    bank = MemoryBank(1, 2, 4)
    features = numbered(1, 2)
    bank.push(0, features)
    features.zero_()
    assert stored(bank, 0) == [1, 2]


@pytest.mark.parametrize("pushes", [1, 3])
def test_center_is_eq_14_normalised(reference, pushes):
    bank = MemoryBank(2, 6, 10)
    generator = torch.Generator().manual_seed(0)
    history = []
    for _ in range(pushes):
        features = torch.randn(4, 6, generator=generator) + 1
        bank.push(1, features)
        history += list(F.normalize(features.double(), dim=1).numpy())
    mean = reference.center(np.array(history[-10:]))
    center = bank.center(1)
    assert center is not None
    np.testing.assert_allclose(center.numpy(), mean / math.sqrt((mean**2).sum()), rtol=1e-5)


def test_center_of_an_empty_class_is_none():
    bank = MemoryBank(2, 2, 3)
    bank.push(0, numbered(1))
    assert bank.center(1) is None


def test_unused_rows_do_not_pull_the_center():
    bank = MemoryBank(1, 2, 1000)
    bank.push(0, numbered(50, 52))
    torch.testing.assert_close(bank.center(0), numbered(51)[0])


def test_state_is_saved_and_restored():
    bank = MemoryBank(2, 2, 3)
    bank.push(0, numbered(1, 2, 3, 4))
    bank.push(1, numbered(9))
    copy = MemoryBank(2, 2, 3)
    copy.load_state_dict(bank.state_dict())
    for one in (bank, copy):  # goes on as the original would
        one.push(0, numbered(5))
        one.push(1, numbered(10, 11))
    assert stored(copy, 0) == stored(bank, 0) == [3, 4, 5]
    assert stored(copy, 1) == stored(bank, 1) == [9, 10, 11]
    assert torch.equal(copy.features, bank.features)


def test_the_bank_has_nothing_to_train():
    assert list(MemoryBank(2, 4, 8).parameters()) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_features_that_are_not_finite_are_refused(bad):
    bank = MemoryBank(1, 2, 3)
    bank.push(0, numbered(1))
    features = numbered(2, 3)
    features[1, 0] = bad
    with pytest.raises(ValueError, match="NaN or infinite values; nothing was stored"):
        bank.push(0, features)
    assert stored(bank, 0) == [1]


@pytest.mark.parametrize("shape", [(3, 5), (4,), (2, 3, 4)])
def test_features_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected \(A, 4\)"):
        MemoryBank(2, 4, 8).push(0, torch.zeros(shape))


@pytest.mark.parametrize("arguments", [(0, 4, 8), (2, 0, 8), (2, 4, 0)])
def test_sizes_below_one_are_refused(arguments):
    with pytest.raises(ValueError, match="MemoryBank: num_classes"):
        MemoryBank(*arguments)
