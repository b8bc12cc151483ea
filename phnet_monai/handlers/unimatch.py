"""UniMatch (Yang et al., CVPR 2023): two strong views and perturbed features, all to agree with the weak view."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from ignite.engine import Engine
from torch import Tensor

from phnet_monai.engines.step import LABELED, UNLABELED, SemiSupervisedEvents, Step, View
from phnet_monai.engines.trainer import SemiSupervisedTrainer
from phnet_monai.handlers.mixing import log_pseudo_labels, paste_view, take
from phnet_monai.transforms.boxes import draw_aspect_box
from phnet_monai.transforms.draws import uniform
from phnet_monai.transforms.strong_view import StrongView

STRONG_VIEWS = ("strong_1", "strong_2")
FEATURE_VIEW = "feature"


def channel_dropout(features: list[Tensor], rate: float, generator: torch.Generator | None) -> list[Tensor]:
    """Whole channels of every feature map (B, C, h, w) are 0 with probability `rate`, the others times 1/(1 - rate).

    As `Dropout2d`, but the channels come from the generator handed in.
    """
    return [
        level * (uniform((*level.shape[:2], 1, 1), level.device, generator) >= rate).to(level.dtype) / (1 - rate)
        for level in features
    ]


class UniMatch:
    """Replaces the unlabeled view by `strong_1`, `strong_2` and `feature`, each with a cross-entropy of its own.

    All three have the weak view's pseudo-labels, of pixels whose confidence reaches the threshold. The strong views are
    photometric, and take a box from the strong view of the next image in the batch, with its labels and confidence. The
    feature view is the weak image with dropped channels between encoder and decoder. The network labels its own weak
    views, in eval mode: the trainer's `teacher` is to be None. The defaults are the authors' weights
    (L_x + 0.25 L_s1 + 0.25 L_s2 + 0.5 L_fp) / 2, whenever there are unlabeled images.

    Args:
        strong_view: the photometric changes; by default brightness, contrast and blur.
        threshold: lowest confidence of a pixel that is learnt from.
        box_probability: of an image and strong view having a box.
        box_area: range of the box's share of the image.
        box_aspect: range of its height / width.
        feature_dropout: share of the channels that are dropped.
        labeled_weight, strong_weight, feature_weight: of the labeled view, each strong view, the feature view.
    """

    def __init__(
        self,
        strong_view: StrongView | None = None,
        *,
        threshold: float = 0.95,
        box_probability: float = 0.5,
        box_area: tuple[float, float] = (0.02, 0.4),
        box_aspect: tuple[float, float] = (0.3, 1 / 0.3),
        feature_dropout: float = 0.5,
        labeled_weight: float = 0.5,
        strong_weight: float = 0.125,
        feature_weight: float = 0.25,
    ) -> None:
        if not 0 <= threshold <= 1 or not 0 <= feature_dropout < 1:
            raise ValueError(
                f"UniMatch: threshold {threshold}, feature_dropout {feature_dropout}; expected 0 <= threshold <= 1 "
                "and 0 <= feature_dropout < 1"
            )
        weights = {"labeled_weight": labeled_weight, "strong_weight": strong_weight, "feature_weight": feature_weight}
        if min(weights.values()) < 0:
            raise ValueError(f"UniMatch: {weights}, expected weights >= 0")
        try:
            draw_aspect_box(1, 4, area=box_area, aspect=box_aspect, probability=box_probability)
        except (TypeError, ValueError) as error:
            raise ValueError(f"UniMatch: box_area, box_aspect or box_probability is wrong ({error})") from error
        self.strong_view, self.threshold = strong_view or StrongView("jitter"), threshold
        self.draw_box = partial(draw_aspect_box, area=box_area, aspect=box_aspect, probability=box_probability)
        self.feature_dropout = feature_dropout
        self.labeled_weight, self.strong_weight = labeled_weight, strong_weight
        self.feature_weight = feature_weight

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(SemiSupervisedEvents.VIEWS_PREPARED, self)

    def __call__(self, engine: SemiSupervisedTrainer) -> None:
        step: Step = engine.state.step
        if UNLABELED not in step.views or step.teacher_probs is None:
            return
        weak = step.views.pop(UNLABELED)
        confidence, label = step.teacher_probs.max(dim=1)
        kept = confidence >= self.threshold
        own = replace(weak, target=label, weight=kept.float())
        step.views[LABELED] = replace(step.views[LABELED], loss_weight=self.labeled_weight)
        for name in STRONG_VIEWS:
            step.views[name] = self._strong(own, engine)
        step.views[FEATURE_VIEW] = replace(
            own,
            loss_weight=self.feature_weight,
            perturb=partial(channel_dropout, rate=self.feature_dropout, generator=engine.generator),
        )
        log_pseudo_labels(step, own, kept)

    def _strong(self, own: View, engine: SemiSupervisedTrainer) -> View:
        generator, batch = engine.generator, len(own.image)
        image = self.strong_view(own.image, own.valid, generator)
        strong = replace(own, image=image, loss_weight=self.strong_weight)
        keep = self.draw_box(batch, image.shape[-1], generator=generator)
        mixed = paste_view(strong, take(strong, torch.arange(batch).roll(-1)), keep)
        return replace(mixed, image=mixed.image.contiguous(memory_format=engine.format))
