"""Mean teacher (Tarvainen and Valpola 2017; segmentation form of SSL4MIS): agree with a teacher that sees noise."""

from __future__ import annotations

from dataclasses import replace

from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from torch import Tensor

from phnet_monai.engines.schedule import gaussian_ramp
from phnet_monai.engines.step import UNLABELED, SemiSupervisedEvents, Step
from phnet_monai.engines.trainer import SemiSupervisedTrainer


def softmax_mse(logits: Tensor, probs: Tensor, counted: Tensor) -> Tensor:
    """Mean of (softmax(logits) - probs)^2 over classes and counted pixels: the consistency cost of mean teachers.

    Args:
        logits: student, (B, C, H, W).
        probs: teacher, (B, C, H, W), without gradient.
        counted: bool (B, H, W): valid pixels; UA-MT: those of them where the teacher is sure.

    Returns:
        Scalar; 0 where no pixel counts.
    """
    distance = (logits.float().softmax(dim=1) - probs).square().mean(dim=1)
    return (distance * counted).sum() / counted.sum().clamp(min=1)


def without_cross_entropy(step: Step) -> None:
    """Take the cross-entropy of the unlabeled view out of a step: another term of the method stands in its place."""
    if UNLABELED in step.views:
        step.views[UNLABELED] = replace(step.views[UNLABELED], loss_weight=0.0)


class MeanTeacher:
    """Adds `consistency`: the student's softmax shall equal the teacher's on the same weak view, pixel by pixel.

    The teacher's input noise is the trainer's `teacher_noise`. Replaces the cross-entropy of the unlabeled view.

    Args:
        weight: highest weight of the term, 0.1 in SSL4MIS; it rises as exp(-5 (1 - t)^2) over `ramp` of the
            semi-supervised steps.
        ramp: share of the semi-supervised steps after which the weight is reached, in (0, 1].
    """

    def __init__(self, *, weight: float = 0.1, ramp: float = 1.0) -> None:
        if weight < 0 or not 0 < ramp <= 1:
            raise ValueError(f"MeanTeacher: weight {weight}, ramp {ramp}; expected weight >= 0 and 0 < ramp <= 1")
        self.weight, self.ramp = weight, ramp

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(SemiSupervisedEvents.VIEWS_PREPARED, self.prepare)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self.add_loss)

    def prepare(self, engine: SemiSupervisedTrainer) -> None:
        without_cross_entropy(engine.state.step)

    def add_loss(self, engine: SemiSupervisedTrainer) -> None:
        step: Step = engine.state.step
        if UNLABELED not in step.views or step.teacher_probs is None:
            return
        value = softmax_mse(step.outputs[UNLABELED].logits, step.teacher_probs, step.views[UNLABELED].valid)
        weight = self.weight * gaussian_ramp(engine.progress / self.ramp)
        step.add_loss("consistency", value, weight)
        step.scalars["consistency_weight"] = weight
