"""The polynomial rate, lr_init * (1 - iteration / total)^0.9 (paper, Sec. 4.1), and the ramp of loss weights."""

from __future__ import annotations

import math

import pytest
import torch

from phnet_monai.engines import polynomial_schedule
from phnet_monai.engines.schedule import gaussian_ramp


@pytest.mark.parametrize(("length", "epochs", "power"), [(28, 200, 0.9), (7, 3, 0.9), (5, 4, 2.0), (1, 1, 0.9)])
def test_the_rate_at_every_iteration(length, epochs, power):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.003)
    schedule = polynomial_schedule(optimizer, range(length), epochs, power)
    total = length * epochs
    rates = []
    for _ in range(total + 3):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    expected = [0.003 * (1 - min(i, total) / total) ** power for i in range(total + 3)]
    assert rates == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_the_papers_figures():
    """0.003, 28 steps an epoch, 200 epochs: half-way 0.003 * 0.5^0.9."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.003)
    schedule = polynomial_schedule(optimizer, range(28), 200)
    for _ in range(2800):
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0016077, rel=1e-4)


def test_groups_keep_their_ratio():
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": parameters[:1], "lr": 0.01}, {"params": parameters[1:], "lr": 0.1}])
    schedule = polynomial_schedule(optimizer, range(10), 2)
    for _ in range(7):
        optimizer.step()
        schedule.step()
    first, second = (group["lr"] for group in optimizer.param_groups)
    assert second == pytest.approx(10 * first)


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        (0.0, math.exp(-5)),
        (0.25, math.exp(-2.8125)),
        (0.5, math.exp(-1.25)),
        (1.0, 1.0),
        (7.0, 1.0),
        (-1.0, math.exp(-5)),
    ],
)
def test_the_ramp(progress, expected):
    assert gaussian_ramp(progress) == pytest.approx(expected)


def test_the_ramp_rises():
    values = [gaussian_ramp(step / 100) for step in range(101)]
    assert values == sorted(set(values))
