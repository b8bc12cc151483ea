"""Cost of one training step of every method relative to supervised-only, in one run.

    python scripts/benchmark_methods.py --profile cpu --rounds 5 --steps 4 --out docs/results/step_cost.json

All trainings are built from the shipped overlays on phantoms and take turns, a few steps each, so that a machine that
slows down slows all of them. A step is timed from batch to updated weights (teacher passes and memory included; loading
and validation not). The ratio is that of medians; the middle half of the steps stands beside it.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events

from phnet_monai.comparison.cells import machine
from phnet_monai.data import prepare_folder, write_phantoms
from phnet_monai.engines.run import compose, train_run, training_overlays
from phnet_monai.files import write_json
from phnet_monai.shipped import bundle_folder

BASELINE = "sup_only"
NEVER = 10**6


class StepTimes:
    """Seconds of every step of a trainer."""

    def __init__(self, trainer: Any) -> None:
        self.seconds: list[float] = []
        trainer.add_event_handler(Events.ITERATION_STARTED, self._start)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._stop)

    def _now(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    def _start(self) -> None:
        self.begun = self._now()

    def _stop(self) -> None:
        self.seconds.append(self._now() - self.begun)


def methods() -> list[str]:
    """All shipped methods, the baseline first, labeled-only starts left out."""
    names = sorted(path.stem for path in (bundle_folder() / "configs" / "methods").glob("*.json"))
    return [BASELINE, *(name for name in names if name != BASELINE and not name.endswith("warm_start"))]


def trainer(method: str, profile: str, datalist: Path, start: Path, folder: Path, steps: int) -> tuple[Any, StepTimes]:
    """The trainer of a method as `phnet train` builds it, one epoch of `steps` steps a turn, without validation."""
    values: dict[str, Any] = {
        "datalist": str(datalist),
        "output_dir": str(folder / method),
        "max_epochs": NEVER,
        "pretrain_epochs": 0,
        "epoch_length": steps,
        "val_interval": NEVER,
        "checkpoints": None,
        "num_workers": 0,
    }
    parser = compose(bundle_folder() / "configs" / "train.json", training_overlays(profile, method), values)
    parser["labeler_init"] = str(start)  # read by methods that need it only
    parser.parse()
    built = parser.get_parsed_content("train#trainer")
    return built, StepTimes(built)


def turns(trainers: dict[str, tuple[Any, StepTimes]], rounds: int, steps: int) -> Iterator[str]:
    """Every trainer goes one epoch a round."""
    for turn in range(1, rounds + 1):
        for name, (engine, _) in trainers.items():
            engine.state.max_epochs = turn
            engine.state.epoch_length = steps
            engine.run()
            yield f"round {turn}/{rounds}: {name}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="steps of each method a round")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=methods())
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = write_phantoms(folder / "phantoms", 24, size_range=(300, 500))
        datalist = prepare_folder(pictures, folder / "data", labeled=8, progress=False)
        few = {"max_epochs": 1, "pretrain_epochs": 1, "epoch_length": 1, "batch_size": 2, "num_workers": 0}
        train_run(datalist, folder / "start", profile=args.profile, method="warm_start", overrides=few)
        built = {
            method: trainer(method, args.profile, datalist, folder / "start" / "last.pt", folder, args.steps)
            for method in dict.fromkeys([BASELINE, *args.methods])
        }
        for text in turns(built, args.rounds + 1, args.steps):
            print(text, flush=True)
    rows = {}
    for method, (_, times) in built.items():
        seconds = times.seconds[args.steps :]  # the first round warms up
        quarters = statistics.quantiles(seconds, n=4)
        rows[method] = {"median_s": quarters[1], "quartiles_s": [quarters[0], quarters[2]], "steps": len(seconds)}
    base = rows[BASELINE]["median_s"]
    for row in rows.values():
        row["ratio"] = row["median_s"] / base
    print(f"\n| method | step [s] | middle half [s] | relative to {BASELINE} |\n| --- | --- | --- | --- |")
    for method, row in sorted(rows.items(), key=lambda item: item[1]["ratio"]):
        low, high = row["quartiles_s"]
        print(f"| {method} | {row['median_s']:.3f} | {low:.3f} - {high:.3f} | {row['ratio']:.2f} |")
    if args.out:
        about = {"profile": args.profile, "date": datetime.date.today().isoformat(), "machine": machine()}
        write_json(args.out, {**about, "rows": rows})


if __name__ == "__main__":
    main()
