"""The image generator's training in plain Python, from METHODS.md: its two losses, and Adam on one-weight networks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np


def probability(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def binary_cross_entropy(logit: float, target: float) -> float:
    return -target * math.log(probability(logit)) - (1 - target) * math.log(probability(-logit))


def discriminator_loss(real: Sequence[float], fake: Sequence[float], smoothing: float) -> float:
    of_real = [binary_cross_entropy(logit, 1 - smoothing) for logit in real]
    of_fake = [binary_cross_entropy(logit, 0.0) for logit in fake]
    return sum(of_real) / len(of_real) + sum(of_fake) / len(of_fake)


def generator_loss(fake: Sequence[float]) -> float:
    return sum(binary_cross_entropy(logit, 1.0) for logit in fake) / len(fake)


class Adam:
    """For one number (Kingma and Ba 2015, Algorithm 1)."""

    def __init__(self, value: float, rate: float, beta1: float, beta2: float = 0.999) -> None:
        self.value, self.rate, self.betas = value, rate, (beta1, beta2)
        self.moments, self.count = [0.0, 0.0], 0

    def step(self, gradient: float) -> None:
        self.count += 1
        corrected = []
        for i, power in enumerate((1, 2)):
            self.moments[i] = self.betas[i] * self.moments[i] + (1 - self.betas[i]) * gradient**power
            corrected.append(self.moments[i] / (1 - self.betas[i] ** self.count))
        self.value -= self.rate * corrected[0] / (math.sqrt(corrected[1]) + 1e-8)


def train(
    a: float,
    w: float,
    real: Iterable[np.ndarray],
    latents: Iterable[np.ndarray],
    *,
    steps: int,
    updates: int,
    rate: float,
    beta1: float,
    smoothing: float,
) -> tuple[float, float, list[float], list[float]]:
    """Generator z -> a z against discriminator x -> w x: final a and w, and the losses in order."""
    real, latents = iter(real), iter(latents)
    generator, discriminator = Adam(a, rate, beta1), Adam(w, rate, beta1)
    of_discriminator, of_generator = [], []
    for _ in range(steps):
        for _ in range(updates):
            xs, zs = next(real), next(latents)
            w, fakes = discriminator.value, [generator.value * z for z in zs]
            of_discriminator.append(discriminator_loss([w * x for x in xs], [w * f for f in fakes], smoothing))
            gradient = sum((probability(w * x) - (1 - smoothing)) * x for x in xs) / len(xs)
            gradient += sum(probability(w * f) * f for f in fakes) / len(fakes)
            discriminator.step(gradient)
        zs, w = next(latents), discriminator.value
        logits = [w * generator.value * z for z in zs]
        of_generator.append(generator_loss(logits))
        generator.step(sum((probability(t) - 1) * w * z for t, z in zip(logits, zs, strict=True)) / len(zs))
    return generator.value, discriminator.value, of_discriminator, of_generator
