"""Bidirectional copy-paste (BCP; Bai et al., CVPR 2023): labeled and unlabeled images exchange one rectangle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from scipy import ndimage
from torch import Tensor

from phnet_monai.engines.step import LABELED, UNLABELED, SemiSupervisedEvents, Step, View
from phnet_monai.engines.trainer import SemiSupervisedTrainer
from phnet_monai.losses import masked_ce_dice_loss

INGOING, OUTGOING, COPY_PASTE = "ingoing", "outgoing", "copy_paste"


def draw_rectangle(height: int, width: int, share: float, generator: torch.Generator) -> Tensor:
    """One rectangle of `share` of the height and of the width (rounded down) at a random place inside: bool (H, W)."""
    rows, columns = int(height * share + 1e-9), int(width * share + 1e-9)  # a hair against rounding
    top = int(torch.randint(height - rows + 1, (), generator=generator))
    left = int(torch.randint(width - columns + 1, (), generator=generator))
    rectangle = torch.zeros(height, width, dtype=torch.bool)
    rectangle[top : top + rows, left : left + columns] = True
    return rectangle


def paste(inside: View, outside: View, rectangle: Tensor) -> View:
    """The pixels of `inside` where `rectangle` (bool (H, W)) is True, those of `outside` elsewhere.

    Image, target, weight and valid are taken from the same source at every pixel.
    """
    return View(
        image=torch.where(rectangle, inside.image, outside.image),
        target=torch.where(rectangle, inside.target, outside.target),
        weight=torch.where(rectangle, inside.weight, outside.weight),
        valid=torch.where(rectangle, inside.valid, outside.valid),
        loss_weight=0.0,
    )


def largest_components(label: Tensor) -> Tensor:
    """Of every image and class but background only the largest 8-connected component: int64 (B, H, W) -> the same.

    The first one in reading order where two are equally large.
    """
    masks = label.cpu().numpy()
    kept = np.zeros_like(masks)
    for image, result in zip(masks, kept, strict=True):
        for value in np.unique(image[image > 0]):
            components, _ = ndimage.label(image == value, structure=np.ones((3, 3)))
            result[components == 1 + np.bincount(components[components > 0] - 1).argmax()] = value
    return torch.from_numpy(kept).to(label.device)


class BCP:
    """Replaces the labeled and the unlabeled view by `ingoing` and `outgoing`, and adds their region losses.

    With half batches a and b and one rectangle M a step: `ingoing` is the unlabeled a inside M and the labeled a
    outside, `outgoing` the labeled b inside and the unlabeled b outside. The loss of a view is the region loss of its
    labeled pixels plus `unlabeled_weight` times that of its pseudo-labeled ones. In labeled-only steps (phase A) the
    labeled b goes into the labeled a (view `copy_paste`), and both regions count fully.

    Args:
        share: of height and width that the rectangle covers.
        unlabeled_weight: of pseudo-labeled regions.
        largest_component: keep only the largest component of each pseudo-label (as the source does; drops the other
            lesions of multifocal images).
    """

    def __init__(self, *, share: float = 2 / 3, unlabeled_weight: float = 0.5, largest_component: bool = True) -> None:
        if not 0 < share < 1:
            raise ValueError(f"BCP: share is {share}, expected a value between 0 and 1")
        if unlabeled_weight < 0:
            raise ValueError(f"BCP: unlabeled_weight is {unlabeled_weight}, expected >= 0")
        self.share, self.unlabeled_weight, self.largest_component = share, unlabeled_weight, largest_component
        self.rectangle: Tensor | None = None  # of the current step

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(SemiSupervisedEvents.VIEWS_PREPARED, self.prepare)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self.add_losses)

    def prepare(self, engine: SemiSupervisedTrainer) -> None:
        step: Step = engine.state.step
        labeled_a, labeled_b = _halves(LABELED, step.views.pop(LABELED))
        height, width = labeled_a.valid.shape[-2:]
        rectangle = draw_rectangle(height, width, self.share, engine.generator).to(labeled_a.valid.device)
        self.rectangle = rectangle
        if UNLABELED not in step.views:
            step.views[COPY_PASTE] = paste(labeled_b, labeled_a, rectangle)
            return
        unlabeled = self._pseudo_labeled(step.views.pop(UNLABELED))
        unlabeled_a, unlabeled_b = _halves(UNLABELED, unlabeled)
        if len(unlabeled_a.image) != len(labeled_a.image):
            raise ValueError(
                f"BCP: {2 * len(labeled_a.image)} labeled and {2 * len(unlabeled_a.image)} unlabeled "
                "images in a step, expected as many of both; leave unlabeled_batch_size unset"
            )
        step.views[INGOING] = paste(unlabeled_a, labeled_a, rectangle)
        step.views[OUTGOING] = paste(labeled_b, unlabeled_b, rectangle)
        pixels = unlabeled.valid.sum().clamp(min=1)
        step.scalars["pseudo_label_lesion"] = ((unlabeled.target > 0) & unlabeled.valid).sum() / pixels

    def _pseudo_labeled(self, view: View) -> View:
        target = view.target * view.valid  # what is seen in the padding must not join or outgrow a lesion
        target = largest_components(target) if self.largest_component else target
        return replace(view, target=target, weight=view.weight * self.unlabeled_weight)

    def add_losses(self, engine: SemiSupervisedTrainer) -> None:
        """One term per view, named like it: (cross-entropy + Dice loss) / 2 of either region, normalised by its valid
        pixels. The views' pixel weights are those of the regions."""
        step: Step = engine.state.step
        assert self.rectangle is not None
        inside, outside = self.rectangle, ~self.rectangle
        regions = {INGOING: (outside, inside), OUTGOING: (inside, outside), COPY_PASTE: (inside, outside)}
        for name, (first, second) in regions.items():
            if name in step.views:
                view, logits = step.views[name], step.outputs[name].logits
                weight = 1.0 if name == COPY_PASTE else self.unlabeled_weight
                values = [masked_ce_dice_loss(logits, view.target, valid=view.valid & part) for part in (first, second)]
                step.add_loss(name, values[0] + weight * values[1])


def _halves(name: str, view: View) -> tuple[View, View]:
    count = len(view.image)
    if count < 2 or count % 2:
        raise ValueError(
            f"BCP: {count} {name} images in a step, expected an even number, at least 2 (two half "
            "batches exchange a rectangle); change batch_size"
        )
    parts = [slice(count // 2), slice(count // 2, None)]
    first, second = (View(view.image[part], view.target[part], view.weight[part], view.valid[part]) for part in parts)
    return first, second
