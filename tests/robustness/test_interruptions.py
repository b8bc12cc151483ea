"""`phnet infer` ended from outside, at any file: what is there is whole, and the same command completes it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

if not hasattr(os, "fork"):
    pytest.skip("needs os.fork", allow_module_level=True)

SCANS = 6
# (signal, after how many finished files it comes); a scan has an overlay, a mask and a record
POINTS = [("SIGKILL", 0), ("SIGKILL", 1), ("SIGKILL", 5), ("SIGKILL", 20), ("SIGTERM", 6), ("SIGINT", 6), ("SIGINT", 1)]
NAMED = [f"{name}-{count}" for name, count in POINTS]

DRIVER = """
import json, os, signal, sys
import torch
import phnet_monai.files, phnet_monai.inference.folder, phnet_monai.inference.predictor, phnet_monai.networks
from phnet_monai.cli.main import main

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
replace = os.replace


def child(name, count, words):
    done = [0]

    def ended(source, target):
        if done[0] == count:
            os.kill(os.getpid(), getattr(signal, name))
        done[0] += 1
        replace(source, target)

    os.replace = ended
    os._exit(main(words))


for name, count, words in json.loads(sys.argv[1]):
    pid = os.fork()
    if pid == 0:
        child(name, count, words)
    status = os.waitpid(pid, 0)[1]
    print(-os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))
"""


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory, speckle: Callable[..., np.ndarray]) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    for number in range(SCANS):
        Image.fromarray(speckle(seed=number)).save(folder / f"{number}.png")
    return folder


def words_for(scans: Path, out: Path, model: Path) -> list[str]:
    return ["infer", str(scans), str(out), "--model", str(model), "--device", "cpu", "--batch-size", "1", "--quiet"]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, scans: Path, model: Path) -> dict[str, tuple[int, Path]]:
    """For each of `POINTS`: the exit code (a signal: negative), and the folder as it was left."""
    folder = tmp_path_factory.mktemp("ended")
    places = {name: folder / name for name in NAMED}
    jobs = [[*point, words_for(scans, places[name], model)] for name, point in zip(NAMED, POINTS, strict=True)]
    done = subprocess.run([sys.executable, "-c", DRIVER, json.dumps(jobs)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    codes = [int(line) for line in done.stdout.split()]
    return {name: (code, places[name]) for name, code in zip(NAMED, codes, strict=True)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, scans: Path, model: Path, phnet: Any) -> Path:
    """The results of a run that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert phnet(*words_for(scans, out, model)).code == 0
    return out


@pytest.mark.parametrize("name", NAMED)
def test_the_exit_code_says_how_it_ended(name: str, ended: Any) -> None:
    expected = {"SIGKILL": -signal.SIGKILL, "SIGTERM": 143, "SIGINT": 130}[name.split("-")[0]]
    assert ended[name][0] == expected


@pytest.mark.parametrize("name", NAMED)
def test_what_is_there_is_whole_and_the_same_command_completes_it(
    name: str, ended: Any, whole: Path, scans: Path, model: Path, phnet: Any, tree: Any, run_file: Any
) -> None:
    code, out = ended[name]
    left = {file: content for file, content in tree(out).items() if not file.endswith((".part", "run.json", ".lock"))}
    complete = tree(whole)
    for file, content in left.items():
        assert content == complete[file]
    assert len(left) < len(complete) - 3  # it was ended before its tables and its report
    if code > 0:  # it could tidy up
        assert not list(out.rglob("*.part"))
        assert run_file(out)["finished"] is False
    assert phnet(*words_for(scans, out, model)).code == 0
    assert run_file(out)["finished"] is True
    again = tree(out)
    assert set(again) == set(complete)
    different = {file for file in complete if again[file] != complete[file]}
    assert different <= {"run.json", "report.html"}  # they tell when, and what was finished earlier


def test_a_second_run_in_the_same_folder_waits_its_turn(scans: Path, model: Path, phnet: Any, tmp_path: Path) -> None:
    from phnet_monai.files import locked

    with locked(tmp_path / "out", "`phnet infer`"):
        outcome = phnet(*words_for(scans, tmp_path / "out", model))
    assert outcome.code == 2
    assert "another `phnet infer` is at work in this folder" in outcome.line
    assert phnet(*words_for(scans, tmp_path / "out", model)).code == 0
