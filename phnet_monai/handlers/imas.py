"""iMAS (Zhao et al., CVPR 2023): how strongly an image is changed, and how much it counts, follow its easiness."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from torch import Tensor

from phnet_monai.engines.step import UNLABELED, SemiSupervisedEvents, Step, View
from phnet_monai.engines.trainer import SemiSupervisedTrainer
from phnet_monai.handlers.mixing import log_pseudo_labels, paste_view, take
from phnet_monai.transforms.boxes import CPU, draw_side_box
from phnet_monai.transforms.draws import uniform
from phnet_monai.transforms.strong_view import StrongView

STRONG, CUTMIX = "strong", "cutmix"


def weighted_iou(
    prediction: Tensor, reference: Tensor, valid: Tensor, *, num_classes: int = 2, ignore_background: bool = True
) -> Tensor:
    """Mean IoU of each image's classes, weighted by their number of pixels in the reference.

    Args:
        prediction, reference: int64 (B, H, W).
        valid: bool (B, H, W); other pixels do not count.
        ignore_background: class 0 has no weight.

    Returns:
        (B,) in [0, 1]; 0 where the reference has no pixel of a class with weight.
    """
    first, second = (
        F.one_hot(label, num_classes).flatten(1, 2).bool() & valid.flatten(1).unsqueeze(2)
        for label in (prediction, reference)
    )
    both, either = (first & second).sum(dim=1), (first | second).sum(dim=1)
    weight = second.sum(dim=1)
    if ignore_background:
        weight[:, 0] = 0
    iou = both / either.clamp(min=1)
    return (iou * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


def image_easiness(
    student: Tensor,
    teacher: Tensor,
    valid: Tensor,
    *,
    threshold: float,
    ignore_background: bool = True,
    floor: float = 0.0,
) -> Tensor:
    """Easiness s of each image: how far student and teacher agree, and how sure they are; large = easy.

    s = (IoU(student | teacher) * r_t + IoU(teacher | student) * r_s) / 2, where IoU(a | b) is `weighted_iou` with b as
    reference and r the share of valid pixels whose confidence reaches the threshold.

    Args:
        student, teacher: (B, C, H, W) class probabilities on the weak view.
        valid: bool (B, H, W).
        floor: lowest s. With two classes and the background left out, s is 0 as soon as one of the two predicts no
            lesion, and the image would teach nothing.

    Returns:
        (B,) in [floor, 1].
    """
    (sure_s, label_s), (sure_t, label_t) = student.max(dim=1), teacher.max(dim=1)
    classes, pixels = student.shape[1], valid.sum(dim=(1, 2)).clamp(min=1)
    ratio_s, ratio_t = (((sure >= threshold) & valid).sum(dim=(1, 2)) / pixels for sure in (sure_s, sure_t))
    of_student, of_teacher = (
        weighted_iou(a, b, valid, num_classes=classes, ignore_background=ignore_background)
        for a, b in ((label_s, label_t), (label_t, label_s))
    )
    return (0.5 * (of_student * ratio_t + of_teacher * ratio_s)).clamp(min=floor)


def opposite_rank(easiness: Tensor) -> Tensor:
    """Partner of each image: the easiest gets the hardest, the second the second hardest, and so on; int64 (B,).

    With an odd number, the image in the middle is its own partner.
    """
    order = easiness.argsort(stable=True)
    return torch.empty_like(order).scatter_(0, order, order.flip(0))


def per_image_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor, valid: Tensor) -> Tensor:
    """Mean over the images of each image's sum(weight * valid * CE) / valid pixels.

    Args:
        logits: (B, C, H, W).
        target: int64 (B, H, W).
        weight: (B, H, W) >= 0.
        valid: bool (B, H, W). An image without valid pixels adds 0.
    """
    loss = F.cross_entropy(logits.float(), target, reduction="none") * weight * valid
    return (loss.sum(dim=(1, 2)) / valid.sum(dim=(1, 2)).clamp(min=1)).mean()


class IMAS:
    """Adds the terms `strong` and, in some steps, `cutmix`; the weak view passes through for its batch statistics.

    The strong view is blended with the weak one, s * strong + (1 - s) * weak. With the chance mean(s) there is another
    view: the weak images with a box from the weak image of opposite rank in easiness. In both, an image's loss counts s
    times. The terms share `weight` equally; where there is no `cutmix`, `strong` has all of it.

    Args:
        strong_view: the photometric changes; by default brightness, contrast and blur.
        threshold: lowest confidence of a pixel that is learnt from.
        weight: of the unlabeled loss.
        box_side: range of the box's side as a share of the image's.
        ignore_background: measure easiness on the lesion only.
        floor: lowest easiness; 0 as in the source can leave all images without a loss while nothing is predicted.
    """

    def __init__(
        self,
        strong_view: StrongView | None = None,
        *,
        threshold: float = 0.95,
        weight: float = 3.0,
        box_side: tuple[float, float] = (0.1, 0.9),
        ignore_background: bool = True,
        floor: float = 0.1,
    ) -> None:
        if not 0 <= threshold <= 1 or not 0 <= floor <= 1:
            raise ValueError(f"IMAS: threshold {threshold}, floor {floor}; expected values in [0, 1]")
        if weight < 0:
            raise ValueError(f"IMAS: weight is {weight}, expected >= 0")
        try:
            draw_side_box(1, 4, box_side)
        except (TypeError, ValueError) as error:
            raise ValueError(f"IMAS: box_side is {box_side}, expected 0 <= low <= high <= 1") from error
        self.strong_view, self.threshold, self.weight = strong_view or StrongView("jitter"), threshold, weight
        self.box_side, self.ignore_background, self.floor = box_side, ignore_background, floor

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(SemiSupervisedEvents.VIEWS_PREPARED, self.prepare)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self.add_loss)

    def prepare(self, engine: SemiSupervisedTrainer) -> None:
        step: Step = engine.state.step
        if UNLABELED not in step.views or step.teacher_probs is None:
            return
        weak, probs, generator = step.views[UNLABELED], step.teacher_probs, engine.generator
        easiness = image_easiness(
            engine.probabilities(engine.network, weak.image),
            probs,
            weak.valid,
            threshold=self.threshold,
            ignore_background=self.ignore_background,
            floor=self.floor,
        )
        confidence, label = probs.max(dim=1)
        kept = confidence >= self.threshold
        own = replace(weak, target=label, weight=kept.float(), loss_weight=0.0)
        share = easiness.view(-1, 1, 1)
        strong = torch.lerp(weak.image, self.strong_view(weak.image, weak.valid, generator), share.unsqueeze(1))
        mixed = self._cutmix(own, easiness, generator)
        # both are drawn in every step, so that the numbers that follow do not depend on the networks
        drawn = bool(uniform((), CPU, generator).to(easiness) < easiness.mean())

        step.views[UNLABELED] = own
        views = {STRONG: replace(own, image=strong), **({CUTMIX: mixed} if drawn else {})}
        for name, view in views.items():
            image = view.image.contiguous(memory_format=engine.format)
            step.views[name] = replace(view, image=image, weight=view.weight * share)
        log_pseudo_labels(step, own, kept)
        step.scalars.update(easiness=easiness.mean(), cutmix_drawn=float(drawn))

    def _cutmix(self, own: View, easiness: Tensor, generator: torch.Generator) -> View:
        keep = draw_side_box(len(easiness), own.image.shape[-1], self.box_side, generator)
        return paste_view(own, take(own, opposite_rank(easiness)), keep)

    def add_loss(self, engine: SemiSupervisedTrainer) -> None:
        step: Step = engine.state.step
        names = [name for name in (STRONG, CUTMIX) if name in step.views]
        for name in names:
            view = step.views[name]
            value = per_image_cross_entropy(step.outputs[name].logits, view.target, view.weight, view.valid)
            step.add_loss(name, value, self.weight / len(names))
