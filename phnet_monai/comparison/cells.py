"""The trainings of a comparison: a labeled-only start that others share, one trained and scored cell.

Each is a function of plain arguments that does nothing if its result is there, and goes on with a half-finished
training. They run in processes of their own (`phnet_monai.tasks`).
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from phnet_monai import __version__
from phnet_monai.files import atomic_writer, sha256_of, write_json

TRACK = "options/pseudo_label_scores"
STAMP = "training.json"
"""In the folder of a training: what it was of, so that it is not taken for another one."""


def train(folder: str, datalist: str, arguments: Mapping[str, Any]) -> float | None:
    """`train_run` into `folder`, resumed if it was begun, passed over if it is finished.

    Returns:
        Seconds, or None where a part was trained before.

    Raises:
        ValueError: the folder holds a training of other settings or images.
    """
    from phnet_monai.engines.run import train_run

    stamp, kept = _stamp(datalist, arguments), Path(folder) / STAMP
    finished, begun = ((Path(folder) / name).is_file() for name in ("run.json", "last.pt"))
    # what failed before its first checkpoint may be done with other settings
    before = json.loads(kept.read_text(encoding="utf-8")) if (finished or begun) and kept.is_file() else stamp
    differ = [key for key in stamp if before.get(key) != stamp[key]]
    if differ:
        raise ValueError(
            f"{folder}: holds a training of other {' and '.join(differ)}; give another folder for --work, or remove "
            "this one, and it is trained anew"
        )
    write_json(kept, stamp)
    if finished:
        return None
    start = time.perf_counter()
    train_run(datalist, folder, resume=True, **arguments)
    return None if begun else round(time.perf_counter() - start, 1)


def _stamp(datalist: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a training, wherever its files lie."""
    from phnet_monai.engines.run import overlay_files

    overlays = overlay_files([entry for entry in arguments.get("config", ()) if entry != TRACK])
    overrides = {name: value for name, value in arguments.get("overrides", {}).items() if not name.endswith("_init")}
    return {
        "settings": {name: arguments.get(name) for name in ("profile", "method", "recipe", "seed")} | overrides,
        "overlays": [[path.name, sha256_of(path)] for path in overlays],
        "images": split_sha256(datalist),
    }


def train_and_score(
    cell: Mapping[str, Any],
    folder: str,
    datalist: str,
    results: str,
    arguments: Mapping[str, Any],
    device: str,
) -> None:
    """One cell: train, score `last.pt` and `best.pt` on the validation and the test part, write its result files.

    `results`/NAME.json is written last, so that a cell counts as finished only when all is there.
    """
    name = cell["name"]
    seconds = train(folder, datalist, tracked(datalist, arguments))
    run = json.loads((Path(folder) / "run.json").read_text(encoding="utf-8"))
    evaluated = run.get("evaluated", "teacher")
    allow = bool(arguments.get("allow_leak", False))
    scores = {
        part: evaluate(Path(folder), datalist, part, evaluated, device, allow_leak=allow)
        for part in ("validation", "test")
    }
    for part, of_part in scores.items():
        for checkpoint in of_part:
            ending = "" if checkpoint == "last" else f"_{checkpoint}"
            with atomic_writer(Path(results) / f"{name}__{part}{ending}.csv") as stream:
                stream.write((Path(folder) / f"{part}_{checkpoint}" / "per_image.csv").read_bytes())
    history = [json.loads(line) for line in (Path(folder) / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    content = {
        **cell,
        "counts": _counts(datalist),
        "datalist_sha256": sha256_of(datalist),
        "split_sha256": split_sha256(datalist),
        "steps": history[-1]["iteration"],
        "seconds": seconds,
        "evaluated": evaluated,
        "run": {"best": run["best"], "last": run["last"], "score": run["score"]},
        "scores": scores,
        "history": history,
        "version": __version__,
        "commit": _commit(),
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
    }
    write_json(Path(results) / f"{name}.json", content)


def tracked(datalist: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `train_run` with the pseudo-labels scored after each epoch, where any of their images has a mask."""
    from phnet_monai.data import load_part

    further = [TRACK] if any(item.get("hidden_label") for item in load_part(datalist, "unlabeled")) else []
    return {**arguments, "config": [*arguments["config"], *further]}


def evaluate(
    folder: Path, datalist: str, part: str, which: str, device: str, *, allow_leak: bool = False
) -> dict[str, Any]:
    """Summaries of the last and the best checkpoint; the best one is missing where nothing was validated.

    Args:
        which: `teacher` or `student`, the network that the method evaluates.

    Raises:
        FileNotFoundError: there is no `last.pt`.
    """
    from phnet_monai.engines.run import evaluate_run

    return {
        name: evaluate_run(
            folder / f"{name}.pt",
            datalist,
            folder / f"{part}_{name}",
            part=part,
            which=which,
            device=device,
            allow_leak=allow_leak,
        )
        for name in ("last", "best")
        if name == "last" or (folder / f"{name}.pt").is_file()
    }


def _counts(datalist: str) -> dict[str, int]:
    from phnet_monai.data import load_datalist

    content = load_datalist(datalist)
    return {part: len(content[part]) for part in ("labeled", "unlabeled", "validation", "test")}


def split_sha256(datalist: str) -> str:
    """Digest of which images (by case and content) are in which part, wherever datalist and images lie."""
    from phnet_monai.data import load_datalist

    parts = {
        part: sorted((entry["case_id"], sha256_of(entry["image"])) for entry in entries)
        for part, entries in load_datalist(datalist).items()
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("utf-8")).hexdigest()


def machine() -> dict[str, Any]:
    """What a reader needs to judge times and figures."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _commit() -> str | None:
    """Commit of the code, where it runs from a git checkout."""
    command: Sequence[str] = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
