"""What a training step consists of, and the one place where trainer and handlers leave things for each other.

`engine.state.step` is a `Step`; a new one is made in every iteration. The order of a step:

    trainer fills `views` (and `teacher_probs`)      -> SemiSupervisedEvents.VIEWS_PREPARED: handlers change the views
    trainer fills `outputs` by one student forward   -> IterationEvents.FORWARD_COMPLETED: handlers add loss terms
    trainer sums the terms                           -> IterationEvents.LOSS_COMPLETED
    backward, optimiser step                         -> IterationEvents.MODEL_COMPLETED: the EMA teacher follows
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ignite.engine import EventEnum
from torch import Tensor

LABELED = "labeled"
UNLABELED = "unlabeled"


class SemiSupervisedEvents(EventEnum):
    """Events beside MONAI's `IterationEvents`."""

    VIEWS_PREPARED = "views_prepared"
    INTERRUPTED = "interrupted"  # a signal ends the run; between two steps, or in a validation


@dataclass
class View:
    """One batch that the student sees.

    Attributes:
        image: float (B, 1, H, W) in [0, 1].
        target: int64 (B, H, W), label or pseudo-label.
        weight: float (B, H, W) >= 0, the method's weight per pixel (a confidence mask, say).
        valid: bool (B, H, W), False on padding.
        loss_weight: of its cross-entropy in the total; None: 1 for the labeled view, `unlabeled_weight` for all others;
            0: the trainer adds no cross-entropy (the method adds a term of its own).
        perturb: changes the encoder's feature maps of this view, a list of (B, C, h, w), before they are decoded.
    """

    image: Tensor
    target: Tensor
    weight: Tensor
    valid: Tensor
    loss_weight: float | None = None
    perturb: Callable[[list[Tensor]], list[Tensor]] | None = None


@dataclass
class Output:
    """The student's answer to a view: logits (B, C, H, W) and, with a projector, embedding (B, D, h, w) at stride 4."""

    logits: Tensor
    embedding: Tensor | None


@dataclass
class PatchPlan:
    """Left by `AdaptivePatchAugmentation` for `HardPatchContrast` and for the image panels.

    Attributes:
        hardness: (B, G, G), Eq. 4 on the teacher's view of the unmixed image.
        shielded: bool (B, G, G), the k chosen patches.
        keep_mask: bool (B, G, G), M of Eq. 6; (B, H, W) for plain CutMix.
        pseudo_label: int64 (B, H, W), y of Eq. 7, after mixing.
        second_label: int64 (B, H, W), Y of Eq. 11, the teacher's answer to the mixed image; None: nothing needs it.
        confidence: (B, H, W), the teacher's highest probability there, Eq. 9.
        contrasted: bool (B, G, G), patches whose pixels the contrast may sample; None: the shielded ones.
    """

    hardness: Tensor
    shielded: Tensor
    keep_mask: Tensor
    pseudo_label: Tensor
    second_label: Tensor | None
    confidence: Tensor
    contrasted: Tensor | None = None


@dataclass
class Step:
    """See the module's text. `scalars` are logged beside the loss terms."""

    views: dict[str, View] = field(default_factory=dict)
    weak: dict[str, View] = field(default_factory=dict)  # the views before any handler changed them
    teacher_probs: Tensor | None = None  # (B, C, H, W) on the weak unlabeled images
    outputs: dict[str, Output] = field(default_factory=dict)
    patches: PatchPlan | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)
    loss_weights: dict[str, float] = field(default_factory=dict)
    scalars: dict[str, float | Tensor] = field(default_factory=dict)

    def add_loss(self, name: str, value: Tensor, weight: float = 1.0) -> None:
        """Add a term; the total is the sum of weight * value.

        Raises:
            ValueError: the name is taken.
        """
        if name in self.losses:
            raise ValueError(f"loss term {name!r} was added twice in one step")
        self.losses[name], self.loss_weights[name] = value, float(weight)

    def total_loss(self) -> Tensor:
        return sum((self.loss_weights[name] * value for name, value in self.losses.items()), start=0.0)  # type: ignore
