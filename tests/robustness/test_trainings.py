"""`phnet train` that is ended by signals, kills and broken numbers, as a user meets it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from phnet_monai.cli.main import main
from phnet_monai.data import prepare_folder, write_phantoms
from phnet_monai.engines import SemiSupervisedTrainer, Step

LINE = ["--profile", "smoke", "--device", "cpu", "--epoch_length", "3"]


def at_step(monkeypatch: pytest.MonkeyPatch, number: int, do: Any) -> None:
    original = SemiSupervisedTrainer._learn

    def learn(trainer: SemiSupervisedTrainer, step: Step, batch: Any) -> dict[str, float]:
        if trainer.state.iteration == number:
            do(trainer, batch)
        return original(trainer, step, batch)

    monkeypatch.setattr(SemiSupervisedTrainer, "_learn", learn)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "last.pt", weights_only=True)["student"]


@pytest.fixture(scope="module")
def datalist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 small phantoms, 6 of them labeled."""
    phantoms = write_phantoms(tmp_path_factory.mktemp("phantoms"), 24, size_range=(40, 72), without_lesion=1)
    return prepare_folder(phantoms, tmp_path_factory.mktemp("datalist"), labeled=6, progress=False)


@pytest.fixture(scope="module")
def unbroken(datalist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("unbroken") / "run"
    assert main(["train", str(datalist), str(run), *LINE]) == 0
    return run


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals(
    number: int,
    code: int,
    datalist: Path,
    unbroken: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The step is finished and saved, the exit code tells, and `--resume` ends with the weights of an unbroken run."""
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, interrupt))
    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        at_step(patched, 4, lambda trainer, batch: signal.raise_signal(number))
        assert main(["train", str(datalist), str(run), *LINE]) == code
    assert f"saved {run / 'last.pt'} after step 4; resume goes on from there" in capfd.readouterr().err
    assert not (run / "run.json").exists()
    assert main(["train", str(datalist), str(run), *LINE, "--resume"]) == 0
    first, second = weights(unbroken), weights(run)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    rows = [(folder / "history.jsonl").read_text(encoding="utf-8") for folder in (unbroken, run)]
    assert rows[0] == rows[1]
    assert not list(run.glob(".*.part"))


@pytest.mark.slow
def test_a_process_that_is_killed(datalist: Path, unbroken: Path, tmp_path: Path) -> None:
    """SIGKILL once the first step is saved; the harness of many kills is `scripts/kill_and_resume.py`."""
    run = tmp_path / "run"
    child = begin(["train", str(datalist), str(run), *LINE, "--checkpoints#interval", "1"])
    while not (run / "last.pt").exists() and child.poll() is None:
        time.sleep(0.02)
    child.kill()
    assert child.wait() == -signal.SIGKILL  # it had not come to its end
    assert main(["train", str(datalist), str(run), *LINE, "--resume"]) == 0
    first, second = weights(unbroken), weights(run)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def begin(words: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "phnet_monai", *words]
    return subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )


@pytest.mark.slow
def test_a_process_that_is_interrupted_says_so_by_its_exit_code(datalist: Path, tmp_path: Path) -> None:
    """Also `python -m`: Python itself would end by the signal, since the Ctrl-C has passed through `eval`."""
    run = tmp_path / "run"
    child = begin(["train", str(datalist), str(run), *LINE[:-2], "--epoch_length", "9", "--max_epochs", "99"])
    while not (run / "last.pt").exists() and child.poll() is None:
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    assert child.wait() == 130


def spoil(trainer: SemiSupervisedTrainer, batch: Any) -> None:
    batch["labeled"]["image"][0] = torch.nan


def test_a_broken_batch_ends_the_run(
    datalist: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = tmp_path / "run"
    at_step(monkeypatch, 5, spoil)
    assert main(["train", str(datalist), str(run), *LINE]) == 2
    error = capsys.readouterr().err
    assert "epoch 2, iteration 5: the loss is not finite (labeled = nan" in error
    assert "Traceback" not in error
    assert "is not finite" not in caplog.text  # the terminal would show what Ignite's engines log, too
    saved = torch.load(run / "last.pt", weights_only=True)
    assert saved["training"]["iteration"] == 3  # the last good one
    assert all(tensor.isfinite().all() for tensor in saved["student"].values() if tensor.is_floating_point())


def test_what_a_broken_batch_has_ended_goes_on_by_passing_over_it(
    datalist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the message says."""
    run = tmp_path / "run"
    at_step(monkeypatch, 5, spoil)
    assert main(["train", str(datalist), str(run), *LINE]) == 2
    assert "resume with amp null or bf16, or with train#trainer#on_nonfinite skip" in capsys.readouterr().err
    assert main(["train", str(datalist), str(run), *LINE, "--resume", "--train#trainer#on_nonfinite", "skip"]) == 0
    begun = [str(datalist), str(tmp_path / "other"), *LINE, "--rate", "0.001", "--init", str(run / "last.pt")]
    monkeypatch.undo()
    assert main(["train", *begun]) == 0


def test_a_second_student_that_is_not_finite_is_not_saved(
    datalist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, words = tmp_path / "run", ["--method", "cps", "--checkpoints#interval", "1"]
    original = SemiSupervisedTrainer._learn

    def learn(trainer: SemiSupervisedTrainer, step: Step, batch: Any) -> dict[str, float]:
        done = original(trainer, step, batch)
        if trainer.state.iteration == 4:
            with torch.no_grad():
                next(trainer.trained[1].parameters()).fill_(torch.nan)
        return done

    with monkeypatch.context() as patched:
        patched.setattr(SemiSupervisedTrainer, "_learn", learn)
        assert main(["train", str(datalist), str(run), *LINE, *words]) == 2
    assert "weights are not finite (method." in capsys.readouterr().err
    assert torch.load(run / "last.pt", weights_only=True)["training"]["iteration"] == 3
    assert main(["train", str(datalist), str(run), *LINE, *words, "--resume"]) == 0


def test_a_broken_batch_can_be_passed_over(datalist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    at_step(monkeypatch, 5, spoil)
    assert main(["train", str(datalist), str(run), *LINE, "--train#trainer#on_nonfinite", "skip"]) == 0
    rows = [json.loads(line)["train"] for line in (run / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["skipped"] for row in rows] == [0, pytest.approx(1 / 3)]
    assert all(tensor.isfinite().all() for tensor in weights(run).values() if tensor.is_floating_point())


def test_a_full_disk_keeps_the_last_checkpoint(
    datalist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, original, saves = tmp_path / "run", torch.save, []

    def save(content: Any, stream: Any) -> None:
        saves.append(content)
        if "training" in content and content["info"]["epoch"] == 2:
            stream = Full()
        original(content, stream)

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", save)
        assert main(["train", str(datalist), str(run), *LINE]) == 5
    assert f"{run / 'last.pt'}: No space left on device" in capsys.readouterr().err
    assert torch.load(run / "last.pt", weights_only=True)["info"]["epoch"] == 1
    assert not list(run.glob(".*.part"))
    assert main(["train", str(datalist), str(run), *LINE, "--resume"]) == 0


class Full(io.RawIOBase):
    """A file on a disk with room for 20 kB: torch's own writer wraps its error in one about positions."""

    room = 20_000

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self.room -= len(content)
        if self.room < 0:
            raise OSError(28, "No space left on device")
        return len(content)


@pytest.mark.parametrize("size", [1, 3])
def test_a_truncated_checkpoint_falls_back(
    size: int, datalist: Path, unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["train", str(datalist), str(run), *LINE]) == 0
    last = run / "last.pt"
    content = last.read_bytes()
    last.unlink()
    last.write_bytes(content[: len(content) * size // 4])
    assert main(["train", str(datalist), str(run), *LINE, "--resume"]) == 0
    assert f"Going on from {run / 'previous.pt'}" in capsys.readouterr().err
    first, second = weights(unbroken), weights(run)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.parametrize("words", [[], ["--pretrain_epochs", "2"]])
def test_a_grid_that_does_not_divide_is_refused(
    words: list[str], datalist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At the first step, even where patches come later."""
    assert main(["train", str(datalist), str(tmp_path / "run"), *LINE, "--grid_size", "7", *words]) == 2
    assert "grid_size 7 does not divide the image of 64 x 64 pixels" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_signal_to_all_processes_of_a_job(datalist: Path, unbroken: Path, tmp_path: Path) -> None:
    """Schedulers send SIGTERM to the loader processes, too: the training must outlive them and save."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "phnet_monai", "train", str(datalist), str(run), *LINE, "--num_workers", "2"]
    command += ["--max_epochs", "50"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not (run / "last.pt").exists() and child.poll() is None:
        time.sleep(0.02)
    os.killpg(child.pid, signal.SIGTERM)
    _, said = child.communicate()
    assert child.returncode == 143, said
    assert "resume goes on from there" in said
    assert "Traceback" not in said


def test_other_images_are_not_gone_on_with(
    datalist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        at_step(patched, 4, lambda trainer, batch: signal.raise_signal(signal.SIGTERM))
        assert main(["train", str(datalist), str(run), *LINE]) == 143
    kept = (run / "last.pt").read_bytes()
    for part in ("labeled", "unlabeled", "validation"):
        content = json.loads(datalist.read_text(encoding="utf-8"))
        content[part].pop()
        other = datalist.with_name("fewer.json")
        other.write_text(json.dumps(content), encoding="utf-8")
        assert main(["train", str(other), str(run), *LINE, "--resume"]) == 2
        told = f"its {part} images ({len(content[part])}) are not those that the run in"
        assert told in capsys.readouterr().err
        assert (run / "last.pt").read_bytes() == kept
    (run / "config.json").write_text("{", encoding="utf-8")
    assert main(["train", str(datalist), str(run), *LINE, "--resume"]) == 2
    assert "config.json: not valid JSON" in capsys.readouterr().err


@pytest.mark.parametrize("broken", [[1], 3, {"a": 1}])
def test_a_checkpoint_whose_weights_are_none_falls_back(
    broken: Any, datalist: Path, unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["train", str(datalist), str(run), *LINE]) == 0
    content = torch.load(run / "last.pt", weights_only=True)
    torch.save({**content, "student": broken}, run / "last.pt")
    assert main(["train", str(datalist), str(run), *LINE, "--resume"]) == 0
    assert f"Going on from {run / 'previous.pt'}" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["out", "datalist", "init"])
def test_a_path_that_the_configs_would_misread_is_refused(
    place: str, phnet: Any, datalist: Path, model: Path, tmp_path: Path
) -> None:
    """MONAI takes `#` for a separator: the whole training would run, into another folder."""
    odd = tmp_path / "set#1"
    odd.mkdir()
    (odd / "datalist.json").write_bytes(datalist.read_bytes())
    (odd / "m.pt").write_bytes(model.read_bytes())
    words = {"out": (datalist, odd / "run"), "datalist": (odd, tmp_path / "run"), "init": (datalist, tmp_path / "run")}
    further = ("--init", odd / "m.pt") if place == "init" else ()
    outcome = phnet("train", *words[place], "--profile", "smoke", "--device", "cpu", *further)
    assert outcome.code == 2
    assert "holds `#`, which MONAI's configs take for a separator; rename the file or folder" in outcome.line
    assert sorted(path.name for path in tmp_path.iterdir() if "run" in path.name) == []
    scored = phnet("evaluate", model, datalist, odd / "scores", "--device", "cpu")
    assert (scored.code, "holds `#`" in scored.line) == (2, True)


def test_what_cannot_be_gone_on_with_is_told(phnet: Any, datalist: Path, tmp_path: Path) -> None:
    words = ("train", datalist, tmp_path / "run", "--profile", "smoke", "--device", "cpu", "--max_epochs", "1")
    fresh = phnet(*words, "--resume")
    assert fresh.code == 0, fresh.err
    assert f"phnet: {tmp_path / 'run'}: there is nothing to resume; a new training begins" in fresh.err
    score = phnet(*words, "--resume", "--checkpoints#score", "pooled_iou")
    assert (score.code, "checkpoints#score was" in score.line) == (2, True)
    kept = tmp_path / "run" / "config.json"
    config = json.loads(kept.read_text())
    kept.write_text(json.dumps({**config, "finalize": ["$leave()"]}))
    joined = phnet(*words, "--resume")
    assert joined.line.endswith("was trained by several processes, now there is 1; resume with as many")
    kept.write_text(json.dumps(config))
    (tmp_path / "run" / "best.pt").unlink()
    gone = phnet(*words, "--resume", "--checkpoints#interval", "3")
    assert gone.code == 0, gone.err
    assert "best.pt: no such checkpoint file; the best of the epochs from here on takes its place" in gone.err
    assert "best.pt: not written" in gone.out
