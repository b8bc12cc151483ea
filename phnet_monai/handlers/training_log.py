"""What one can follow of a run: TensorBoard scalars and image panels, and `history.jsonl` for plots."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from phnet_monai.distributed import gather_all, joined_shard
from phnet_monai.engines.step import UNLABELED, Step
from phnet_monai.files import atomic_writer, disk_errors_name
from phnet_monai.transforms.patches import expand_patches

TENSORBOARD = "tensorboard"


class TrainingLog:
    """Logs every scalar of the steps, the validation metrics, and image panels of the unlabeled view.

    TensorBoard (`folder`/tensorboard): `train/<name>` every `interval` steps, `validation/<name>` every epoch that
    validates, `unlabeled/<name>` where pseudo-labels are scored, `panels` every `panel_epochs` epochs.
    `folder`/history.jsonl: one line an epoch, means over its steps (those of skipped steps are left out). The means are
    in `engine.state.metrics` too, where trackers such as MONAI's `MLFlowHandler` look for them.

    Of several joined processes the first writes: scalars of its own steps to TensorBoard, means over all processes to
    the history.

    Attach after the validation handler and before `SaveCheckpoints`.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        evaluator: Engine | None = None,
        interval: int = 10,
        panel_epochs: int = 1,
        pseudo_label_evaluator: Engine | None = None,
    ) -> None:
        if interval < 1 or panel_epochs < 0:
            raise ValueError(f"TrainingLog: interval {interval}, panel_epochs {panel_epochs}; expected >= 1 and >= 0")
        self.folder = Path(folder)
        self.evaluators = {"validation": evaluator, "unlabeled": pseudo_label_evaluator}
        self.interval, self.panel_epochs = interval, panel_epochs
        self.writer: SummaryWriter | None = None
        self._reset()

    def _reset(self) -> None:
        self.sums: dict[str, float] = defaultdict(float)
        self.counts: dict[str, int] = defaultdict(int)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.start_epoch)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.log_step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.log_epoch)
        engine.add_event_handler(Events.COMPLETED, self.close)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._close_and_raise)

    def state_dict(self) -> dict[str, Any]:
        """What all processes summed up in this epoch, for a run that is resumed in the middle of it."""
        sums, counts = self._of_all_processes()
        return {"sums": sums, "counts": counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._reset()
        if joined_shard().first:
            self.sums.update(state["sums"])
            self.counts.update(state["counts"])

    def _of_all_processes(self) -> tuple[dict[str, float], dict[str, int]]:
        sums: Counter[str] = Counter()
        counts: Counter[str] = Counter()
        for of_one in gather_all((dict(self.sums), dict(self.counts))):
            sums.update(of_one[0])
            counts.update(of_one[1])
        return dict(sums), dict(counts)

    def start_epoch(self, engine: Engine) -> None:
        if engine.state.iteration == (engine.state.epoch - 1) * (engine.state.epoch_length or 0):
            self._reset()
        self.start(engine)

    def start(self, engine: Engine) -> None:
        """At the first epoch: a resumed run knows its place by then, and a refused one has left nothing behind."""
        if self.writer is not None or not joined_shard().first:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with disk_errors_name(self.folder / TENSORBOARD):
            self.writer = SummaryWriter(str(self.folder / TENSORBOARD), purge_step=engine.state.iteration + 1)
        self._drop_rows_from(engine.state.epoch)

    def _drop_rows_from(self, epoch: int) -> None:
        """A run that ended between log and checkpoint repeats an epoch, which must not have two rows."""
        path = self.folder / "history.jsonl"
        if not path.is_file():
            return
        kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _epoch_of(line) < epoch]
        with atomic_writer(path) as stream:
            stream.write("".join(f"{line}\n" for line in kept).encode())

    def log_step(self, engine: Engine) -> None:
        output: Any = engine.state.output[0]  # type: ignore[index]
        for name, value in output.items():
            if not math.isfinite(value):  # of a skipped step
                continue
            self.sums[name] += value
            self.counts[name] += 1
            if engine.state.iteration % self.interval == 0 and self.writer is not None:
                with disk_errors_name(self.folder / TENSORBOARD):
                    self.writer.add_scalar(f"train/{name}", value, engine.state.iteration)

    def log_epoch(self, engine: Engine) -> None:
        self.start(engine)  # a run that is resumed before its validation comes here first
        epoch = engine.state.epoch
        row: dict[str, object] = {"epoch": epoch, "iteration": engine.state.iteration}
        sums, counts = self._of_all_processes()
        if self.writer is None:  # not the first process
            return
        means = {name: sums[name] / counts[name] for name in sorted(sums)}
        row["train"] = means
        engine.state.metrics.update(means)
        for part, evaluator in self.evaluators.items():
            metrics = {} if evaluator is None else dict(evaluator.state.metrics)
            if metrics:
                row[part] = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        with disk_errors_name(self.folder / TENSORBOARD):
            self._show(engine, self.writer)
        history = self.folder / "history.jsonl"
        with disk_errors_name(history), open(history, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _show(self, engine: Engine, writer: SummaryWriter) -> None:
        for part, evaluator in self.evaluators.items():
            for name, value in ({} if evaluator is None else evaluator.state.metrics).items():
                writer.add_scalar(f"{part}/{name}", value, engine.state.iteration)
        step: Step | None = getattr(engine.state, "step", None)
        shown = self.panel_epochs and engine.state.epoch % self.panel_epochs == 0
        if shown and step is not None and step.patches is not None:
            writer.add_image("panels", panels(step), engine.state.iteration)
        writer.flush()

    def close(self, engine: Engine) -> None:
        writer, self.writer = self.writer, None
        if writer is not None:
            with disk_errors_name(self.folder / TENSORBOARD):
                writer.close()

    def _close_and_raise(self, engine: Engine, error: BaseException) -> None:
        self.close(engine)
        raise error


def _epoch_of(line: str) -> float:
    """The epoch of a row of the history; infinity for what is none: a stopped run may leave half a row."""
    try:
        return float(json.loads(line)["epoch"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def panels(step: Step, images: int = 4) -> Tensor:
    """Pictures of the unlabeled view, one row per image: uint8 (3, rows * H, 6 * W).

    Columns: weak view; hardness map; shielded (green) and cut (red) patches; mixed view; pseudo-label (lesion red, with
    what the threshold drops darkened); confidence.
    """
    plan, view, weak = step.patches, step.views[UNLABELED], step.weak[UNLABELED]
    assert plan is not None
    size = view.valid.shape[-2:]
    grey = weak.image[:images].float().expand(-1, 3, -1, -1)
    mixed = view.image[:images].float().expand(-1, 3, -1, -1)
    hardness = expand_patches(plan.hardness[:images], size).unsqueeze(1).expand(-1, 3, -1, -1)
    shielded = expand_patches(plan.shielded[:images], size)
    cut = ~expand_patches(plan.keep_mask[:images], size)
    patches = _tint(_tint(grey, shielded, (0.0, 1.0, 0.0)), cut, (1.0, 0.0, 0.0))
    label = _tint(mixed, plan.pseudo_label[:images] > 0, (1.0, 0.0, 0.0))
    label = label * (0.35 + 0.65 * view.weight[:images].clamp(max=1.0)).unsqueeze(1)
    confidence = plan.confidence[:images].unsqueeze(1).expand(-1, 3, -1, -1)
    rows = torch.cat([grey, hardness, patches, mixed, label, confidence], dim=3)
    return (torch.cat(list(rows), dim=1).clamp(0, 1) * 255).byte().cpu()


def _tint(image: Tensor, mask: Tensor, colour: tuple[float, float, float]) -> Tensor:
    """Half-transparent colour where `mask`: image (B, 3, H, W), mask (B, H, W)."""
    tinted = 0.6 * image + 0.4 * image.new_tensor(colour).view(1, 3, 1, 1)
    return torch.where(mask.unsqueeze(1), tinted, image)
