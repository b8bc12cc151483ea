"""PS-MT in plain Python, from the method's description."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def confident_cross_entropy(logits: np.ndarray, probs: np.ndarray, valid: np.ndarray, threshold: float) -> float:
    """Mean of c * CE over the valid pixels whose highest probability c reaches the threshold."""
    terms = []
    for b, y, x in np.ndindex(valid.shape):
        confidence, label = max(probs[b, :, y, x]), int(np.argmax(probs[b, :, y, x]))
        if valid[b, y, x] and confidence >= threshold:
            pixel = logits[b, :, y, x].astype(float)
            entropy = math.log(sum(math.exp(value) for value in pixel)) - pixel[label]
            terms.append(confidence * entropy)
    return sum(terms) / len(terms) if terms else 0.0


def merged_target(first: Tensor, second: Tensor, top: int) -> Tensor:
    """Mean logits of the two teachers, of which only the `top` likeliest classes compete in the softmax; (B, C, H, W).

    With top = C it is the plain softmax. The source has 7, which fewer classes cannot give.
    """
    mean = 0.5 * first + 0.5 * second
    best = mean.topk(top, dim=1).indices
    return mean.where(torch.zeros_like(mean).scatter(1, best, 1.0) > 0, torch.tensor(-math.inf)).softmax(dim=1)


def ramp(epoch: float, length: float) -> float:
    return 1.0 if epoch >= length else 1 - 0.5 * (math.cos(math.pi * epoch / length) + 1)


def adversarial_direction(
    decoders: list[Callable[[Tensor], Tensor]], feature: Tensor, valid: Tensor, start: Tensor, xi: float, times: int
) -> Tensor:
    """T-VAT for one image, in double precision, where a step of xi = 1e-6 is not lost.

    Args:
        decoders: deepest feature (1, C, h, w) -> logits (1, K, H, W), of each teacher.
        feature, start: (1, C, h, w); valid: bool (H, W).
    """

    def answer(x: Tensor) -> Tensor:
        return sum(decoder(x) for decoder in decoders) / len(decoders)

    target = answer(feature).softmax(dim=1).detach()
    d = start / start.norm()
    for _ in range(times):
        d = d.detach().requires_grad_()
        guess = answer(feature + xi * d).log_softmax(dim=1)
        distance = F.kl_div(guess, target, reduction="none").sum(dim=1)[0][valid].sum()
        (gradient,) = torch.autograd.grad(distance, d)
        d = gradient / gradient.norm()
    return d.detach()
