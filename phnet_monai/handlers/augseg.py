"""AugSeg (Zhao et al., CVPR 2023): strong views, and CutMix that pastes labeled pixels into uncertain images."""

from __future__ import annotations

from dataclasses import replace

import torch
from ignite.engine import Engine
from torch import Tensor

from phnet_monai.engines.step import LABELED, UNLABELED, SemiSupervisedEvents, Step, View
from phnet_monai.engines.trainer import SemiSupervisedTrainer
from phnet_monai.handlers.mixing import log_pseudo_labels, paste_view, take
from phnet_monai.transforms.boxes import CPU, draw_beta_box
from phnet_monai.transforms.draws import beta, uniform
from phnet_monai.transforms.patches import pixel_entropy
from phnet_monai.transforms.strong_view import StrongView


def image_confidence(probs: Tensor, valid: Tensor) -> Tensor:
    """rho of AugSeg: mean over the valid pixels of the highest probability times (1 - normalised entropy).

    Args:
        probs: (B, C, H, W) class probabilities of the teacher.
        valid: bool (B, H, W).

    Returns:
        (B,) in [0, 1]; 0 where nothing is valid.
    """
    sure = probs.amax(dim=1) * (1 - pixel_entropy(probs))
    return ((sure * valid).sum(dim=(1, 2)) / valid.sum(dim=(1, 2)).clamp(min=1)).clamp(0.0, 1.0)


def adaptive_cutmix(own: View, labeled: View, inject: Tensor, copy: Tensor, partner: Tensor) -> View:
    """Two pastes, both from unmixed batches.

    Args:
        own: unlabeled images, B of them, `weight` the confidence.
        labeled: as many labeled images, `weight` 1.
        inject: bool (B, H, W); where False, a helper copy of `own` takes labeled pixels.
        copy: bool (B, H, W); where False, image i of `own` takes the pixels of helper copy `partner[i]`.
        partner: int64 (B,).
    """
    helpers = paste_view(own, labeled, inject)
    return paste_view(own, take(helpers, partner), copy)


class AugSeg:
    """Replaces the unlabeled view: strong photometric view, adaptive CutMix, pseudo-labels of high confidence.

    The loss is the trainer's: cross-entropy of the kept pixels over all valid ones. Needs `step.teacher_probs`.

    Args:
        strong_view: the photometric changes; the default draws 1 to 3 operations per image.
        threshold: lowest confidence of a pixel that is learnt from.
        labeled_box: Beta parameters of the share of a helper copy that labeled pixels leave as it is. An image gets
            labeled pixels with the chance 1 - rho, `image_confidence`.
        unlabeled_box: the same for what an image takes from a helper copy.
    """

    def __init__(
        self,
        strong_view: StrongView | None = None,
        *,
        threshold: float = 0.95,
        labeled_box: tuple[int, int] = (8, 2),
        unlabeled_box: tuple[int, int] = (4, 4),
    ) -> None:
        if not 0 <= threshold <= 1:
            raise ValueError(f"AugSeg: threshold is {threshold}, expected a value in [0, 1]")
        for name, box in (("labeled_box", labeled_box), ("unlabeled_box", unlabeled_box)):
            try:
                beta(1, *box, generator=torch.Generator())
            except (TypeError, ValueError) as error:
                raise ValueError(f"AugSeg: {name} is {box}, expected two whole numbers >= 1") from error
        self.strong_view, self.threshold = strong_view or StrongView("random_ops"), threshold
        self.labeled_box, self.unlabeled_box = labeled_box, unlabeled_box

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(SemiSupervisedEvents.VIEWS_PREPARED, self)

    def __call__(self, engine: SemiSupervisedTrainer) -> None:
        step: Step = engine.state.step
        if UNLABELED not in step.views or step.teacher_probs is None:
            return
        weak, labeled, probs = step.views[UNLABELED], step.views[LABELED], step.teacher_probs
        batch, generator = len(weak.image), engine.generator
        confidence, label = probs.max(dim=1)
        rho = image_confidence(probs, weak.valid)
        strong = self.strong_view(weak.image, weak.valid, generator)
        own = replace(weak, image=strong, target=label, weight=confidence)

        inject, copy = self._draw(rho, weak.image.shape[-1], generator)
        partner = torch.randperm(batch, generator=generator)
        mixed = adaptive_cutmix(own, take(labeled, torch.arange(batch) % len(labeled.image)), inject, copy, partner)
        kept = mixed.weight >= self.threshold
        image = mixed.image.contiguous(memory_format=engine.format)
        step.views[UNLABELED] = replace(mixed, image=image, weight=kept.float())
        log_pseudo_labels(step, mixed, kept)
        step.scalars["image_confidence"] = rho.mean()

    def _draw(self, rho: Tensor, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Keep masks of both pastes; sure images inject nothing."""
        batch = len(rho)
        sure = uniform((batch,), CPU, generator).to(rho) < rho
        inject = draw_beta_box(batch, size, self.labeled_box, generator).to(rho.device)
        copy = draw_beta_box(batch, size, self.unlabeled_box, generator).to(rho.device)
        return inject | sure.view(-1, 1, 1), copy
