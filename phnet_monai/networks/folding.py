"""Batch norms of a trained network made part of its convolutions: the same answers in less time."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


@torch.no_grad()
def folded(network: nn.Module, images: Tensor) -> nn.Module:
    """A copy of a network in which each batch norm is part of the convolution before it, for inference only.

    In eval mode a batch norm only scales and shifts what a convolution gives. Which convolution feeds which norm is
    seen in one pass, since the order in which modules were registered tells nothing of it. (`torch.fx` folds them too,
    but traces neither our networks nor timm's norms with activation.)

    Args:
        network: in eval mode; it is not changed.
        images: (B, C, H, W), any that it takes.

    Returns:
        the copy; `network` itself where it has nothing to fold, is in training mode, or where the copy's answer to
        `images` is another one (a convolution that feeds more than its norm).
    """
    if network.training:
        return network
    found = copy.deepcopy(network)
    names = {module: name for name, module in found.named_modules()}
    pairs = _convolutions_of_norms(found, images)
    if not pairs:
        return network
    for norm, convolution in pairs.items():
        fused = fuse_conv_bn_eval(convolution, norm)
        convolution.weight, convolution.bias = fused.weight, fused.bias
        parent, _, name = names[norm].rpartition(".")
        setattr(found.get_submodule(parent), name, getattr(norm, "act", nn.Identity()))  # timm's norms hold theirs
    same = torch.allclose(found(images).softmax(1), network(images).softmax(1), rtol=0, atol=1e-4)
    return found if same else network


def _convolutions_of_norms(network: nn.Module, images: Tensor) -> dict[nn.BatchNorm2d, nn.Conv2d]:
    """The convolution whose result each batch norm takes; without those that are used twice."""
    made: list[tuple[nn.Conv2d, Tensor]] = []  # the results are kept, so that no two of them are one place in memory
    pairs: dict[nn.BatchNorm2d, nn.Conv2d] = {}

    def look(module: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            made.append((module, result))
        elif isinstance(module, nn.BatchNorm2d):
            feeding = [convolution for convolution, tensor in made if tensor is given[0]]
            pairs.update((module, convolution) for convolution in feeding)

    hooks = [module.register_forward_hook(look) for module in network.modules()]
    try:
        network(images)
    finally:
        for hook in hooks:
            hook.remove()
    used = [convolution for convolution, _ in made]
    return {norm: convolution for norm, convolution in pairs.items() if used.count(convolution) == 1}
