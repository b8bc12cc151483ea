"""A small network and a checkpoint of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from phnet_monai.networks import PHNet

TINY = {
    "encoder": "resnet18",
    "decoder": "plain_unet",
    "embedding_size": 8,
    "head_channels": 8,
    "unet_features": [4, 8, 8, 16, 16],
}


@pytest.fixture
def tiny() -> Callable[..., PHNet]:
    """`tiny(seed, **arguments)`: the smallest plain U-Net, with random weights."""

    def make(seed: int = 0, **arguments) -> PHNet:
        torch.manual_seed(seed)
        return PHNet(**{**TINY, **arguments})

    return make


@pytest.fixture
def checkpoint(tiny: Callable[..., PHNet], tmp_path: Path) -> Path:
    """A training checkpoint; student and teacher have different weights, the teacher no projector."""
    student, teacher = tiny(1), tiny(2, embedding_size=None)
    info = {"network": student.arguments, "input": {"size": 32, "pad_value": 0.25}, "method": "phnet", "version": "0"}
    torch.save({"student": student.state_dict(), "teacher": teacher.state_dict(), "info": info}, tmp_path / "last.pt")
    return tmp_path / "last.pt"
