"""The main job on phantom images: few labels, a supervised-only model, PH-Net, and a segmented folder."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

from phnet_monai.data import load_part, prepare_folder, write_phantoms
from phnet_monai.engines.run import evaluate_run, train_run
from phnet_monai.inference import Predictor, infer_folder
from phnet_monai.seeds import check_seed

IMAGES, LABELED = 160, 12
# the `cpu` profile at a third of its pixels and a fifth of its steps: minutes on two cores
SMALL = {"size": 96, "grid_size": 12, "progress#always": True, "epoch_length": 50}
WARM_START = {**SMALL, "max_epochs": 6}
SAME_STEPS = {**SMALL, "max_epochs": 4}


def run_demo(out: str | Path, *, seed: int = 0) -> dict[str, Any]:
    """Make phantoms, train two models from one warm start with the same number of steps, score and segment.

    Writes `out`/data, one folder per run, `out`/segmented (masks, overlays of the test images) and `out`/demo.json.

    Returns:
        `{"supervised_only": {...}, "phnet": {...}}` with pooled and per-image Dice on the test part.

    Raises:
        ValueError: a seed that no generator takes.
        FileExistsError: `out` holds an earlier demo.
    """
    check_seed(seed)
    out = Path(out)
    if (out / "data").exists():
        raise FileExistsError(f"{out}: holds an earlier demo; remove it or choose another folder")
    logging.getLogger("ignite").setLevel(logging.WARNING)
    _say(f"1/5 {IMAGES} phantom images, {LABELED} of them labeled")
    write_phantoms(out / "data", IMAGES, seed=seed)
    datalist = prepare_folder(out / "data", out / "data", labeled=LABELED, seed=seed)

    _say("2/5 warm start on the labeled images")
    train_run(datalist, out / "warm_start", method="warm_start", seed=seed, overrides=WARM_START)
    start = out / "warm_start" / "last.pt"
    result: dict[str, Any] = {"images": IMAGES, "labeled": LABELED, "seed": seed}
    for number, (name, method) in enumerate((("supervised_only", "sup_only_ema"), ("phnet", "phnet")), start=3):
        _say(f"{number}/5 {name}: {SAME_STEPS['max_epochs'] * SAME_STEPS['epoch_length']} steps from the warm start")
        train_run(datalist, out / name, method=method, seed=seed, init=start, overrides=SAME_STEPS)
        summary = evaluate_run(out / name / "last.pt", datalist, out / name / "test")
        result[name] = {key: summary[key] for key in ("pooled_dice", "dice_mean", "images")}

    _say("5/5 segmenting the test images with PH-Net")
    _segment(out, datalist)
    (out / "demo.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def _segment(out: Path, datalist: Path) -> None:
    """Test images as a folder of their own, as a user would have it, then `infer`."""
    folder = out / "new_images"
    folder.mkdir()
    for item in load_part(datalist, "test"):
        source = Path(item["image"])
        (folder / source.name).write_bytes(source.read_bytes())
    infer_folder(folder, out / "segmented", Predictor.from_model(out / "phnet" / "last.pt"))


def format_demo(result: dict[str, Any]) -> str:
    """The table that `phnet demo` prints."""
    lines = [f"Test images: {result['phnet']['images']}, labels: {result['labeled']} of {result['images']} images"]
    lines.append(f"{'model':<18}{'Dice, pooled':>14}{'Dice, per image':>18}")
    for name in ("supervised_only", "phnet"):
        row = result[name]
        lines.append(f"{name:<18}{100 * row['pooled_dice']:>14.1f}{100 * row['dice_mean']:>18.1f}")
    return "\n".join(lines)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
