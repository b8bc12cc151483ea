"""PDF-UNet (Iqbal and Sharif 2023) as far as its training: a frozen network labels, another is trained on its masks."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ignite.engine import Engine
from monai.engines.utils import IterationEvents
from torch import Tensor, nn

from phnet_monai.engines.step import UNLABELED, SemiSupervisedEvents, Step
from phnet_monai.engines.trainer import SemiSupervisedTrainer
from phnet_monai.handlers.mean_teacher import without_cross_entropy
from phnet_monai.losses import masked_ce_dice_loss
from phnet_monai.networks import load_checkpoint


def load_labeler(path: str | Path | None, which: str = "teacher") -> nn.Module:
    """The frozen network of a checkpoint (its teacher, where it has one), to be the trainer's `teacher`.

    Args:
        path: a checkpoint of `phnet train` with any network; `labeler_init` of the configs.

    Raises:
        ValueError: no path; FileNotFoundError, CheckpointError.
    """
    if path is None:
        raise ValueError(
            "labeler_init is null, but this method needs a trained network that labels the unlabeled images; set it to "
            "a checkpoint of labeled-only training, e.g. the best.pt of `phnet train --method warm_start`"
        )
    network, info = load_checkpoint(path, which=which)
    network.trained_size = info["input"]["size"]  # type: ignore[assignment]
    return network.requires_grad_(False)


def check_labeler(labeler: nn.Module | None, image: Tensor) -> None:
    """Refuse images of another size than a labeler of `load_labeler` was trained with: its masks would be worse.

    Raises:
        ValueError.
    """
    size = getattr(labeler, "trained_size", None)
    if size is not None and image.shape[-1] != size:
        raise ValueError(
            f"labeler_init was trained at {size} x {size} pixels, this training has {image.shape[-1]} x "
            f"{image.shape[-1]}; give a labeler of this profile and size"
        )


def weights_digest(network: nn.Module) -> str:
    """SHA-256 of all weights and statistics of a network, in their order."""
    content = hashlib.sha256()
    for tensor in network.state_dict().values():
        content.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return content.hexdigest()


class PseudoMaskGenerator:
    """Adds `pseudo_masks`: (cross-entropy + Dice loss) / 2 to the labeler's masks of the unlabeled images.

    The labeler is the trainer's `teacher` (`load_labeler`); it sees the same weak views and stays as it is. Replaces
    the cross-entropy of the unlabeled view.

    Args:
        weight: of the term; 1 counts generated masks like those of annotators, as the source does.
    """

    def __init__(self, *, weight: float = 1.0) -> None:
        if weight < 0:
            raise ValueError(f"{type(self).__name__}: weight is {weight}, expected >= 0")
        self.weight = weight

    def attach(self, engine: Engine) -> None:
        labeler = getattr(engine, "teacher", None)
        if labeler is None:
            raise ValueError(
                f"{type(self).__name__}: the trainer has no teacher, expected the network of `load_labeler`"
            )
        self.labeler_digest = weights_digest(labeler)
        engine.add_event_handler(SemiSupervisedEvents.VIEWS_PREPARED, self.prepare)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self.add_loss)

    def state_dict(self) -> dict[str, Any]:
        return {"labeler": self.labeler_digest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError where the run began with another labeler: it is no part of the checkpoint."""
        if state.get("labeler", self.labeler_digest) != self.labeler_digest:
            raise ValueError(
                "labeler_init holds another network than the one that this run began with; resume with that, or train "
                "into another folder"
            )

    def prepare(self, engine: SemiSupervisedTrainer) -> None:
        step: Step = engine.state.step
        if UNLABELED in step.views:
            check_labeler(engine.teacher, step.views[UNLABELED].image)
        without_cross_entropy(step)

    def add_loss(self, engine: SemiSupervisedTrainer) -> None:
        step: Step = engine.state.step
        if UNLABELED not in step.views:
            return
        view, logits = step.views[UNLABELED], step.outputs[UNLABELED].logits
        value = masked_ce_dice_loss(logits, view.target, view.weight, view.valid)
        step.add_loss("pseudo_masks", value, self.weight)
        step.scalars["pseudo_label_lesion"] = ((view.target > 0) & view.valid).sum() / view.valid.sum().clamp(min=1)
