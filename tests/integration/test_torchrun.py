"""One folder, and one training, over two processes."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from phnet_monai.engines.run import train_run
from phnet_monai.networks import PHNet, with_sync_batch_norm
from phnet_monai.shipped import bundle_folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    network = PHNet("resnet18", "plain_unet", embedding_size=None, head_channels=4, unet_features=(4, 4, 4, 4, 4))
    info = {"network": network.arguments, "input": {"size": 32, "pad_value": 0.33}}
    torch.save({"student": network.state_dict(), "info": info}, tmp_path / "tiny.pt")
    return tmp_path / "tiny.pt"


@pytest.mark.slow
def test_two_processes_share_a_folder_and_make_one_summary(model: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    generator = np.random.default_rng(0)
    for index in range(7):
        pixels = generator.integers(0, 256, (40 + index, 50), dtype=np.uint8)
        Image.fromarray(pixels).save(source / f"{index}.png")
    (source / "bad.png").write_bytes(b"no image")
    words = ["infer", str(source), "--model", str(model), "--device", "cpu", "--threshold", "0.45"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def call(launcher: list[str], out: Path, *more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *launcher, "-m", "phnet_monai", *words[:2], str(out), *words[2:], *more]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    limited = call(torchrun, tmp_path / "two", "--limit", "3")  # of both together
    assert "3 segmented (0 without lesion), 0 finished earlier, 0 failed, 5 left" in limited.stdout, limited.stderr
    shared, alone = call(torchrun, tmp_path / "two"), call([], tmp_path / "one")
    assert alone.returncode == 3, alone.stderr
    assert shared.returncode != 0  # torchrun's own code for a process that ended with 3
    assert shared.stdout.count("4 segmented") == 1, shared.stderr
    assert "3 finished earlier" in shared.stdout
    assert "1 failed" in shared.stdout
    runs = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("two", "one")]
    for run in runs:
        for entry in run["files"]:
            entry.pop("status")
    assert runs[0]["files"] == runs[1]["files"]
    assert [run["timing"]["processes"] for run in runs] == [2, 1]
    assert runs[0]["finished"] is True
    assert runs[0]["counts"] == {"done": 4, "skipped": 3, "failed": 1, "pending": 0}
    for name in ("masks", "overlays"):
        for path in sorted((tmp_path / "one" / name).iterdir()):
            assert (tmp_path / "two" / name / path.name).read_bytes() == path.read_bytes()
    tables = [list(csv.reader((tmp_path / name / "lesions.csv").open(encoding="utf-8"))) for name in ("two", "one")]
    assert tables[0] == tables[1]
    assert "bad.png" in (tmp_path / "two" / "report.html").read_text(encoding="utf-8")
    assert call(torchrun, tmp_path / "two").stdout.count("7 finished earlier") == 1


@pytest.mark.slow
def test_two_processes_train_together_by_the_command(datalist: Path, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = ["train", str(datalist), str(tmp_path / "run"), "--profile", "smoke"]
    done = subprocess.run(
        [*launcher, "-m", "phnet_monai", *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert [line.split(" (")[0] for line in done.stdout.splitlines() if ".pt" in line] == ["best.pt", "last.pt"]
    saved = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert len(saved["training"]["other_processes"]) == 1
    assert len((tmp_path / "run" / "history.jsonl").read_text().splitlines()) == 2
    assert json.loads((tmp_path / "run" / "run.json").read_text())["last"]["epoch"] == 2
    assert json.loads((tmp_path / "run" / "config.json").read_text())["finalize"]


def test_its_overlay_changes_nothing_in_a_process_of_its_own(datalist: Path, tmp_path: Path) -> None:
    overlay = bundle_folder() / "configs" / "multi_gpu_train.json"
    weights = []
    for name, config in (("plain", []), ("overlay", [overlay])):
        train_run(datalist, tmp_path / name, profile="smoke", config=config)
        weights.append(torch.load(tmp_path / name / "last.pt", weights_only=True)["student"])
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_a_device_by_name_is_refused_for_several_processes(
    datalist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="torchrun has started 2 processes; leave it at auto"):
        train_run(datalist, tmp_path / "run", profile="smoke", device="cpu")
    assert not (tmp_path / "run").exists()


def test_statistics_over_all_processes() -> None:
    network = PHNet("resnet18", "plain_unet", embedding_size=None, head_channels=4, unet_features=(4, 4, 4, 4, 4))
    parameters = {id(parameter) for parameter in network.parameters()}
    names = list(network.state_dict())
    assert with_sync_batch_norm(network, False) is network
    changed = with_sync_batch_norm(network)
    kinds = [type(module) for module in changed.modules()]
    assert torch.nn.SyncBatchNorm in kinds
    assert torch.nn.BatchNorm2d not in kinds
    assert {id(parameter) for parameter in changed.parameters()} == parameters  # an optimiser keeps them
    assert list(changed.state_dict()) == names
