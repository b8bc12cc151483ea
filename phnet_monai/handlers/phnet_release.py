"""The contrast of the PH-Net authors' partial release as a handler; see `phnet_monai.losses.mixed_patch_contrast`."""

from __future__ import annotations

import torch
from monai.engines.utils import IterationEvents
from torch import Tensor

from phnet_monai.engines.step import LABELED, UNLABELED, PatchPlan, Step
from phnet_monai.engines.trainer import SemiSupervisedTrainer
from phnet_monai.losses.mixed_patch_contrast import MixedPatchContrastiveLoss, PatchFeatures
from phnet_monai.transforms.patches import expand_patches, mix_patches, patch_hardness, patch_mean


def mixed_hardness(plan: PatchPlan) -> Tensor:
    """Hardness of the mixed image's patches: pasted ones bring that of the image they come from. (B, G, G)."""
    pixels = expand_patches(plan.hardness, plan.pseudo_label.shape[-2:])
    return patch_mean(mix_patches(pixels, plan.keep_mask), plan.hardness.shape[-1])


class ReleaseContrast:
    """Adds the loss term `contrast` on patches that hold both classes, in place of `HardPatchContrast`.

    Needs `AdaptivePatchAugmentation` before it, and student and teacher with a projector. 0 in steps without a mixed
    labeled or unlabeled patch.

    Args:
        loss: the contrast.
        weight: lambda_c.
    """

    def __init__(self, loss: MixedPatchContrastiveLoss, *, weight: float = 1.0) -> None:
        if weight < 0:
            raise ValueError(f"ReleaseContrast: weight is {weight}, expected >= 0")
        self.loss, self.weight = loss, weight

    def attach(self, engine: SemiSupervisedTrainer) -> None:
        for name in ("network", "teacher"):
            if getattr(getattr(engine, name), "projector", None) is None:
                raise ValueError(
                    f"ReleaseContrast: the {name} has no projector; set the student's embedding_size (256 in the "
                    "paper) and `teacher#projector` to true"
                )
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self)

    def __call__(self, engine: SemiSupervisedTrainer) -> None:
        step: Step = engine.state.step
        plan = step.patches
        if plan is None:
            return
        embedding = step.outputs[UNLABELED].embedding
        assert embedding is not None  # `attach` saw the projector
        unlabeled = PatchFeatures(embedding, plan.pseudo_label, step.views[UNLABELED].valid, mixed_hardness(plan))
        labeled = self._labeled(engine, step, plan.hardness.shape[-1])
        value, anchors = self.loss(unlabeled, labeled, engine.generator)
        step.add_loss("contrast", value, self.weight)
        step.scalars["contrast_anchors"] = float(anchors)

    @staticmethod
    @torch.no_grad()
    def _labeled(engine: SemiSupervisedTrainer, step: Step, grid_size: int) -> PatchFeatures:
        """What the teacher, in eval mode, makes of the labeled images."""
        view, teacher = step.views[LABELED], engine.teacher
        assert teacher is not None
        teacher.eval()
        with engine.autocast():
            logits, embedding = teacher.forward_features(view.image)  # type: ignore[operator]
        hardness = patch_hardness(logits.float().softmax(dim=1), grid_size)
        return PatchFeatures(embedding, view.target, view.valid, hardness)
