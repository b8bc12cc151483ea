"""A network whose answer is known: bright pixels are lesion."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from phnet_monai.inference import Predictor


class BrightIsLesion(nn.Module):
    """Grey g in [0, 1] -> logits (0, 20 (g - 0.5)): probability 1/2 at g = 0.5, near 0 and 1 a little beside it."""

    stateless = True

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(20.0))
        self.batches: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        lesion = self.gain * (x - 0.5)
        return torch.cat([torch.zeros_like(lesion), lesion], dim=1)


@pytest.fixture
def network() -> BrightIsLesion:
    return BrightIsLesion()


@pytest.fixture
def predictor(network: BrightIsLesion) -> Predictor:
    return Predictor(network, size=96, pad_value=0.33, batch_size=4)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training checkpoint of the smallest plain U-Net, untrained, with input 32 and padding 0.25."""
    from phnet_monai.networks import PHNet

    torch.manual_seed(0)
    network = PHNet("resnet18", "plain_unet", embedding_size=4, head_channels=4, unet_features=(4, 4, 4, 4, 4))
    info = {"network": network.arguments, "input": {"size": 32, "pad_value": 0.25}}
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pt"
    torch.save({"student": network.state_dict(), "teacher": network.state_dict(), "info": info}, path)
    return path
