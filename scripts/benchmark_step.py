"""Where the time of one PH-Net training step goes, and time and memory of the hard-patch contrast alone.

    python scripts/benchmark_step.py --profile paper --steps 3
    python scripts/benchmark_step.py --profile cpu --steps 20
    python scripts/benchmark_step.py --contrast
    python scripts/benchmark_step.py --profile paper --flops

Runs the shipped `train.json` on phantoms with all patches of the last epoch shielded (30 %), random weights, no
validation. Times are exclusive: a teacher pass inside the augmentation counts as a network pass.
`--flops` runs nothing: parameters, and operations of a forward pass as torch counts them.
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents

NETWORK = ("teacher passes", "student forward", "backward", "optimiser")


class ExclusiveTimer:
    """Adds up wall time by name; time inside an inner section is taken from the outer one."""

    def __init__(self) -> None:
        self.totals: dict[str, float] = defaultdict(float)
        self.stack: list[str] = []
        self.mark = time.perf_counter()

    def _charge(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self.stack:
            self.totals[self.stack[-1]] += now - self.mark
        self.mark = now

    def enter(self, name: str, *_: Any) -> None:
        self._charge()
        self.stack.append(name)

    def leave(self, *_: Any) -> None:
        self._charge()
        self.stack.pop()

    def wrap(self, owner: Any, attribute: str, name: str) -> None:
        inner: Callable[..., Any] = getattr(owner, attribute)

        @functools.wraps(inner)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self.enter(name)
            try:
                return inner(*args, **kwargs)
            finally:
                self.leave()

        setattr(owner, attribute, timed)


def step_shares(profile: str, steps: int) -> dict[str, float]:
    """Seconds per step by part, after one step of warming up."""
    from phnet_monai.data import prepare_folder, write_phantoms
    from phnet_monai.engines.run import compose, overlay
    from phnet_monai.handlers import AdaptivePatchAugmentation, EMATeacher, HardPatchContrast, TrainingLog
    from phnet_monai.shipped import bundle_folder

    timer = ExclusiveTimer()
    with tempfile.TemporaryDirectory() as folder:
        write_phantoms(Path(folder) / "data", 40, seed=0, size_range=(400, 600))
        datalist = prepare_folder(Path(folder) / "data", Path(folder) / "data", labeled=8, progress=False)
        values = {
            "datalist": str(datalist),
            "output_dir": str(Path(folder) / "run"),
            "max_epochs": 1,
            "pretrain_epochs": 0,
            "epoch_length": steps + 1,
            "num_workers": 0,
            "network_def#weights": None,
            "checkpoints": None,
            "val_interval": 1000,
        }
        layers = [overlay("profiles", profile), overlay("methods", "phnet")]
        parser = compose(bundle_folder() / "configs" / "train.json", layers, values)
        timer.wrap(AdaptivePatchAugmentation, "__call__", "augmentation (APA)")
        timer.wrap(HardPatchContrast, "__call__", "contrast (HPC)")
        timer.wrap(EMATeacher, "update", "EMA")
        timer.wrap(TrainingLog, "log_step", "logging")
        parser.parse()
        trainer = parser.get_parsed_content("train#trainer")
        timer.wrap(trainer, "teacher_probabilities", "teacher passes")
        timer.wrap(trainer, "_forward", "student forward")
        timer.wrap(trainer.optimizer, "step", "optimiser")
        timer.wrap(trainer, "_process_function", "losses and views")
        for event, call in (
            (Events.GET_BATCH_STARTED, functools.partial(timer.enter, "data")),
            (Events.GET_BATCH_COMPLETED, timer.leave),
            (IterationEvents.LOSS_COMPLETED, functools.partial(timer.enter, "backward")),
            (IterationEvents.BACKWARD_COMPLETED, timer.leave),
            (Events.ITERATION_COMPLETED(once=1), lambda engine: timer.totals.clear()),
        ):
            trainer.add_event_handler(event, lambda engine, call=call: call(engine))
        trainer.run()
    return {name: seconds / steps for name, seconds in sorted(timer.totals.items())}


def print_shares(profile: str, shares: dict[str, float]) -> None:
    total = sum(shares.values())
    rest = sum(seconds for name, seconds in shares.items() if name not in NETWORK)
    print(f"profile {profile}: {total:.3f} s per step, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name, seconds in sorted(shares.items(), key=lambda item: -item[1]):
        print(f"  {name:<22}{seconds:9.4f} s{100 * seconds / total:8.2f} %")
    print(f"  all but network passes and optimiser: {100 * rest / total:.2f} %")


def print_size(profile: str) -> None:
    """Parameters, BN statistics, operations (a multiplication and an addition are two) of a forward pass."""
    from torch.utils.flop_counter import FlopCounterMode

    from phnet_monai.engines.run import compose, overlay
    from phnet_monai.shipped import bundle_folder

    overrides = {"network_def#weights": None}
    parser = compose(bundle_folder() / "configs" / "train.json", [overlay("profiles", profile)], overrides)
    with torch.device("meta"):
        network, size = parser.get_parsed_content("network_def").eval(), parser.get_parsed_content("size")
        image = torch.empty(1, 1, size, size)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    statistics = sum(buffer.numel() for buffer in network.buffers() if buffer.is_floating_point())
    print(f"profile {profile}: {parameters / 1e6:.1f} million parameters, {4 * statistics / 1e6:.2f} MB of statistics")
    for name, call in (("with projector", network.forward_features), ("without", network)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            call(image)
        print(f"  forward, {size} x {size}, {name:<15}{counter.get_total_flops() / 1e9:8.1f} GFLOP")


def contrast_once(share: float, size: int = 500, grid: int = 20, batch: int = 4) -> dict[str, float]:
    """Forward and backward of the contrast at paper size with `share` of the patches shielded; peak memory it added."""
    from phnet_monai.losses import HardPatchContrastiveLoss, MemoryBank
    from phnet_monai.transforms import expand_patches, hardest_patches

    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(batch, 256, 126, 126, generator=generator, requires_grad=True)
    labels = (torch.rand(batch, size, size, generator=generator) < 0.3).long()
    shielded = hardest_patches(torch.rand(batch, grid, grid, generator=generator), round(share * grid * grid))
    loss = HardPatchContrastiveLoss(bank=MemoryBank(2, 256, 4096))
    embedding.grad = torch.zeros_like(embedding)  # the map's own gradient is the network's, not the contrast's
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.perf_counter()
    value, _ = loss(embedding, labels, expand_patches(shielded, (size, size)), generator)
    value.backward()
    seconds = time.perf_counter() - begun
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pixels = int(expand_patches(shielded, (size, size)).sum())
    return {"share": share, "pixels": pixels, "seconds": seconds, "added_mib": (after - before) / 1024}


def contrast_table() -> None:
    """One process per row, so that peaks do not hide each other."""
    print("shielded   pixels    seconds   peak memory added")
    for share in (0.05, 0.15, 0.3, 0.6):
        command = [sys.executable, __file__, "--contrast-once", str(share)]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"{share:7.0%}{row['pixels']:10d}{row['seconds']:10.3f}{row['added_mib']:14.1f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", choices=("paper", "cpu", "smoke"))
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--contrast", action="store_true")
    parser.add_argument("--flops", action="store_true")
    parser.add_argument("--contrast-once", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contrast_once is not None:
        print(json.dumps(contrast_once(args.contrast_once)))
    elif args.contrast:
        contrast_table()
    elif args.profile and args.flops:
        print_size(args.profile)
    elif args.profile:
        print_shares(args.profile, step_shares(args.profile, args.steps))
    else:
        parser.error("give --profile or --contrast")


if __name__ == "__main__":
    main()
