"""`phnet train`: train a network on a datalist."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal


def train(
    datalist: str,
    out: str,
    *,
    profile: Literal["cpu", "paper", "smoke"] = "cpu",
    method: str = "phnet",
    recipe: Literal["harmonised", "native"] = "harmonised",
    config: list[str] | None = None,
    seed: int = 0,
    init: str | None = None,
    resume: bool = False,
    device: str = "auto",
    amp: Literal["off", "bf16", "fp16"] | None = None,
    allow_leak: bool = False,
    tracking: Literal["mlflow"] | None = None,
    **overrides: Any,
) -> int:
    """Train a network on the datalist of `phnet prepare`.

    Writes checkpoints, the log and the resolved configuration to OUT. Any value of the configuration can be
    overridden as in MONAI: `--max_epochs 3`, `--optimizer#lr 0.01`.

    Args:
        datalist: the JSON file written by `phnet prepare`, or its folder
        out: folder for the results
        profile: size of the network and its input: paper needs a GPU, cpu runs on two cores, smoke is for
            tests
        method: name of a method: phnet, sup_only, sup_only_ema, ...
        recipe: harmonised trains every method by PH-Net's protocol, native by its authors' optimiser and
            schedule
        config: configuration files, or names of shipped ones (ablations/table2_I), laid over profile and
            method, in this order; a.json,b.json or repeated
        seed: for weights, sampling and augmentation
        init: checkpoint to start from, weights only; default: the model that comes with phnet (profile cpu)
        resume: go on from the last checkpoint in OUT
        device: auto, cpu, cuda, cuda:1, ...
        amp: reduced precision on a GPU; the profile decides where it is not given
        allow_leak: train although one image, patient or scan is on two sides of the split
        tracking: mlflow keeps losses and scores in OUT/mlruns.db too, or where MLFLOW_TRACKING_URI says
        overrides: values of the configuration, by their ids
    """
    from phnet_monai.cli.inputs import datalist_file, shipped_or_given
    from phnet_monai.files import check_out

    init = None if init is None else shipped_or_given(init)
    files = config_files(config or [])
    named = [("--config", file) for file in files if Path(file).suffix == ".json" or "/" not in file]
    for name, path in (("--init", init), *named):
        if path is not None and not Path(path).is_file():
            raise FileNotFoundError(f"{name}: {path}: no such file")
    list_file = datalist_file(datalist)
    check_out(out)
    if resume and init is not None:
        raise ValueError("--resume and --init exclude each other: the first goes on, the second begins anew")

    from phnet_monai.distributed import current_shard
    from phnet_monai.engines.run import train_run

    if current_shard().first and (profile, method, init, resume) == ("cpu", "phnet", None, False):
        print(
            "note: PH-Net's figures in profile cpu are from a labeled-only start, this training has none: "
            "`phnet train DATALIST START --method warm_start`, then `--init START/last.pt`",
            file=sys.stderr,
        )
    result = train_run(
        list_file,
        out,
        profile=profile,
        method=method,
        recipe=recipe,
        config=files,
        seed=seed,
        init=init,
        resume=resume,
        device=device,
        amp=amp,
        tracking=tracking,
        overrides=overrides,
        allow_leak=allow_leak,
    )
    if not current_shard().first:  # of the processes that torchrun has started
        return 0
    for name in ("best", "last"):
        score = result[name]["score"]
        if result[name]["epoch"] == 0:
            why = "no image in that part, none with a lesion, or no epoch validated"
            print(f"{name}.pt: not written, since no validation gave a score ({why})")
            continue
        figure = "not validated" if score is None else f"{result['score']} {score:.4f} on the validation part"
        print(f"{name}.pt (epoch {result[name]['epoch']}): {figure}")
    return 0


def config_files(entries: Sequence[str]) -> list[str]:
    """Each entry is a file or, where there is no file of that name, several joined by commas."""
    files: list[str] = []
    for entry in entries:
        files += [entry] if Path(entry).exists() else [part for part in entry.split(",") if part]
    return files
