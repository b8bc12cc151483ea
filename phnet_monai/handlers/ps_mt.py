"""PS-MT (Liu et al., CVPR 2022): two teachers in turn, strong views, and virtual adversarial noise on features."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from torch import Tensor, nn

from phnet_monai.engines.schedule import cosine_ramp
from phnet_monai.engines.step import LABELED, UNLABELED, SemiSupervisedEvents, Step, View
from phnet_monai.engines.trainer import SemiSupervisedTrainer
from phnet_monai.handlers.ema import BatchNormMode, EMATeacher
from phnet_monai.handlers.mixing import log_pseudo_labels
from phnet_monai.handlers.photometric_view import photometric
from phnet_monai.losses import masked_cross_entropy
from phnet_monai.networks.ensemble import Ensemble
from phnet_monai.networks.phnet import PHNet
from phnet_monai.transforms import draw_beta_box, mix_patches
from phnet_monai.transforms.draws import beta
from phnet_monai.transforms.strong_view import StrongView


class AlternatingTeachers:
    """Lets one of two teachers follow the student for an epoch while the other one rests, then the other way round.

    During the labeled-only epochs both are copies of the student. The first semi-supervised epoch belongs to the first
    teacher. Each counts its own updates (`EMATeacher`), so that from one common start the two become averages over
    different epochs of the student.

    Args:
        student: the network that is trained.
        teacher: `Ensemble` of two copies of it, none of which shares storage with another network.
        decay, buffers: see `EMATeacher`.
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module, *, decay: float = 0.999, buffers: BatchNormMode = "average"
    ) -> None:
        if not isinstance(teacher, Ensemble) or len(teacher.members) != 2:
            raise ValueError(
                f"AlternatingTeachers: teacher is {type(teacher).__name__}, expected an Ensemble of two networks"
            )
        first, second = ({tensor.data_ptr() for tensor in member.parameters()} for member in teacher.members)
        if first & second:
            raise ValueError("AlternatingTeachers: the two teachers share their storage; build two networks")
        self.teacher = teacher
        self.averages = [EMATeacher(student, member, decay=decay, buffers=buffers) for member in teacher.members]

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self.update)

    def start(self, engine: Engine) -> None:
        self.teacher.eval()
        for average in self.averages:
            average.start(engine)

    def update(self, engine: SemiSupervisedTrainer) -> None:
        epoch = engine.state.epoch - engine.pretrain_epochs
        for average in self.averages if epoch < 1 else [self.averages[(epoch - 1) % 2]]:
            average.update(engine)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": [average.updates for average in self.averages]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for average, updates in zip(self.averages, state["updates"], strict=True):
            average.load_state_dict({"updates": updates})


def confident_cross_entropy(logits: Tensor, label: Tensor, confidence: Tensor, kept: Tensor) -> Tensor:
    """Mean over the kept pixels of confidence * CE.

    Args:
        logits: (B, C, H, W).
        label: int64 (B, H, W).
        confidence: (B, H, W) in [0, 1], without gradient.
        kept: bool (B, H, W), valid pixels of sufficient confidence.

    Returns:
        Scalar >= 0; 0 where no pixel is kept.
    """
    return masked_cross_entropy(logits, label, confidence, kept, reduction="valid")


def adversarial_direction(
    teachers: list[PHNet], features: list[Tensor], valid: Tensor, start: Tensor, *, iterations: int = 1
) -> Tensor:
    """Direction of the deepest features in which the mean answer of the teachers' decoders changes most (T-VAT).

    Power iteration d <- gradient of KL(g(f) || g(f + xi d)) / its norm, with g the softmax of the decoders' mean
    logits, in the limit xi -> 0: there the gradient is J' (diag(p) - p p') J d, J the derivative of the logits. The
    source takes a finite step of length 1e-6, which is lost by rounding in single precision.

    Args:
        teachers: in eval mode; their encoders are not used.
        features: of any encoder of that architecture, finest first, (B, C, h, w) each; only the last is varied.
        valid: bool (B, H, W), the pixels that count.
        start: (B, C, h, w), first direction.
        iterations: of the power method.

    Returns:
        (B, C, h, w), float32, of norm 1 in each image; 0 where nothing changes.
    """
    *finer, deepest = (level.detach().float() for level in features)
    size, direction = valid.shape[-2:], unit(start.float())
    with torch.autocast(deepest.device.type, enabled=False):
        for _ in range(iterations):
            with torch.no_grad(), forward_ad.dual_level():
                moving = forward_ad.make_dual(deepest, direction)
                logits, change = forward_ad.unpack_dual(_mean_logits(teachers, [*finer, moving], size))
                probs = logits.softmax(dim=1)
                pull = probs * (change - (probs * change).sum(dim=1, keepdim=True)) * valid.unsqueeze(1)
            with torch.enable_grad():
                point = deepest.clone().requires_grad_()
                # images do not meet in eval mode, so that one sum serves all of them
                total = (_mean_logits(teachers, [*finer, point], size) * pull).sum()
                (gradient,) = torch.autograd.grad(total, point)
            direction = unit(gradient)
    return direction


def _mean_logits(teachers: list[PHNet], features: list[Tensor], size: torch.Size) -> Tensor:
    return torch.stack([teacher.classify(teacher.decode(features), *size) for teacher in teachers]).mean(dim=0)


def unit(direction: Tensor) -> Tensor:
    """(B, ...) -> the same divided by each image's norm; 0 stays 0."""
    flat = direction.flatten(1)
    flat = flat / flat.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(flat.dtype).tiny)  # squares may underflow
    return (flat / flat.norm(dim=1, keepdim=True).clamp(min=1.0)).view_as(direction)


