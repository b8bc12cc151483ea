"""Hard-patch contrast as a handler (paper, Sec. 3.4); the mathematics is in `phnet_monai.losses.contrast`."""

from __future__ import annotations

from monai.engines.utils import IterationEvents

from phnet_monai.engines.step import UNLABELED, Step
from phnet_monai.engines.trainer import SemiSupervisedTrainer
from phnet_monai.losses import HardPatchContrastiveLoss
from phnet_monai.transforms.patches import expand_patches


class HardPatchContrast:
    """Adds the loss term `contrast`: Eq. 15 on pixels of shielded patches where both pseudo-labels agree.

    Needs `AdaptivePatchAugmentation` before it and a student with a projector. It is 0 while no patch is shielded. For
    studies without shield see `AdaptivePatchAugmentation(contrast_on="hardest")`.

    Args:
        loss: the sampled loss, its memory bank included.
        weight: lambda_c of Eq. 3.
        confident_only: also ask for the teacher's confidence (decision 20); off in the paper.
    """

    own_state = True  # the memory bank of each process holds pixels of its own images

    def __init__(self, loss: HardPatchContrastiveLoss, *, weight: float = 1.0, confident_only: bool = False) -> None:
        if weight < 0:
            raise ValueError(f"HardPatchContrast: weight is {weight}, expected >= 0")
        self.loss, self.weight, self.confident_only = loss, weight, confident_only

    def attach(self, engine: SemiSupervisedTrainer) -> None:
        self.loss.to(engine.state.device)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self)

    def __call__(self, engine: SemiSupervisedTrainer) -> None:
        step: Step = engine.state.step
        if step.patches is None:
            return
        plan, view, embedding = step.patches, step.views[UNLABELED], step.outputs[UNLABELED].embedding
        if embedding is None:
            raise ValueError(
                "HardPatchContrast: the student has no projector; set its embedding_size (256 in the paper)"
            )
        patches = plan.shielded if plan.contrasted is None else plan.contrasted
        reliable = expand_patches(patches, view.valid.shape[-2:]) & view.valid
        reliable &= plan.pseudo_label == plan.second_label
        if self.confident_only:
            reliable &= view.weight > 0
        value, classes = self.loss(embedding, plan.pseudo_label, reliable, engine.generator)
        step.add_loss("contrast", value, self.weight)
        step.scalars["contrast_classes"] = float(classes)

    def state_dict(self) -> dict:
        """Content of the memory bank."""
        return self.loss.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.loss.load_state_dict(state)
