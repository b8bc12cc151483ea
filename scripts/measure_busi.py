"""Supervised-only against PH-Net on real BUSI (`cpu` profile, grouped split), one JSON file per finished cell.

For every seed: a labeled-only warm start, then from it the same number of steps for each method. Finished cells are
skipped, so the command goes on where it stopped:

    PHNET_DATA=... python scripts/measure_busi.py --work runs/busi --out docs/results/busi_1-8 --test

The seed draws the labeled images, the weights of the heads and all randomness of the training; validation and test part
are the same for all seeds (`split_seed` 0). The test part is evaluated only with `--test`, when the recipe stands.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import time
from pathlib import Path

import torch

from phnet_monai import __version__
from phnet_monai.data import load_datalist, prepare_busi
from phnet_monai.engines.run import evaluate_run, overlay, train_run

METHODS = ("sup_only_ema", "phnet")


def machine() -> dict[str, object]:
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
    }


def history(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()]


def warm_start(datalist: Path, folder: Path, seed: int) -> Path:
    """Labeled-only checkpoint of a seed, shared by all methods."""
    if not (folder / "run.json").is_file():
        train_run(datalist, folder, method="warm_start", seed=seed, resume=True)
    return folder / "last.pt"


def scores(folder: Path, datalist: Path, part: str, which: str) -> dict[str, dict]:
    """Summaries of the best and the last checkpoint on one part."""
    return {
        name: evaluate_run(folder / f"{name}.pt", datalist, folder / f"{part}_{which}_{name}", part=part, which=which)
        for name in ("best", "last")
    }


def cell(args: argparse.Namespace, method: str, seed: int) -> None:
    """Train and evaluate one (method, seed) and write its JSON; a finished one only gains its test scores."""
    name = f"{args.name or method}_seed{seed}"
    result_file = args.out / f"{name}.json"
    datalist = args.work / f"data_seed{seed}" / "datalist.json"
    folder = args.work / name
    if result_file.is_file():
        result = json.loads(result_file.read_text(encoding="utf-8"))
    else:
        if not datalist.is_file():
            prepare_busi(args.data, datalist.parent, labeled=args.labeled, seed=seed, split_seed=0, overwrite=True)
        start = warm_start(datalist, args.work / f"warm_seed{seed}", seed)
        begun = time.perf_counter()
        run = train_run(datalist, folder, method=method, seed=seed, init=start, overrides=args.set, config=args.config)
        run.pop("out")
        result = {
            "method": method,
            "seed": seed,
            "labeled": len(load_datalist(datalist)["labeled"]),
            "overrides": args.set,
            "warm_start": json.loads(overlay("methods", "warm_start").read_text(encoding="utf-8")),
            "run": run,
            "seconds": round(time.perf_counter() - begun),
            "history": history(folder),
            "version": __version__,
            "machine": machine(),
            # the student of a supervised-only run is the plain supervised-only model: the EMA does not touch it
            "scores": {
                which: {"validation": scores(folder, datalist, "validation", which)} for which in ("teacher", "student")
            },
        }
    if args.test:
        for which, parts in result["scores"].items():
            if "test" not in parts:
                parts["test"] = scores(folder, datalist, "test", which)
                table = folder / f"test_{which}_last" / "per_image.csv"
                (args.out / f"{name}_test_{which}.csv").write_text(table.read_text("utf-8"), encoding="utf-8")
    args.out.mkdir(parents=True, exist_ok=True)
    result_file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("PHNET_DATA", ".")) / "Dataset_BUSI_with_GT")
    parser.add_argument("--work", type=Path, required=True, help="folder for datalists and checkpoints")
    parser.add_argument("--out", type=Path, required=True, help="folder for one JSON per cell")
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--methods", type=lambda text: text.split(","), default=list(METHODS))
    parser.add_argument("--labeled", default="1/8")
    parser.add_argument("--test", action="store_true", help="evaluate the test part too")
    parser.add_argument("--name", help="name of the cells instead of the method's (ablations)")
    parser.add_argument("--config", nargs="*", default=[], help="overlay files")
    parser.add_argument("--set", type=json.loads, default={}, help="overrides as JSON, e.g. '{\"hpc#weight\": 0.1}'")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for seed in args.seeds:
        for method in args.methods:
            cell(args, method, seed)


if __name__ == "__main__":
    main()
