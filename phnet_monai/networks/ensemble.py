"""Several networks that answer as one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from phnet_monai.transforms.fit import PAD_VALUE, fit_batch, unfit_batch

AVERAGES = ("probs", "logits")


class Ensemble(nn.Module):
    """The mean answer of several networks; can be scripted if its members can.

    Args:
        networks: modules (B, C, H, W) -> logits, all of the same number of classes; they are taken, not copied.
        average: `probs`, the logarithm of the mean probability (softmax of it is the mean); or `logits`, the mean of
            the logits, as PS-MT's two teachers are averaged.

    Shapes:
        `forward`: as its members', float32.

    Raises:
        ValueError: no network, unknown average, different numbers of classes or input channels.
    """

    stateless = True  # as its members

    def __init__(self, networks: Sequence[nn.Module], average: str = "probs") -> None:
        super().__init__()
        if not networks:
            raise ValueError("Ensemble: expected at least one network, found none")
        if average not in AVERAGES:
            raise ValueError(f"Ensemble: average is {average!r}, expected one of {', '.join(AVERAGES)}")
        for name in ("num_classes", "in_channels"):
            found = [value for network in networks if (value := network_argument(network, name)) is not None]
            if len(set(found)) > 1:
                raise ValueError(f"Ensemble: the networks have {name} {found}; they must be the same for all")
        self.members = nn.ModuleList(networks)
        self.training = any(network.training for network in networks)
        self.average = average
        # plain data, saved with checkpoints, so that the ensemble can be rebuilt without a config
        self.arguments: dict[str, Any] = {"members": len(networks), "average": average}

    def forward(self, x: Tensor) -> Tensor:
        answers: list[Tensor] = []
        for member in self.members:
            answers.append(member(x).float())  # TorchScript knows no comprehension over modules
        logits = torch.stack(answers)
        if self.average == "logits":
            return logits.mean(dim=0)
        return torch.logsumexp(F.log_softmax(logits, dim=2), dim=0) - math.log(len(answers))


class Fitted(nn.Module):
    """A network that takes images of any size: fitted to `size`, run, and the probabilities mapped back.

    The same as `PHNet(fit_size=...)`, for any network. Answers by the logarithm of the probabilities.
    """

    def __init__(self, network: nn.Module, size: int, pad_value: float = PAD_VALUE) -> None:
        super().__init__()
        self.network, self.size, self.pad_value = network, size, pad_value

    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(fit_batch(x, self.size, self.pad_value))
        probs = unfit_batch(logits.float().softmax(dim=1), x.shape[-2], x.shape[-1])
        return probs.clamp(min=1e-7).log()


def network_argument(network: nn.Module, name: str) -> Any:
    """An argument that a network (or the first one inside an ensemble) was built with; None where it tells nothing."""
    if isinstance(network, Ensemble):
        return network_argument(network.members[0], name)
    if isinstance(network, Fitted):
        return network_argument(network.network, name)
    return getattr(network, "arguments", {}).get(name)
