"""Folded networks answer as before; what cannot be folded stays as it is."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from phnet_monai.networks import PHNet
from phnet_monai.networks.ensemble import Ensemble
from phnet_monai.networks.folding import folded

IMAGES = torch.linspace(0, 1, 2 * 64 * 64).view(2, 1, 64, 64)


def trained_like(network: nn.Module) -> nn.Module:
    """In eval mode, with statistics, scales and shifts that are not those of a new norm."""
    generator = torch.Generator().manual_seed(5)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low in ((module.running_var, 0.5), (module.running_mean, -0.2), (module.weight.data, 0.7)):
                values.copy_(low + torch.rand(values.shape, generator=generator))
            module.bias.data.copy_(torch.rand(module.bias.shape, generator=generator) - 0.5)
    return network.eval()


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize(
    "arguments",
    [
        {"encoder": "tu-tf_efficientnet_lite0", "decoder": "deeplabv3plus"},
        {"encoder": "resnet18", "decoder": "deeplabv3plus"},
        {"encoder": "resnet18", "decoder": "unet"},
    ],
)
def test_same_answers_without_norms(arguments: dict[str, Any]) -> None:
    torch.manual_seed(0)
    network = trained_like(PHNet(**arguments, weights=None, embedding_size=None))
    before = copy.deepcopy(network.state_dict())
    result = folded(network, IMAGES)
    assert norms(network) > 15
    assert norms(result) == 0
    assert getattr(result, "stateless", False)  # batches may still go through it side by side
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in before.items())
    with torch.no_grad():
        torch.testing.assert_close(result(IMAGES.flip(3)), network(IMAGES.flip(3)), rtol=1e-3, atol=1e-3)


def test_every_member_of_an_ensemble() -> None:
    torch.manual_seed(0)
    members = [trained_like(PHNet("resnet18", weights=None, embedding_size=None)) for _ in range(2)]
    assert norms(folded(Ensemble(members), IMAGES)) == 0


class Shared(nn.Module):
    """One convolution before two norms: its weights cannot follow both."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 2, 3, padding=1)
        self.first, self.second = nn.BatchNorm2d(2), nn.BatchNorm2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(self.convolution(x)) + self.second(self.convolution(x + 1))


class Branching(Shared):
    """What the convolution gives is used beside the norm."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.convolution(x)
        return self.first(found) - found


@pytest.mark.parametrize("kind", [Shared, Branching])
def test_what_cannot_be_folded_stays(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    network = trained_like(kind())
    assert folded(network, IMAGES) is network


def test_a_network_in_training_stays() -> None:
    network = PHNet("resnet18", weights=None, embedding_size=None).train()
    assert folded(network, IMAGES) is network
    assert all(int(m.num_batches_tracked) == 0 for m in network.modules() if isinstance(m, nn.BatchNorm2d))
