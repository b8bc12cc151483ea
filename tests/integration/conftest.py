"""One phantom dataset, one smoke-trained run and one checkpoint with masks worth comparing, shared by all tests."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from phnet_monai.data import load_part, prepare_folder, read_image, write_phantoms
from phnet_monai.engines.run import train_run
from phnet_monai.networks import load_checkpoint
from phnet_monai.shipped import bundle_folder
from phnet_monai.transforms import fit_image

COUNT, LABELED = 24, 6
SIDES = (40, 72)


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `images/` and `masks/` of small phantoms, the last one without lesion."""
    return write_phantoms(tmp_path_factory.mktemp("phantoms"), COUNT, size_range=SIDES, without_lesion=1)


@pytest.fixture(scope="session")
def datalist(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Datalist of the phantoms: 6 labeled, the rest of the training images unlabeled."""
    return prepare_folder(phantoms, tmp_path_factory.mktemp("datalist"), labeled=LABELED, progress=False)


@pytest.fixture(scope="session")
def trained(datalist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of PH-Net trained for two epochs of two steps by the `smoke` profile."""
    out = tmp_path_factory.mktemp("trained") / "run"
    train_run(datalist, out, profile="smoke", method="phnet", device="cpu")
    return out


@pytest.fixture(scope="session")
def checkpoint(trained: Path, datalist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained checkpoint with its last layer stretched so that half of the pixels are lesion, and clearly so.

    After four steps a network calls everything lesion or nothing, by a hair. Masks that are all alike would hide every
    mistake of size and orientation, and probabilities of 0.5 +- 1e-7 every mistake but rounding.
    """
    content = torch.load(trained / "last.pt", weights_only=True)
    for which in ("teacher", "student"):
        network, info = load_checkpoint(trained / "last.pt", which=which)
        size, pad_value = info["input"]["size"], info["input"]["pad_value"]
        images = [read_image(item["image"]) for item in load_part(datalist, "unlabeled")]
        with torch.inference_mode():
            logits = network(torch.stack([fit_image(image, size, pad_value) for image in images]))
        lesion = logits[:, 1] - logits[:, 0]
        last = [name.removesuffix(".bias") for name in content[which] if re.fullmatch(r"classifier\.\d+\.bias", name)][
            -1
        ]
        content[which][f"{last}.bias"][0] += lesion.median()
        for name in (f"{last}.weight", f"{last}.bias"):
            content[which][name] *= 2 / lesion.std()
    path = tmp_path_factory.mktemp("checkpoint") / "half.pt"
    torch.save(content, path)
    return path


@pytest.fixture(scope="session")
def history() -> Callable[[Path], list[dict[str, Any]]]:
    """`history(run)`: the lines of a run's history.jsonl."""
    return lambda run: [json.loads(line) for line in (run / "history.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def run_module() -> Callable[..., str]:
    """`run_module(words, cwd=...)`: `python -m words...` in a process of its own; its output. Fails with the output."""

    def call(words: Sequence[str], *, cwd: Path) -> str:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=cwd,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(words)}\nexit code {done.returncode}\n{done.stdout[-8000:]}"
        return done.stdout

    return call


@pytest.fixture
def bundle_copy(tmp_path: Path) -> Path:
    """A copy of the bundle that a test may write into (checkpoints, outputs)."""
    target = tmp_path / "bundle"
    shutil.copytree(bundle_folder(), target, ignore=shutil.ignore_patterns("*.pt", "*.ts", "eval", "runs", "data"))
    return target
