"""Uncertainty-aware mean teacher (UA-MT; Yu et al., MICCAI 2019): agree with the teacher only where it is sure."""

from __future__ import annotations

import math

import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from phnet_monai.engines.schedule import gaussian_ramp
from phnet_monai.engines.step import UNLABELED, SemiSupervisedEvents, Step
from phnet_monai.engines.trainer import SemiSupervisedTrainer
from phnet_monai.handlers.mean_teacher import softmax_mse, without_cross_entropy


def entropy(probs: Tensor) -> Tensor:
    """-sum_c p log p, natural logarithm: (B, C, H, W) -> (B, H, W) in [0, log C]; 0 log 0 is 0."""
    return torch.special.entr(probs).sum(dim=1)


def entropy_threshold(progress: float, classes: int, start: float = 0.75) -> float:
    """H_t = (start + (1 - start) * ramp) * log C, which every entropy is below at the end.

    The source writes log 2 for C, which is right for two classes only.
    """
    return (start + (1 - start) * gaussian_ramp(progress)) * math.log(classes)


@torch.no_grad()
def stochastic_probabilities(engine: SemiSupervisedTrainer, image: Tensor, passes: int) -> Tensor:
    """Mean of the teacher's softmax over passes with dropout and fresh input noise: (B, 1, H, W) -> (B, C, H, W).

    Batch normalisation stays in eval mode, so that neither the teacher's statistics nor the answer to one image depend
    on the batch.
    """
    network: nn.Module = engine.network if engine.teacher is None else engine.teacher
    training = network.training
    network.eval()
    for module in network.modules():
        if isinstance(module, _DropoutNd):
            module.train()
    total: Tensor | None = None
    for _ in range(passes):
        with engine.autocast():
            logits = network(engine.noisy(image))
        probs = logits.float().softmax(dim=1)
        total = probs if total is None else total + probs
    network.train(training)
    assert total is not None
    return total / passes


class UncertaintyAwareMeanTeacher:
    """Adds `consistency`: the student's softmax shall equal the teacher's where several stochastic passes are sure.

    The target is the teacher's one answer in eval mode; the uncertainty is the entropy of the mean over `passes` with
    dropout and noise. The input noise is the trainer's `teacher_noise`. Replaces the cross-entropy of the unlabeled
    view.

    Args:
        passes: T, stochastic passes of the teacher.
        threshold: of the entropy at the start, as a share of log C; it rises to log C.
        weight: highest weight of the term; it rises as exp(-5 (1 - t)^2) over `ramp` of the semi-supervised steps, as
            the threshold does.
        ramp: share of the semi-supervised steps after which both are at their highest, in (0, 1].
    """

    def __init__(self, *, passes: int = 8, threshold: float = 0.75, weight: float = 0.1, ramp: float = 1.0) -> None:
        name = type(self).__name__
        if passes < 1:
            raise ValueError(f"{name}: passes is {passes}, expected at least 1")
        if not 0 <= threshold <= 1:
            raise ValueError(f"{name}: threshold is {threshold}, expected a share of log C in [0, 1]")
        if weight < 0 or not 0 < ramp <= 1:
            raise ValueError(f"{name}: weight {weight}, ramp {ramp}; expected weight >= 0 and 0 < ramp <= 1")
        self.passes, self.threshold, self.weight, self.ramp = passes, threshold, weight, ramp

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(SemiSupervisedEvents.VIEWS_PREPARED, self.prepare)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self.add_loss)

    def prepare(self, engine: SemiSupervisedTrainer) -> None:
        without_cross_entropy(engine.state.step)

    def add_loss(self, engine: SemiSupervisedTrainer) -> None:
        step: Step = engine.state.step
        if UNLABELED not in step.views or step.teacher_probs is None:
            return
        view, progress = step.views[UNLABELED], engine.progress / self.ramp
        uncertainty = entropy(stochastic_probabilities(engine, view.image, self.passes))
        threshold = entropy_threshold(progress, step.teacher_probs.shape[1], self.threshold)
        certain = (uncertainty < threshold) & view.valid
        value = softmax_mse(step.outputs[UNLABELED].logits, step.teacher_probs, certain)
        weight = self.weight * gaussian_ramp(progress)
        step.add_loss("consistency", value, weight)
        pixels = view.valid.sum().clamp(min=1)
        step.scalars.update(
            consistency_weight=weight,
            certain_pixels=certain.sum() / pixels,
            uncertainty=(uncertainty * view.valid).sum() / pixels,
        )