class PSMT:
    """Replaces the unlabeled view by strong, mixed images; perturbs the student's features of both views.

    Target: the two teachers' mean logits on the weak images. The student's images, labeled ones too, get a strong
    photometric view; then unlabeled images, targets and valid areas are mixed by one box with the next image of the
    batch. `unlabeled` is the confidence-weighted cross-entropy of the pixels whose target is sure enough, in place of
    the trainer's term. The student decodes features moved by `eps` along the direction that hurts the teachers'
    decoders most.

    Needs `AlternatingTeachers`. In labeled-only epochs the student's images are strong views, too, and that is all.

    Args:
        strong_view: the photometric changes; the default jitters brightness and contrast, and blurs.
        threshold: lowest confidence of a pixel that is learnt from.
        weight: highest weight of `unlabeled`, reached after `ramp` of the semi-supervised steps along a cosine.
        ramp: share in (0, 1]; 12 of the source's 75 semi-supervised epochs.
        box: Beta parameters of the share of an image that stays as it is.
        eps: length of the feature perturbation, per image; 0 switches it off.
        iterations: see `adversarial_direction`.
    """

    def __init__(
        self,
        strong_view: StrongView | None = None,
        *,
        threshold: float = 0.6,
        weight: float = 1.5,
        ramp: float = 0.16,
        box: tuple[int, int] = (4, 4),
        eps: float = 2.0,
        iterations: int = 1,
    ) -> None:
        if not 0 <= threshold <= 1:
            raise ValueError(f"PSMT: threshold is {threshold}, expected a value in [0, 1]")
        if weight < 0 or not 0 < ramp <= 1:
            raise ValueError(f"PSMT: weight {weight}, ramp {ramp}; expected weight >= 0 and 0 < ramp <= 1")
        if eps < 0 or iterations < 1:
            raise ValueError(f"PSMT: eps {eps}, iterations {iterations}; expected eps >= 0 and 1 iteration or more")
        try:
            beta(1, *box, generator=torch.Generator())
        except (TypeError, ValueError) as error:
            raise ValueError(f"PSMT: box is {box}, expected two whole numbers >= 1") from error
        self.strong_view, self.threshold = strong_view or StrongView("jitter"), threshold
        self.weight, self.ramp, self.box = weight, ramp, box
        self.eps, self.iterations = eps, iterations

    def attach(self, engine: SemiSupervisedTrainer) -> None:
        if not isinstance(engine.teacher, Ensemble):
            raise ValueError(
                f"PSMT: the trainer's teacher is {type(engine.teacher).__name__}, expected an Ensemble of two networks"
            )
        engine.add_event_handler(SemiSupervisedEvents.VIEWS_PREPARED, self.prepare)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self.add_loss)

    def prepare(self, engine: SemiSupervisedTrainer) -> None:
        step: Step = engine.state.step
        step.views[LABELED] = photometric(step.views[LABELED], self.strong_view, engine)
        if UNLABELED not in step.views or step.teacher_probs is None:
            return
        view = self._mixed(step.views[UNLABELED], step.teacher_probs, engine)
        step.views[UNLABELED] = view
        log_pseudo_labels(step, view, view.weight > 0)
        if self.eps > 0:
            for name in (LABELED, UNLABELED):
                change = partial(self._perturb, engine, step.views[name].valid)
                step.views[name] = replace(step.views[name], perturb=change)

    def _mixed(self, weak: View, probs: Tensor, engine: SemiSupervisedTrainer) -> View:
        """The strong view after CutMix; `weight` is the confidence of kept pixels, 0 elsewhere."""
        strong = self.strong_view(weak.image, weak.valid, engine.generator)
        keep = draw_beta_box(len(strong), strong.shape[-1], self.box, engine.generator).to(weak.valid.device)
        # moving pixels commutes with the softmax, so the probabilities are mixed in place of the logits
        confidence, label = mix_patches(probs, keep).max(dim=1)
        image, valid = mix_patches(strong, keep), mix_patches(weak.valid, keep)
        weight = confidence * ((confidence >= self.threshold) & valid)
        return View(image.contiguous(memory_format=engine.format), label, weight, valid, loss_weight=0.0)

    def _perturb(self, engine: SemiSupervisedTrainer, valid: Tensor, features: list[Tensor]) -> list[Tensor]:
        """The student's features of one view, the deepest moved by `eps` in the adversarial direction."""
        *finer, deepest = features
        # one number of the engine's generator, so that large maps need not be drawn on the CPU
        seed = int(torch.randint(2**62, (1,), generator=engine.generator))
        generator = torch.Generator(deepest.device).manual_seed(seed)
        start = torch.rand(deepest.shape, generator=generator, device=deepest.device) - 0.5
        teachers: list[Any] = list(engine.teacher.members)  # type: ignore[union-attr, arg-type]
        direction = adversarial_direction(teachers, features, valid, start, iterations=self.iterations)
        return [*finer, deepest + self.eps * direction.to(deepest.dtype)]

    def add_loss(self, engine: SemiSupervisedTrainer) -> None:
        step: Step = engine.state.step
        if UNLABELED not in step.views or step.teacher_probs is None:
            return
        view = step.views[UNLABELED]
        value = confident_cross_entropy(step.outputs[UNLABELED].logits, view.target, view.weight, view.weight > 0)
        weight = self.weight * cosine_ramp(engine.progress / self.ramp)
        step.add_loss("unlabeled", value, weight)
        step.scalars["unlabeled_weight"] = weight
