"""U2PL (Wang et al., CVPR 2022): entropy percentiles decide which pseudo-labels to use and which pixels to push off."""

from __future__ import annotations

import torch
from monai.engines.utils import IterationEvents
from torch import Tensor

from phnet_monai.engines.step import LABELED, UNLABELED, SemiSupervisedEvents, Step, View
from phnet_monai.engines.trainer import SemiSupervisedTrainer
from phnet_monai.handlers.teacher_pass import batch_statistics_pass
from phnet_monai.losses.entropy_filter import percentiles, unreliable_percent
from phnet_monai.losses.unreliable_contrast import ContrastPixels, UnreliableContrastiveLoss
from phnet_monai.transforms.boxes import draw_keep_box
from phnet_monai.transforms.patches import mix_patches, pixel_entropy

STRIDE = 4
HALF = (0.5, 0.5)  # area of the CutMix rectangle


def at_cells(pixels: Tensor) -> Tensor:
    """Values at the centres of the embedding's cells: (..., H, W) -> (..., h, w), h = (H + 1) // 4."""
    return pixels[..., STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]


def cells_of(embedding: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Embedding without the cells of padding that the network added: (B, D, h', w') -> (B, D, h, w) of `at_cells`."""
    height, width = (len(range(STRIDE // 2, extent, STRIDE)) for extent in size)
    return embedding[..., :height, :width]


class U2PL:
    """CutMix, cross-entropy on pixels of low entropy, and a contrast with unreliable pixels as negatives.

    Replaces the unlabeled view by images mixed with the next ones, their pseudo-labels, and weight 1 where the
    teacher's second answer has low entropy; adds the term `contrast`. The source multiplies the mean over the kept
    pixels by pixels / kept pixels: set the trainer's `unlabeled_norm` to `u2pl` for that. Teacher and student need
    projectors.

    With t = `engine.progress` and alpha_t = `percent` (1 - t), the alpha_t percent of the pixels with the highest
    entropy get no cross-entropy and are unreliable, those with the lowest may be anchors.

    Args:
        loss: the contrast, its queues included.
        weight: of the contrast. 1 in the source's code, 0.1 in its authors' advice for other data.
        percent: alpha_0.
        cutmix_probability: of mixing a step's images at all.
        teacher_bn: the second teacher pass is in train mode over labeled and mixed images, as in the source. `batch`:
            without effect on the teacher's running statistics; `batch_update`: it updates them.
    """

    own_state = True  # the queues of each process hold pixels of its own images

    def __init__(
        self,
        loss: UnreliableContrastiveLoss,
        *,
        weight: float = 1.0,
        percent: float = 20.0,
        cutmix_probability: float = 0.5,
        teacher_bn: str = "batch",
    ) -> None:
        if weight < 0 or not 0 < percent <= 50 or not 0 <= cutmix_probability <= 1:
            raise ValueError(
                f"U2PL: weight {weight}, percent {percent}, cutmix_probability {cutmix_probability}; expected >= 0, "
                "above 0 and up to 50, 0 ... 1"
            )
        if teacher_bn not in ("batch", "batch_update"):
            raise ValueError(f"U2PL: teacher_bn is {teacher_bn!r}, expected 'batch' or 'batch_update'")
        self.loss, self.weight, self.percent = loss, weight, percent
        self.cutmix_probability, self.teacher_bn = cutmix_probability, teacher_bn
        self._pixels: ContrastPixels | None = None

    def attach(self, engine: SemiSupervisedTrainer) -> None:
        for name in ("network", "teacher"):
            if getattr(getattr(engine, name), "projector", None) is None:
                raise ValueError(
                    f"U2PL: the {name} has no projector; set the student's embedding_size (256 in the source) and "
                    "`teacher#projector` to true"
                )
        self.loss.to(engine.state.device)
        engine.add_event_handler(SemiSupervisedEvents.VIEWS_PREPARED, self.prepare)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self.add_loss)

    def prepare(self, engine: SemiSupervisedTrainer) -> None:
        step: Step = engine.state.step
        self._pixels = None
        if UNLABELED not in step.views or step.teacher_probs is None:
            return
        weak, labeled = step.views[UNLABELED], step.views[LABELED]
        keep = self._keep_mask(weak, engine.generator)
        image = mix_patches(weak.image, keep).contiguous(memory_format=engine.format)
        label, valid = mix_patches(weak.target, keep), mix_patches(weak.valid, keep)

        logits, embedding = batch_statistics_pass(
            engine, torch.cat([labeled.image, image]), update=self.teacher_bn == "batch_update"
        )
        assert embedding is not None  # `attach` saw the projector
        probs = logits.float().softmax(dim=1)
        entropy = pixel_entropy(probs[len(labeled.image) :])
        alpha = unreliable_percent(engine.progress, self.percent)
        low, high = percentiles(entropy, valid, [alpha, 100.0 - alpha])
        kept = entropy <= high  # ties are kept, or a teacher that is equally sure everywhere would train nothing
        step.views[UNLABELED] = View(image, label, kept.float(), valid)
        self._pixels = ContrastPixels(
            teacher=cells_of(embedding, valid.shape[-2:]),
            probs=at_cells(probs),
            labels=at_cells(torch.cat([labeled.target, label])),
            labeled=len(labeled.image),
            reliable=at_cells(torch.cat([labeled.valid, valid & (entropy <= low)])),
            unreliable=at_cells(torch.cat([labeled.valid, valid & (entropy >= high)])),
        )
        self._log(step, entropy, alpha)

    def add_loss(self, engine: SemiSupervisedTrainer) -> None:
        step: Step = engine.state.step
        if self._pixels is None:
            return
        student = torch.cat([step.outputs[name].embedding for name in (LABELED, UNLABELED)])  # type: ignore[misc]
        student = cells_of(student, step.views[UNLABELED].valid.shape[-2:])
        value, classes = self.loss(student, self._pixels, engine.generator)
        self._pixels = None
        step.add_loss("contrast", value, self.weight)
        step.scalars["contrast_classes"] = float(classes)
        step.scalars["queue"] = float(self.loss.stored)

    def _keep_mask(self, weak: View, generator: torch.Generator) -> Tensor:
        """bool (B, H, W): a rectangle of half the area is cut from every image, or nothing from any."""
        mixes = bool(torch.rand((), generator=generator) < self.cutmix_probability)
        keep = draw_keep_box(len(weak.image), weak.valid.shape[-1], HALF, generator).to(weak.valid.device)
        return keep if mixes else torch.ones_like(keep)

    @staticmethod
    def _log(step: Step, entropy: Tensor, alpha: float) -> None:
        view = step.views[UNLABELED]
        pixels = view.valid.sum().clamp(min=1)
        step.scalars.update(
            unreliable_percent=alpha,
            entropy=(entropy * view.valid).sum() / pixels,
            kept_pixels=(view.weight * view.valid).sum() / pixels,
            pseudo_label_lesion=((view.target > 0) & view.valid).sum() / pixels,
        )

    def state_dict(self) -> dict:
        """Content of the queues."""
        return {"queues": self.loss.queue_state()}

    def load_state_dict(self, state: dict) -> None:
        self.loss.load_queue_state(state["queues"])
