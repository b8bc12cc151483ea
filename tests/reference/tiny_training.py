"""A whole training that takes a second: small pictures in memory, the smallest network, all handlers of PH-Net."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from monai.handlers import LrScheduleHandler, ValidationHandler

from phnet_monai.data.loaders import SemiSupervisedLoader, evaluation_loader
from phnet_monai.engines import LesionEvaluator, SemiSupervisedTrainer, polynomial_schedule
from phnet_monai.handlers import (
    AdaptivePatchAugmentation,
    EMATeacher,
    HardPatchContrast,
    SaveCheckpoints,
    TrainingLog,
)
from phnet_monai.losses import HardPatchContrastiveLoss, MemoryBank
from phnet_monai.networks import PHNet, make_teacher
from phnet_monai.transforms import WeakView

SIZE, GRID = 32, 4
SIZES = ((40, 56), (48, 44), (33, 37), (61, 29))
NETWORK = {"decoder": "plain_unet", "unet_features": [4, 8, 8, 16, 16], "head_channels": 8, "embedding_size": 8}


def pictures(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Decoded images of odd sizes: noise with one bright ellipse, and its mask."""
    generator = np.random.default_rng(seed)
    items = []
    for number in range(count):
        height, width = SIZES[number % len(SIZES)]
        y, x = np.mgrid[0:height, 0:width]
        cy, cx = generator.uniform(0.35, 0.65, 2) * (height, width)
        ry, rx = generator.uniform(0.15, 0.3, 2) * (height, width)
        mask = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1
        image = generator.normal(60, 15, (height, width)) + 130 * mask
        items.append({"image": image.clip(0, 255).astype(np.uint8), "label": mask, "case_id": f"case-{number}"})
    return items


class Recorder:
    """Keeps what every step left: its `Step`, the trainer's output, and copies of the first weights."""

    def __init__(self) -> None:
        self.steps: list[Any] = []
        self.outputs: list[dict[str, float]] = []
        self.epochs: list[int] = []

    def attach(self, engine: Any) -> None:
        from ignite.engine import Events

        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        self.steps.append(engine.state.step)
        self.outputs.append(dict(engine.state.output[0]))
        self.epochs.append(engine.state.epoch)


def build(
    *,
    folder: Path | None = None,
    resume: bool = False,
    init_seed: int = 3,
    seed: int = 0,
    max_epochs: int = 3,
    pretrain_epochs: int = 1,
    labeled: int = 4,
    unlabeled: int = 8,
    batch_size: int = 2,
    rate: float = 0.1,
    handlers: tuple[Any, ...] = (),
    apa: dict[str, Any] | bool | None = None,
    hpc: dict[str, Any] | bool | None = None,
    network: dict[str, Any] | None = None,
    teacher_projector: bool = False,
    loader: dict[str, Any] | None = None,
    validate: bool = False,
    log: dict[str, Any] | None = None,
    interval: int | None = None,
    **trainer: Any,
) -> SimpleNamespace:
    """Everything that `train.json` builds, wired in the same order. `handlers` come last but before the checkpoints."""
    torch.manual_seed(init_seed)
    student = PHNet(**{**NETWORK, **(network or {})})
    for module in student.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.5  # so few steps; the teacher, in eval mode, would answer one class for everything
    teacher = make_teacher(student, projector=teacher_projector)
    optimizer = torch.optim.SGD(student.parameters(), lr=rate, momentum=0.9, weight_decay=1e-4)
    items = pictures(labeled + unlabeled)
    batches = SemiSupervisedLoader(
        items[:labeled],  # type: ignore[arg-type]
        items[labeled:],  # type: ignore[arg-type]
        WeakView(SIZE),
        **{"batch_size": batch_size, "seed": seed, **(loader or {})},
    )
    scheduler = polynomial_schedule(optimizer, batches, max_epochs)
    bank = MemoryBank(2, NETWORK["embedding_size"], 64)
    contrast = HardPatchContrastiveLoss(anchors_per_class=16, negatives_per_class=16, bank=bank)
    run = SimpleNamespace(
        student=student,
        teacher=teacher,
        optimizer=optimizer,
        scheduler=scheduler,
        loader=batches,
        items=items,
        bank=bank,
        recorder=Recorder(),
        ema=EMATeacher(student, teacher, decay=0.9),
        apa=AdaptivePatchAugmentation(GRID, **{"threshold": 0.5, "shield_ratio": 1.0, **(apa or {})}),
        hpc=HardPatchContrast(contrast, **(hpc or {})),
        evaluator=LesionEvaluator("cpu", evaluation_loader(items[:3]), teacher, size=SIZE),  # type: ignore[arg-type]
        checkpoints=None,
        log=None,
    )
    if log is not None and folder is not None:
        run.log = TrainingLog(folder, evaluator=run.evaluator if validate else None, **log)
    if folder is not None:
        run.checkpoints = SaveCheckpoints(
            folder,
            student,
            optimizer,
            teacher=teacher,
            scheduler=scheduler,
            handlers={"ema": run.ema, "hpc": run.hpc, "log": run.log},
            interval=interval,
            evaluator=run.evaluator if validate else None,
            input_size=SIZE,
            pad_value=0.33,
            method="phnet",
            resume=resume,
        )
    run.trainer = SemiSupervisedTrainer(
        "cpu",
        max_epochs,
        batches,
        student,
        optimizer,
        **{
            "teacher": teacher,
            "pretrain_epochs": pretrain_epochs,
            "seed": seed,
            "train_handlers": [
                run.ema,
                run.apa if apa is not False else None,
                run.hpc if hpc is not False else None,
                LrScheduleHandler(scheduler, print_lr=False, epoch_level=False),
                ValidationHandler(interval=1, validator=run.evaluator) if validate else None,
                run.recorder,
                run.log,
                *handlers,
                run.checkpoints,
            ],
            **trainer,
        },
    )
    return run


def weights(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
