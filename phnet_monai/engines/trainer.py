"""The semi-supervised trainer: every method is this step with other views and other loss terms."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines.trainer import Trainer
from monai.engines.utils import IterationEvents
from monai.inferers import Inferer, SimpleInferer
from torch import Tensor, nn

from phnet_monai.distributed import average_, greatest, joined_for_training, summed
from phnet_monai.engines.interruption import Interruption
from phnet_monai.engines.step import LABELED, UNLABELED, Output, SemiSupervisedEvents, Step, View
from phnet_monai.engines.together import StudentTogether
from phnet_monai.losses import masked_ce_dice_loss, masked_cross_entropy
from phnet_monai.seeds import check_seed

AMP_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


SKIPS_IN_A_ROW = 20
"""With `on_nonfinite` "skip": so many skipped steps one after the other end the run."""


class NonFiniteLossError(ValueError):
    """A loss term or a gradient is NaN or infinite; raised before the weights are touched."""


class SemiSupervisedTrainer(Trainer):
    """Trains a student on labeled and unlabeled views (DESIGN of the step: `phnet_monai.engines.step`).

    Args:
        device: torch device.
        max_epochs: T, labeled-only epochs included.
        train_data_loader: `SemiSupervisedLoader`, or any iterable with `epoch_length` batches
            `{"labeled": {"image", "label", "valid"}, "unlabeled": {"image", "valid"}}` an epoch; `unlabeled` may be
            absent.
        network: the student, a `PHNet` (or a module with `forward_features`).
        optimizer: of the student's parameters.
        teacher: network that labels the weak unlabeled images; None: the student itself, in eval mode.
        pretrain_epochs: labeled-only epochs at the start (10 of 200 in the paper).
        unlabeled_weight: lambda_u of Eq. 3.
        unlabeled_norm: `reduction` of `masked_cross_entropy` for the unlabeled view.
        supervised_loss: `ce` (Eq. 2) or `ce_dice`, the mean of cross-entropy and soft Dice loss (decision 40).
        unlabeled_loss: the same choice for every other view: `ce` (Eq. 8) or `ce_dice`, both with the view's weights.
        teacher_noise: standard deviation of Gaussian noise on the teacher's images, cut at twice that (mean teacher).
        epoch_length: steps per epoch; None takes the loader's.
        train_handlers: handlers; None entries (disabled by an overlay) are dropped.
        inferer: how the student is called.
        amp: None, `bf16` or `fp16` (with gradient scaling; CUDA only).
        channels_last: memory format of networks and images.
        seed: randomness of an epoch depends on (seed, epoch) only, so that a resumed run repeats it.
        on_nonfinite: what happens to a step whose loss or gradient is NaN or infinite: `stop` ends the run, `skip`
            leaves weights, teacher and schedule of weights as they are and goes on (logged as `skipped`; after 20 in a
            row the run ends). With `fp16` the gradient scaler skips infinite gradients in any case.

    Several processes that have joined (`phnet_monai.distributed.start_processes`) train one student: each sees batches
    of its own, `DistributedDataParallel` averages the gradients, BN statistics are averaged after each step.
    Cross-entropy of its own views is divided by the pixels of all processes; terms of handlers are means over them.

    SIGTERM and Ctrl-C wait for the end of a step; then `SemiSupervisedEvents.INTERRUPTED` is fired, at which
    `SaveCheckpoints` saves, and the signal has its way (`Interruption`).

    Raises:
        ValueError: an argument is out of its range, or `torchrun` has started processes that have not joined.
        NonFiniteLossError: during `run`, before the weights are touched; names the terms.
    """

    def __init__(
        self,
        device: str | torch.device,
        max_epochs: int,
        train_data_loader: Iterable[dict[str, Any]],
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        teacher: nn.Module | None = None,
        pretrain_epochs: int = 0,
        unlabeled_weight: float = 1.0,
        unlabeled_norm: str = "valid",
        supervised_loss: str = "ce",
        unlabeled_loss: str = "ce",
        teacher_noise: float = 0.0,
        epoch_length: int | None = None,
        train_handlers: Sequence[Any] | None = None,
        inferer: Inferer | None = None,
        amp: str | None = None,
        channels_last: bool = True,
        seed: int = 0,
        on_nonfinite: str = "stop",
    ) -> None:
        if on_nonfinite not in ("stop", "skip"):
            raise ValueError(f"on_nonfinite is {on_nonfinite!r}, expected 'stop' or 'skip'")
        if amp is not None and amp not in AMP_TYPES:
            raise ValueError(f"SemiSupervisedTrainer: amp is {amp!r}, expected null, 'bf16' or 'fp16'")
        device = torch.device(device)
        if amp == "fp16" and device.type != "cuda":
            raise ValueError(
                f"SemiSupervisedTrainer: amp 'fp16' needs a CUDA device, found {device}; use 'bf16' or null"
            )
        if not 0 <= pretrain_epochs <= max_epochs:
            raise ValueError(f"pretrain_epochs is {pretrain_epochs}, expected 0 ... max_epochs = {max_epochs}")
        for name, loss in (("supervised_loss", supervised_loss), ("unlabeled_loss", unlabeled_loss)):
            if loss not in ("ce", "ce_dice"):
                raise ValueError(f"{name} is {loss!r}, expected 'ce' or 'ce_dice'")
        if teacher_noise < 0:
            raise ValueError(f"teacher_noise is {teacher_noise}, expected >= 0")
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.network = network.to(device=device, memory_format=self.format)  # type: ignore[call-overload]
        self.teacher = None if teacher is None else teacher.to(device=device, memory_format=self.format)  # type: ignore
        self.optimizer, self.inferer = optimizer, inferer or SimpleInferer()
        self.pretrain_epochs, self.unlabeled_weight = pretrain_epochs, unlabeled_weight
        self.unlabeled_norm, self.seed = unlabeled_norm, check_seed(seed)
        self.supervised_loss, self.unlabeled_loss = supervised_loss, unlabeled_loss
        self.teacher_noise = teacher_noise
        self.amp_type = AMP_TYPES[amp] if amp else None
        self.generator = torch.Generator()
        self.shard = joined_for_training()
        self.together: StudentTogether | None = None  # during `run`, with several processes
        self.on_nonfinite, self.skipped_in_a_row = on_nonfinite, 0
        self.trained: list[nn.Module] = [self.network]  # a handler with a student of its own adds it
        self.interruption = Interruption(
            lambda: self.fire_event(SemiSupervisedEvents.INTERRUPTED), at_release_only=self.shard.world > 1
        )
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            data_loader=train_data_loader,
            epoch_length=epoch_length,
            event_names=[SemiSupervisedEvents],
            decollate=False,
        )
        self.grad_scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")
        self.add_event_handler(Events.EPOCH_STARTED, SemiSupervisedTrainer._start_epoch)
        # a step lasts from before it is counted to the event after its last, when all handlers are done with it
        self.add_event_handler(Events.GET_BATCH_COMPLETED, self.interruption.hold)
        self.add_event_handler(Events.GET_BATCH_STARTED, SemiSupervisedTrainer._end_step)
        self.add_event_handler(Events.EPOCH_COMPLETED, SemiSupervisedTrainer._end_step)
        self._register_handlers([handler for handler in train_handlers or () if handler is not None])

    def run(self) -> None:  # type: ignore[override]
        """Train up to `max_epochs`, from the state's own epoch and iteration.

        Raises:
            ValueError: it has done so already (Ignite would begin anew, with weights, teacher and schedule of the end),
                or was cut short in its last epoch (Ignite would do nothing).
        """
        epochs, steps = self.state.max_epochs or 0, self.state.epoch_length or 0
        if self.state.iteration and self.state.epoch >= epochs:
            done = self.state.iteration >= epochs * steps
            how = f"done its {epochs} epochs" if done else f"ended early, at iteration {self.state.iteration}"
            more = "raise state.max_epochs" if done else "resume from its checkpoint"
            raise ValueError(f"this trainer has {how}; build a new one, or {more}")
        if self.shard.world > 1:
            self.together = StudentTogether(self.network, self.state.device)
        try:
            with self.interruption.installed():
                super().run()
        finally:
            self.together = None

    @property
    def pretraining(self) -> bool:
        """True during the labeled-only epochs."""
        return self.state.epoch <= self.pretrain_epochs

    @property
    def progress(self) -> float:
        """Share of the semi-supervised steps that lie behind this one, 0 at the first, below 1."""
        state = self.state
        length, before = state.epoch_length or 1, self.pretrain_epochs * (state.epoch_length or 1)
        total = (state.max_epochs or 1) * length - before
        return max(0, state.iteration - 1 - before) / max(1, total)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Context of every forward pass, the handlers' included."""
        if self.amp_type is None:
            return contextlib.nullcontext()
        return torch.autocast(self.state.device.type, dtype=self.amp_type)

    def teacher_probabilities(self, image: Tensor) -> Tensor:
        """`probabilities` of the teacher, or of the student where there is none."""
        return self.probabilities(self.network if self.teacher is None else self.teacher, image)

    @torch.no_grad()
    def probabilities(self, network: nn.Module, image: Tensor) -> Tensor:
        """A network in eval mode on (B, 1, H, W) -> float32 probabilities (B, C, H, W), without gradient."""
        training = network.training
        network.eval()
        with self.autocast():
            logits = network(image)
        network.train(training)
        return logits.float().softmax(dim=1)

    def _start_epoch(self) -> None:
        # each process draws for itself, the first one as a process of its own would
        epoch_seed = self.seed * 1_000_003 + self.state.epoch + self.shard.rank * 1_000_000_007
        torch.manual_seed(epoch_seed)  # dropout
        self.generator.manual_seed(epoch_seed)
        done = self.state.iteration - (self.state.epoch - 1) * (self.state.epoch_length or 0)
        if hasattr(self.data_loader, "set_epoch"):  # `done`: a resumed run goes on in the middle of an epoch
            self.data_loader.set_epoch(self.state.epoch, **({"done": done} if done else {}))

    def _end_step(self) -> None:
        if not self.interruption.holding:
            return
        if self.together is not None:  # all processes stop after the same step, whichever heard the signal
            pending = self.interruption.pending or 0
            self.interruption.pending = greatest(pending, self.state.device) or None
        self.interruption.release()

    def _iteration(  # type: ignore[override]
        self, engine: Engine, batchdata: dict[str, Any]
    ) -> list[dict[str, float]]:
        # a list, as outputs of MONAI's trainers: its handlers read the first
        step = self.state.step = Step()
        return [self._learn(step, batchdata) if self.on_nonfinite == "stop" else self._learn_or_skip(step, batchdata)]

    def _learn_or_skip(self, step: Step, batchdata: dict[str, Any]) -> dict[str, float]:
        # a forward pass changes statistics of batch normalisation before the loss is known, in U2PL the teacher's too
        networks = [*self.trained, *([] if self.teacher is None else [self.teacher])]
        buffers = [buffer for network in networks for buffer in network.buffers()]
        before = [buffer.clone() for buffer in buffers]
        try:
            summary = self._learn(step, batchdata)
        except NonFiniteLossError as error:
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
            return self._skip(error)
        self.skipped_in_a_row = 0
        return summary

    def _skip(self, error: NonFiniteLossError) -> dict[str, float]:
        """The summary of a step that is passed over, or the error, where there are too many."""
        self.skipped_in_a_row += 1
        self.optimizer.zero_grad(set_to_none=True)
        if self.skipped_in_a_row >= SKIPS_IN_A_ROW:
            raise NonFiniteLossError(
                f"{self.skipped_in_a_row} steps in a row were skipped; the last: {error}"
            ) from error
        return {"loss": math.nan, "skipped": 1.0, "rate": self.optimizer.param_groups[0]["lr"]}

    def _learn(self, step: Step, batchdata: dict[str, Any]) -> dict[str, float]:
        self._prepare_views(step, batchdata)
        self.fire_event(SemiSupervisedEvents.VIEWS_PREPARED)
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            self._forward(step)
        for name, view in step.views.items():
            weight = view.loss_weight
            if weight is None:
                weight = 1.0 if name == LABELED else self.unlabeled_weight
            if weight != 0:
                step.add_loss(name, self.view_loss(name, view, step.outputs[name].logits), weight)
        self._refuse_nonfinite(step)  # before handlers take broken features into their memory
        self.fire_event(IterationEvents.FORWARD_COMPLETED)
        total = self._refuse_nonfinite(step)
        self.fire_event(IterationEvents.LOSS_COMPLETED)
        self._backward(step, total)
        self._refuse_nonfinite_gradient()
        self.fire_event(IterationEvents.BACKWARD_COMPLETED)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
        if self.together is not None:
            average_([b for network in self.trained for b in network.buffers() if b.is_floating_point()])
        self.fire_event(IterationEvents.MODEL_COMPLETED)
        if self.on_nonfinite == "skip":
            step.scalars["skipped"] = 0.0
        step.scalars["rate"] = self.optimizer.param_groups[0]["lr"]
        return self._summary(step, total)

    def _backward(self, step: Step, total: Tensor) -> None:
        if self.together is None:
            self.grad_scaler.scale(total).backward()
            return
        # every parameter takes part in every process's step, or the processes would wait for one another for ever
        unused = [
            output.embedding[:0].float().sum() for output in step.outputs.values() if output.embedding is not None
        ]
        self.grad_scaler.scale(sum(unused, start=total)).backward()
        own = {id(parameter) for parameter in self.network.parameters()}
        others = [p for group in self.optimizer.param_groups for p in group["params"] if id(p) not in own]
        average_([p.grad for p in others if p.grad is not None])

    def _prepare_views(self, step: Step, batch: dict[str, Any]) -> None:
        labeled = self._to_device(batch[LABELED])
        ones = torch.ones_like(labeled["valid"], dtype=torch.float32)
        step.views[LABELED] = View(labeled["image"], labeled["label"], ones, labeled["valid"])
        if not self.pretraining and batch.get(UNLABELED) is not None:
            unlabeled = self._to_device(batch[UNLABELED])
            probs = step.teacher_probs = self.teacher_probabilities(self.noisy(unlabeled["image"]))
            ones = torch.ones_like(unlabeled["valid"], dtype=torch.float32)
            step.views[UNLABELED] = View(unlabeled["image"], probs.argmax(dim=1), ones, unlabeled["valid"])
        step.weak = dict(step.views)

    def noisy(self, image: Tensor) -> Tensor:
        """The image with `teacher_noise`; the image itself without."""
        if self.teacher_noise == 0:
            return image
        noise = torch.randn(image.shape, generator=self.generator).to(image) * self.teacher_noise
        return image + noise.clamp(-2 * self.teacher_noise, 2 * self.teacher_noise)

    def view_loss(self, name: str, view: View, logits: Tensor) -> Tensor:
        """`supervised_loss` of the labeled view, `unlabeled_loss` of others; for the student or a second one."""
        labeled = name == LABELED
        kind = self.supervised_loss if labeled else self.unlabeled_loss
        loss = masked_ce_dice_loss if kind == "ce_dice" else masked_cross_entropy
        return loss(
            logits,
            view.target,
            view.weight,
            view.valid,
            reduction="valid" if labeled else self.unlabeled_norm,  # type: ignore[arg-type]
            over_processes=lambda count: count if self.together is None else summed(count) / self.shard.world,
        )

    def _to_device(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        move = partial(torch.Tensor.to, device=self.state.device, non_blocking=True)
        moved = {name: move(value) for name, value in batch.items() if isinstance(value, Tensor)}
        moved["image"] = moved["image"].to(memory_format=self.format)  # type: ignore[call-overload]
        return moved

    def _forward(self, step: Step) -> None:
        """One student pass over all views, concatenated, so that batch statistics are shared."""
        names = list(step.views)
        sizes = [len(step.views[name].image) for name in names]
        images = torch.cat([step.views[name].image for name in names])
        features = self._features(step, sizes)
        logits, embedding = self.inferer(images, features if self.together is None else self.together.calling(features))
        embeddings = [None] * len(names) if embedding is None else embedding.split(sizes)
        for name, part, embedded in zip(names, logits.split(sizes), embeddings, strict=True):
            step.outputs[name] = Output(part, embedded)

    def _features(self, step: Step, sizes: list[int]) -> Callable[[Tensor], tuple[Tensor, Tensor | None]]:
        changes = [view.perturb for view in step.views.values()]
        if any(changes):
            return partial(self._perturbed_features, changes, sizes)
        if hasattr(self.network, "forward_features"):
            return self.network.forward_features  # type: ignore[return-value]
        return lambda images: (self.network(images), None)

    def _perturbed_features(
        self, changes: list[Callable[[list[Tensor]], list[Tensor]] | None], sizes: list[int], images: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """`forward_features` with the views' own changes between encoder and decoder."""
        network: Any = self.network
        parts = zip(*(level.split(sizes) for level in network.encode(images)), strict=True)  # per view, all levels
        changed = [
            list(levels) if change is None else change(list(levels))
            for change, levels in zip(changes, parts, strict=True)
        ]
        decoded = network.decode([torch.cat(level) for level in zip(*changed, strict=True)])
        logits = network.classify(decoded, *images.shape[-2:])
        return logits, None if network.projector is None else network.project(decoded)

    def _refuse_nonfinite(self, step: Step) -> Tensor:
        """The total loss, once it is known to be finite."""
        total = step.total_loss()
        finite = bool(torch.isfinite(torch.as_tensor(total)))  # a float where only handlers add terms
        if self.together is not None:
            finite = greatest(int(not finite), self.state.device) == 0
        if finite:
            return total
        terms = ", ".join(f"{name} = {float(value.detach())}" for name, value in step.losses.items())
        raise self._nonfinite(f"the loss is not finite ({terms})")

    def _refuse_nonfinite_gradient(self) -> None:
        """A finite loss can have an infinite gradient (a square root at 0, say); one update would spoil all weights."""
        if self.grad_scaler.is_enabled():  # it looks itself
            return
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms = torch._foreach_norm([p.grad for p in parameters]) if parameters else ()
        if parameters and not torch.isfinite(torch.stack(norms)).all():
            count = sum(not bool(torch.isfinite(norm)) for norm in norms)
            raise self._nonfinite(f"the gradient of {count} of {len(norms)} tensors is not finite, the loss is")

    def _nonfinite(self, what: str) -> NonFiniteLossError:
        return NonFiniteLossError(
            f"epoch {self.state.epoch}, iteration {self.state.iteration}: {what}. Nothing of "
            "this step was kept and no checkpoint of it is written. Check the images for constant or broken files; "
            "resume with amp null or bf16, or with train#trainer#on_nonfinite skip; or begin anew from the last "
            "checkpoint (`--init`, in another folder) with a lower learning rate."
        )

    @staticmethod
    def _summary(step: Step, total: Tensor) -> dict[str, float]:
        """Scalars of the step: `loss`, `loss_<term>` for every term, and what handlers left in `scalars`."""
        values = {"loss": total, **{f"loss_{name}": value for name, value in step.losses.items()}, **step.scalars}
        return {
            name: float(value.detach()) if isinstance(value, Tensor) else float(value) for name, value in values.items()
        }
