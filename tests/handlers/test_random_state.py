"""Random numbers go on where they were."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from phnet_monai.handlers.random_state import random_state, set_random_state


def draw(generator: torch.Generator) -> list[float]:
    values = [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(()).item()]
    return [*values, torch.rand((), generator=generator).item()]


@pytest.mark.parametrize("warm_up", range(4))
def test_what_follows_is_the_same(tmp_path: Path, warm_up: int) -> None:
    """Also in the middle of a pair of normal numbers, and after a checkpoint file in between."""
    generator = torch.Generator().manual_seed(5)
    for _ in range(warm_up):
        random.gauss(0, 1), np.random.randn(), draw(generator)
    torch.save(random_state(generator), tmp_path / "state.pt")
    expected = [draw(generator) for _ in range(3)]
    other = torch.Generator().manual_seed(6)
    draw(other)
    set_random_state(torch.load(tmp_path / "state.pt", weights_only=True), other)
    assert [draw(other) for _ in range(3)] == expected


def test_without_a_generator_of_its_own() -> None:
    state = random_state()
    expected = torch.rand(2)
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    set_random_state(state, generator)
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(generator.get_state(), before)
