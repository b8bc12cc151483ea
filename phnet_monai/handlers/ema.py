"""The EMA teacher (paper, Eq. 1)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from torch import Tensor, nn

BatchNormMode = Literal["average", "copy", "keep"]


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, decay: float, buffers: BatchNormMode = "average") -> None:
    """theta' <- decay * theta' + (1 - decay) * theta, Eq. 1, for every parameter of the teacher.

    Floating-point buffers (BN statistics) follow the same rule with `buffers="average"`, are copied with "copy", and
    left alone with "keep" (U2PL's teacher collects its own); integer buffers are always copied. Names that only the
    student has (its projector) are passed over. Values are written into the teacher's own storage, never shared.
    """
    sources = dict(student.named_parameters())
    pairs: list[tuple[Tensor, Tensor]] = [
        (target, sources[name].detach()) for name, target in teacher.named_parameters()
    ]
    student_buffers = dict(student.named_buffers())
    for name, target in teacher.named_buffers():
        source = student_buffers[name]
        if target.is_floating_point() and buffers == "average":
            pairs.append((target, source))
        elif not target.is_floating_point() or buffers == "copy":
            target.copy_(source)
    targets, values = [target for target, _ in pairs], [value for _, value in pairs]
    if decay == 0.0:
        torch._foreach_copy_(targets, values)
    else:
        torch._foreach_lerp_(targets, values, 1.0 - decay)


class EMATeacher:
    """Lets the teacher follow the student after every step.

    During the labeled-only epochs the teacher is a copy of the student. From then on step n (counted from 1) uses the
    decay min(1 - 1/(n + 1), `decay`), so that the teacher is not held back by its first weights.

    Args:
        student, teacher: same architecture; the teacher may lack the projector. Its gradients are switched off.
        decay: alpha of Eq. 1, 0.999 in the paper.
        buffers: `average`, `copy` or `keep`: what happens to BN statistics after the labeled-only epochs.
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module, *, decay: float = 0.999, buffers: BatchNormMode = "average"
    ) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"EMATeacher: decay is {decay}, expected 0 <= decay < 1")
        if buffers not in ("average", "copy", "keep"):
            raise ValueError(f"EMATeacher: buffers is {buffers!r}, expected 'average', 'copy' or 'keep'")
        _check_architecture(student, teacher)
        self.student, self.teacher, self.decay, self.buffers = student, teacher.requires_grad_(False), decay, buffers
        self.updates = 0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self.update)

    def start(self, engine: Engine) -> None:
        """Fresh run: teacher := student, warm-start weights included. A resumed run keeps its own teacher."""
        self.teacher.eval()
        if engine.state.iteration == 0:
            ema_update(self.teacher, self.student, 0.0, "copy")

    def update(self, engine: Engine) -> None:
        if getattr(engine, "pretraining", False):
            ema_update(self.teacher, self.student, 0.0, "copy")
            return
        self.updates += 1
        ema_update(self.teacher, self.student, self.current_decay(), self.buffers)

    def current_decay(self) -> float:
        return min(1.0 - 1.0 / (self.updates + 1), self.decay)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = int(state["updates"])


def _check_architecture(student: nn.Module, teacher: nn.Module) -> None:
    """The teacher's tensors must all exist in the student, of the same shape and in storage of their own."""
    own = {**dict(student.named_parameters()), **dict(student.named_buffers())}
    theirs = {**dict(teacher.named_parameters()), **dict(teacher.named_buffers())}
    unknown = [name for name, tensor in theirs.items() if name not in own or own[name].shape != tensor.shape]
    if unknown:
        raise ValueError(
            f"EMATeacher: the teacher is no copy of the student ({len(unknown)} tensors differ, e.g. {unknown[0]}); "
            "build both from the same arguments"
        )
    storages = {tensor.data_ptr() for tensor in own.values() if tensor.numel()}
    shared = [name for name, tensor in theirs.items() if tensor.numel() and tensor.data_ptr() in storages]
    if shared:
        raise ValueError(f"EMATeacher: teacher and student share the storage of {shared[0]}; build two networks")
