"""A disk that fills up: the run ends early with exit code 5 and one line; what was finished stays, and it goes on."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from phnet_monai import files
from phnet_monai.engines import SemiSupervisedTrainer
from phnet_monai.files import atomic_writer, disk_error
from phnet_monai.handlers import SaveCheckpoints


class Disk:
    """Room for a number of files; then every further one fails at its first byte, as on a full disk."""

    def __init__(self, room: int, error: int = errno.ENOSPC) -> None:
        self.room, self.error, self.refused = room, error, 0
        self.replace = os.replace

    def __call__(self, source: Any, target: Any) -> None:
        if self.room == 0:
            self.refused += 1
            raise OSError(self.error, os.strerror(self.error))
        self.room -= 1
        self.replace(source, target)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Disk]:
    def make(room: int, error: int = errno.ENOSPC) -> Disk:
        made = Disk(room, error)
        monkeypatch.setattr(files.os, "replace", made)
        return made

    return make


@pytest.fixture
def many(tmp_path: Path, speckle: Callable[..., np.ndarray]) -> Path:
    (tmp_path / "in").mkdir()
    for number in range(40):
        Image.fromarray(speckle(20, 24, number)).save(tmp_path / "in" / f"{number:02d}.png")
    return tmp_path / "in"


# room 1 is for the first run.json, 7 for that and two scans (overlay, mask and record each)
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("room", [0, 1, 7])
def test_infer_ends_at_once_and_goes_on_later(
    room: int, error: int, disk: Any, many: Path, infer: Any, tmp_path: Path, monkeypatch: Any, run_file: Any
) -> None:
    full = disk(room, error)
    outcome = infer(many, tmp_path / "out", "--batch-size", "1", "--quiet")
    assert outcome.code == 5
    assert os.strerror(error) in outcome.line
    assert str(tmp_path / "out") in outcome.line
    assert ("run.json" in outcome.line) == (room == 0)  # the first write that failed, not the last
    assert "what was finished is kept" in outcome.line
    assert full.refused < 12  # of 120 files that 40 scans need
    assert not list(tmp_path.rglob("*.part"))
    assert len(list((tmp_path / "out" / "records").glob("*.json"))) <= 2
    monkeypatch.setattr(files.os, "replace", full.replace)
    assert infer(many, tmp_path / "out", "--quiet").code == 0
    assert run_file(tmp_path / "out")["finished"] is True
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 40


def test_other_errors_of_one_file_do_not_end_the_run(disk: Any, pictures: Path, infer: Any, tmp_path: Path) -> None:
    """A result that cannot be written (here: a folder has its name) fails alone."""
    (tmp_path / "out" / "masks" / "a.png").mkdir(parents=True)
    outcome = infer(pictures, tmp_path / "out", "--quiet")
    assert outcome.code == 3
    assert outcome.err == "failed: a.png: Is a directory\n"
    assert len([path for path in (tmp_path / "out" / "masks").rglob("*.png") if path.is_file()]) == 3


def test_the_tables_do_not_fit(many: Path, infer: Any, tmp_path: Path, monkeypatch: Any) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("phnet_monai.inference.folder.write_tables", full)
        outcome = infer(many, tmp_path / "out", "--quiet", "--limit", "2")
    assert outcome.code == 5
    assert "No space left on device" in outcome.line
    assert infer(many, tmp_path / "out", "--limit", "1").code == 0
    assert (tmp_path / "out" / "lesions.csv").is_file()


def test_prepare_writes_no_half_of_a_datalist(
    disk: Any, labeled_folder: Any, phnet: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    folder = labeled_folder(12)
    words = ("prepare", "folder", folder, tmp_path / "list", "--labeled", "4", "--quiet")
    full = disk(0)
    outcome = phnet(*words)
    assert outcome.code == 5
    assert outcome.line.startswith(f"{tmp_path / 'list' / 'datalist.json'}: No space left on device; ")
    assert not list((tmp_path / "list").iterdir())
    monkeypatch.setattr(files.os, "replace", full.replace)
    assert phnet(*words).code == 0


def test_prepare_keeps_the_earlier_datalist(
    disk: Any, labeled_folder: Any, phnet: Any, tmp_path: Path, tree: Any
) -> None:
    words = ("prepare", "folder", labeled_folder(12), tmp_path / "list", "--labeled", "4", "--quiet")
    assert phnet(*words).code == 0
    before = tree(tmp_path / "list")
    disk(0)
    assert phnet(*words[:4], "--labeled", "3", "--quiet", "--overwrite").code == 5
    assert tree(tmp_path / "list") == before


@pytest.mark.parametrize("ending", ["safetensors", "ts"])
def test_export_leaves_nothing_or_the_earlier_file(
    ending: str, disk: Any, model: Path, phnet: Any, tmp_path: Path
) -> None:
    out = tmp_path / f"x.{ending}"
    disk(0)
    outcome = phnet("export", model, out)
    assert outcome.code == 5
    assert outcome.line.startswith(f"{out}: No space left on device; ")
    assert list(tmp_path.iterdir()) == []
    out.write_bytes(b"earlier")
    assert phnet("export", model, out, "--overwrite").code == 5
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(out.name, b"earlier")]


def test_an_error_that_a_library_wraps_is_known(tmp_path: Path, monkeypatch: Any) -> None:
    """`torch.save` makes a RuntimeError of it."""

    class Full:
        def __init__(self, stream: Any) -> None:
            self.stream, self.left = stream, 3000

        def write(self, content: Any) -> int:
            self.left -= len(bytes(content))
            if self.left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.stream.write(content)

        def flush(self) -> None:
            self.stream.flush()

    with pytest.raises(RuntimeError) as caught, atomic_writer(tmp_path / "last.pt") as stream:
        torch.save({"weights": torch.zeros(100_000)}, Full(stream))
    found = disk_error(caught.value)
    assert found is not None
    assert (found.errno, found.filename) == (errno.ENOSPC, str(tmp_path / "last.pt"))
    assert not list(tmp_path.iterdir())
    assert disk_error(ValueError()) is None
    assert disk_error(PermissionError(errno.EACCES, "x")) is None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 kB, where one may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if not sys.platform.startswith("linux") or os.geteuid() != 0 or subprocess.run(command, check=False).returncode:
        pytest.skip("no disk may be mounted here (needs root on Linux); the tests above make believe of one")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("after", ["step", "checkpoint"])
def test_a_training_fills_the_disk(
    after: str, small_disk: Path, labeled_folder: Any, phnet: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line that names what could not be written, also where TensorBoard's thread or the history is the first."""
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    assert phnet("prepare", "folder", labeled_folder(12), tmp_path / "list", "--labeled", "4", "--quiet").code == 0
    run, fill = small_disk / "run", small_disk / "fill"
    words = ("train", tmp_path / "list", run, "--profile", "smoke", "--device", "cpu", "--epoch_length", "2")

    def use_up(*arguments: Any, **named: Any) -> Any:
        done = original(*arguments, **named)
        if not fill.exists() and (run / "last.pt").is_file():
            with contextlib.suppress(OSError), open(fill, "wb", buffering=0) as stream:
                while stream.write(bytes(512)):
                    pass
        return done

    place, name = (SaveCheckpoints, "save") if after == "checkpoint" else (SemiSupervisedTrainer, "_learn")
    original = getattr(place, name)
    with monkeypatch.context() as patched:
        patched.setattr(place, name, use_up)
        outcome = phnet(*words)
    assert outcome.code == 5
    assert re.match(rf"{run}/(tensorboard|history\.jsonl|last\.pt|best\.pt): No space left on device", outcome.line)
    fill.unlink()
    assert phnet(*words, "--resume").code == 0


def test_a_real_disk(small_disk: Path, many: Path, infer: Any, model: Path, phnet: Any, tree: Any) -> None:
    out = small_disk / "out"
    outcome = infer(many, out, "--probabilities", "--hardness", "--quiet")
    assert outcome.code == 5
    assert "No space left on device" in outcome.line
    assert not list(out.rglob("*.part"))
    for name, content in tree(out).items():
        if name.endswith(".png"):
            with Image.open(out / name) as picture:
                picture.load()
        assert content or name == ".lock"
    outcome = phnet("export", model, small_disk / "x.ts")
    assert outcome.code == 5
    assert not (small_disk / "x.ts").exists()
