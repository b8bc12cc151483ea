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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phnet_monai import __version__
from phnet_monai.files import atomic_writer, sha256_of, write_json
from phnet_monai.shipped import bundle_folder

TRACK = "options/pseudo_label_scores"
STAMP = "training.json"
"""In the folder of a training: what it was of, so that it is not taken for another one, and by which code."""


def train(folder: str, datalist: str, arguments: Mapping[str, Any]) -> float | None:
    """`train_run` into `folder`, resumed if it was begun, passed over if it is finished.

    Returns:
        Seconds, or None where a part was trained before.

    Raises:
        ValueError: the folder holds a training of another configuration, other images or other starts.
    """
    from phnet_monai.engines.run import train_run

    finished, begun = ((Path(folder) / name).is_file() for name in ("run.json", "last.pt"))
    stamp = {"images": split_sha256(datalist), "starts": starts_sha256(arguments)}
    before: dict[str, Any] = {}
    other: list[str] = []
    if finished or begun:  # what failed before its first checkpoint may be done with other settings
        before = read_stamp(folder)
        other = [key for key in stamp if key in before and before[key] != stamp[key]]
        other += _other_settings(Path(folder) / "config.json", arguments)
    if other:
        raise ValueError(
            f"{folder}: holds a training of other {' and '.join(other)}; give another folder for --work, or remove "
            "this one, and it is trained anew"
        )
    if finished:
        return None
    write_json(Path(folder) / STAMP, stamp | {"trained": [*before.get("trained", ()), provenance()]})
    start = time.perf_counter()
    train_run(datalist, folder, resume=True, **arguments)
    return None if begun else round(time.perf_counter() - start, 1)


def read_stamp(folder: str | Path) -> dict[str, Any]:
    """What `train` keeps beside a training: digests of its images and starts, and what it was `trained` by, an entry
    for each go (`provenance`). Empty where an older version has trained."""
    kept = Path(folder) / STAMP
    return json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}


def _other_settings(kept: Path, arguments: Mapping[str, Any]) -> list[str]:
    """`settings (id was value, is value)` where a training had another configuration than is asked for."""
    from phnet_monai.data.records import shorten
    from phnet_monai.engines.run import compose, config_differences, training_overlays

    if not kept.is_file():
        return []
    names = {name: arguments[name] for name in ("recipe", "config") if name in arguments}
    overlays = training_overlays(arguments["profile"], arguments["method"], **names)
    values = {"seed": arguments["seed"], **arguments.get("overrides", {})}
    asked = compose(bundle_folder() / "configs" / "train.json", overlays, values).get()
    found = config_differences(json.loads(kept.read_text(encoding="utf-8")), asked)
    return [f"settings ({shorten(found, 5)})"] if found else []


def starts_sha256(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Digest of the weights of each checkpoint that a training begins from, by the id that takes it."""
    from phnet_monai.networks import read_checkpoint

    given = {"init": arguments.get("init"), **arguments.get("overrides", {})}
    starts = {name: path for name, path in given.items() if name.endswith("init") and path is not None}
    return {name: _weights_sha256(read_checkpoint(path)["student"]) for name, path in sorted(starts.items())}


def _weights_sha256(weights: Mapping[str, Any]) -> str:
    """SHA-256 of a state dict, whatever else its file holds."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def train_and_score(
    cell: Mapping[str, Any],
    folder: str,
    datalist: str,
    results: str,
    arguments: Mapping[str, Any],
    device: str,
) -> None:
    """One cell: train, score `last.pt` and `best.pt` on the validation and the test part, write its result files.

    `results`/NAME.json is written last, so that a cell counts as finished only when all is there. Version, commit, date
    and machine in it are of the training, not of the scoring.
    """
    from phnet_monai.engines.run import what_is_trained

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
    stamp = read_stamp(folder)
    trained = stamp.get("trained", [])
    content = {
        **cell,
        "configuration": what_is_trained(json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))),
        "starts_sha256": stamp.get("starts", {}),
        "counts": _counts(datalist),
        "datalist_sha256": sha256_of(datalist),
        "split_sha256": split_sha256(datalist),
        "steps": history[-1]["iteration"],
        "seconds": seconds,
        "evaluated": evaluated,
        "run": {"best": run["best"], "last": run["last"], "score": run["score"]},
        "scores": scores,
        "history": history,
        "trained": trained,
        **(trained[-1] if trained else {}),
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


def provenance() -> dict[str, Any]:
    """By which code, when and where something is made."""
    date = datetime.date.today().isoformat()
    return {"version": __version__, "commit": _commit(), "date": date, "machine": machine()}


def machine() -> dict[str, Any]:
    """What a reader needs to judge times and figures."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    """Name of the processor's model; Python itself knows the architecture only."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _commit() -> str | None:
    """Commit of the code, where it runs from a git checkout; `+` behind it where files of it were changed since."""
    here = str(Path(__file__).parent.parent)

    def git(*command: str) -> str:
        done = subprocess.run(["git", "-C", here, *command], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", __file__)  # installed below another project's checkout, it is not of that
        changed = git("status", "--porcelain", "--", here, str(bundle_folder()))
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
