"""Cross pseudo supervision (CPS; Chen et al., CVPR 2021): two students teach each other by their hard labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents
from torch import Tensor, nn

from phnet_monai.engines.step import LABELED, UNLABELED, SemiSupervisedEvents, Step, View
from phnet_monai.engines.trainer import SemiSupervisedTrainer
from phnet_monai.losses import masked_cross_entropy
from phnet_monai.networks.checkpoint import load_weights, network_weights, read_checkpoint
from phnet_monai.networks.phnet import copy_encoder
from phnet_monai.transforms import draw_keep_box, mix_patches


def cross_pseudo_loss(
    first: Tensor, second: Tensor, first_label: Tensor, second_label: Tensor, valid: Tensor
) -> Tensor:
    """CE(first, second_label) + CE(second, first_label), each a mean over the valid pixels.

    Args:
        first, second: logits of the two students on the same images, (B, C, H, W).
        first_label, second_label: int64 (B, H, W), what each of them says; no gradient goes through labels.
        valid: bool (B, H, W).

    Returns:
        Scalar >= 0; 0 where nothing is valid.
    """
    taught = masked_cross_entropy(first, second_label, valid=valid)
    return taught + masked_cross_entropy(second, first_label, valid=valid)


def draw_keep_boxes(
    batch: int, size: int, *, boxes: int, cut_ratio: tuple[float, float], generator: torch.Generator | None = None
) -> Tensor:
    """Several random rectangles to cut per image.

    Each has a share of the area that is uniform in `cut_ratio` / `boxes`; where they overlap they are one hole, so
    that up to `cut_ratio[1]` of the image is cut.

    Returns:
        keep_mask: bool (batch, size, size), False inside the rectangles, for `mix_patches`.
    """
    low, high = cut_ratio
    masks = [draw_keep_box(batch, size, (low / boxes, high / boxes), generator) for _ in range(boxes)]
    return torch.stack(masks).all(dim=0)


class CrossPseudoSupervision:
    """Trains a second student beside the trainer's, and adds `second_labeled` and `cross_pseudo`.

    `second_labeled` is the second student's supervised loss. `cross_pseudo`: plain, each student's hard label teaches
    the other one on labeled and unlabeled weak views, without threshold; with `cutmix`, the labels of the weak
    unlabeled images (eval mode, no gradient) are mixed with the images, and the loss is taken on the mixed ones only.
    The labeled-only epochs train both students by their supervised losses.

    The optimiser must hold the parameters of both; two groups of one SGD are the same as two SGDs. The second student
    is saved with the handler's state; the first is the one that is evaluated.

    Args:
        second: the second student (`make_second_student`); no projector.
        weight: of `cross_pseudo`: 1.5 plain, 1 with CutMix in the authors' VOC settings; no ramp.
        cutmix: see above.
        boxes, cut_ratio: number of rectangles and range of the share that they cover together.
        init: checkpoint whose student the second one starts from: the warm start of another seed. None: it takes the
            first student's encoder, warm-started or not, and keeps its own decoder and classifier.
    """

    def __init__(
        self,
        second: nn.Module,
        *,
        weight: float = 1.5,
        cutmix: bool = False,
        boxes: int = 3,
        cut_ratio: tuple[float, float] = (0.25, 0.5),
        init: str | Path | None = None,
    ) -> None:
        if weight < 0:
            raise ValueError(f"CrossPseudoSupervision: weight is {weight}, expected >= 0")
        low, high = cut_ratio
        if boxes < 1 or not 0 <= low <= high <= 1:
            raise ValueError(
                f"CrossPseudoSupervision: boxes {boxes}, cut_ratio {tuple(cut_ratio)}; expected at least 1 box and "
                "0 <= low <= high <= 1"
            )
        self.second, self.weight, self.cutmix = second, weight, cutmix
        self.boxes, self.cut_ratio, self.init = boxes, (low, high), init
        if init is not None:  # read now, so that a bad path ends the run before any work
            self.init_weights = network_weights(read_checkpoint(init), init, "student")

    def attach(self, engine: SemiSupervisedTrainer) -> None:
        optimised = {id(p) for group in engine.optimizer.param_groups for p in group["params"]}
        if not all(id(p) in optimised for p in [*engine.network.parameters(), *self.second.parameters()]):
            raise ValueError(
                "CrossPseudoSupervision: the optimizer lacks parameters of one of the two students; give it both, "
                "as two groups"
            )
        if self.cutmix and engine.teacher is not None:
            raise ValueError("CrossPseudoSupervision: the students label the images themselves; set teacher to null")
        self.second.to(device=engine.state.device, memory_format=engine.format)  # type: ignore[call-overload]
        engine.trained.append(self.second)
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(SemiSupervisedEvents.VIEWS_PREPARED, self.prepare)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self.add_losses)

    def start(self, engine: SemiSupervisedTrainer) -> None:
        """Fresh run: the second student's first weights. Comes after the warm start of the first."""
        if engine.state.iteration > 0:
            return
        if self.init is None:
            copy_encoder(engine.network, self.second)
        else:
            load_weights(self.second, self.init_weights, self.init)

    def prepare(self, engine: SemiSupervisedTrainer) -> None:
        step: Step = engine.state.step
        if UNLABELED not in step.views:
            return
        weak = step.views[UNLABELED]
        if not self.cutmix:
            step.views[UNLABELED] = replace(weak, loss_weight=0.0)
            return
        size = (len(weak.image), weak.image.shape[-1])
        keep = draw_keep_boxes(*size, boxes=self.boxes, cut_ratio=self.cut_ratio, generator=engine.generator)
        keep = keep.to(weak.valid.device)
        image = mix_patches(weak.image, keep).contiguous(memory_format=engine.format)
        self.first_label = mix_patches(weak.target, keep)  # the trainer labels by the first student
        second_label = mix_patches(self._second_label(engine, weak.image), keep)
        step.views[UNLABELED] = View(image, second_label, weak.weight, mix_patches(weak.valid, keep), loss_weight=0.0)

    @torch.no_grad()
    def _second_label(self, engine: SemiSupervisedTrainer, image: Tensor) -> Tensor:
        self.second.eval()
        with engine.autocast():
            return self.second(image).argmax(dim=1)

    def add_losses(self, engine: SemiSupervisedTrainer) -> None:
        step: Step = engine.state.step
        names = [name for name in (LABELED, UNLABELED) if name in step.views]
        views = [step.views[name] for name in names]
        self.second.train()
        with engine.autocast():
            seconds = self.second(torch.cat([view.image for view in views])).split([len(view.image) for view in views])
        step.add_loss("second_labeled", engine.view_loss(LABELED, views[0], seconds[0]))
        if UNLABELED not in step.views:
            return
        if self.cutmix:
            first, second, valid = step.outputs[UNLABELED].logits, seconds[1], views[1].valid
            labels = (self.first_label, views[1].target)
        else:
            first = torch.cat([step.outputs[name].logits for name in names])
            second, valid = torch.cat(seconds), torch.cat([view.valid for view in views])
            labels = (first.argmax(dim=1), second.argmax(dim=1))
        step.add_loss("cross_pseudo", cross_pseudo_loss(first, second, *labels, valid), self.weight)
        agreement = (labels[0] == labels[1]) & valid
        step.scalars["students_agreement"] = agreement.sum() / valid.sum().clamp(min=1)

    def state_dict(self) -> dict[str, Tensor]:
        return self.second.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.second.load_state_dict(state)
