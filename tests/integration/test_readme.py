"""The commands and examples of the README, as they stand there, with the `smoke` profile in place of `cpu`."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from phnet_monai.cli.main import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# smaller yet: a method may ask for more steps than the profile
FEWER = {"--epoch_length": "2", "--batch_size": "2"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    lines = "".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith(("phnet ", "python -m monai.bundle"))]


def words_of(command: str) -> list[str]:
    """The words of one command as a shell makes them, with what makes it small."""
    shrunk = command.replace("--profile cpu", "--profile smoke").replace("profiles/cpu.json", "profiles/smoke.json")
    shrunk = shrunk.replace("--profiles cpu", "--profiles smoke")
    words = shlex.split(os.path.expandvars(shrunk), comments=True)
    assert not {"|", ">", "<", "&", "&&", ";"} & set(words), f"more than one plain command: {command}"
    if words[:2] == ["phnet", "train"]:
        assert "smoke" in words, f"this training would not be small: {command}"
        words += [word for flag, value in FEWER.items() if flag not in words for word in (flag, value)]
    if words[:2] == ["phnet", "compare"] and "--report-only" not in words:
        assert "smoke" in words, f"these trainings would not be small: {command}"
        words += ["--jobs", "0", *(word for pair in FEWER.items() for word in pair)]
    return words


@pytest.fixture
def place(phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the README's reader works: BUSI in miniature, own pictures, new pictures, `$BUNDLE`."""
    pictures = sorted((phantoms / "images").iterdir())
    for number, (picture, group) in enumerate(
        zip(pictures, ["benign"] * 13 + ["malignant"] * 7 + ["normal"] * 4, strict=True)
    ):
        folder = tmp_path / "Dataset_BUSI_with_GT" / group
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"{group} ({sum(1 for file in folder.iterdir() if 'mask' not in file.name) + 1})"
        shutil.copy(picture, folder / f"{stem}.png")
        shutil.copy(phantoms / "masks" / picture.name, folder / f"{stem}_mask.png")
        if number == 0:
            shutil.copy(phantoms / "masks" / picture.name, folder / f"{stem}_mask_1.png")
    shutil.copytree(phantoms, tmp_path / "my_images")
    for picture in pictures[:3]:  # not outlined: unlabeled
        (tmp_path / "my_images" / "masks" / picture.name).unlink()
    (tmp_path / "new_images").mkdir()
    for picture, suffix in zip(pictures, (".png", ".jpg", ".bmp"), strict=False):
        with Image.open(picture) as image:
            image.save((tmp_path / "new_images" / picture.name).with_suffix(suffix))
    monkeypatch.setenv("BUNDLE", str(ROOT / "bundle"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_readme_shows_the_whole_way() -> None:
    shown = {" ".join(shlex.split(command)[:2]) for command in commands()}
    assert {"phnet prepare", "phnet train", "phnet evaluate", "phnet infer", "python -m"} <= shown


def test_commands_run_in_order(place: Path, run_module: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    bundle = {path: path.stat().st_mtime_ns for path in (ROOT / "bundle").rglob("*")}
    ran = []
    for command in commands():
        words = words_of(command)
        if words[:2] == ["phnet", "demo"]:  # minutes; it has a test of its own
            continue
        if words[0] == "python":
            run_module(words[2:], cwd=place)
        else:
            code = main(words[1:])
            captured = capsys.readouterr()
            assert code == 0, f"{command}\nexit code {code}\n{captured.out}\n{captured.err}"
        ran.append(command)
    assert ran
    assert list(place.rglob("last.pt"))
    assert {path: path.stat().st_mtime_ns for path in (ROOT / "bundle").rglob("*")} == bundle  # nothing is left behind


@pytest.mark.parametrize("code", blocks("python"))
def test_python_examples_run(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
