"""The commands and examples of README and docs, as they stand there, made small.

Each page is read in order in a folder of its own. Made small: the `smoke` profile in place of `cpu`, two steps of two
images in place of an epoch. What a page takes for granted is laid out before the first command that names it.
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from phnet_monai.cli.main import COMMANDS, main
from phnet_monai.data import load_datalist, read_image, read_mask

ROOT = Path(__file__).parents[2]
DOCS = SimpleNamespace(**runpy.run_path(str(ROOT / "tests" / "reference" / "doc_blocks.py")))
PAGES = {
    name: text
    for name, text in DOCS.pages().items()
    if any(block.language in ("bash", "python", "json") for block in DOCS.blocks(text))
}
FEWER = {"--epoch_length": "2", "--batch_size": "2"}
SHRUNK = (
    ("--profile cpu", "--profile smoke"),
    ("--profiles cpu", "--profiles smoke"),
    ("profiles/cpu.json", "profiles/smoke.json"),
)
IN_A_SHELL = ("mkdir", "cp")
ELSEWHERE = ("make", "pip", "tensorboard")  # they have tests of their own, or are not ours


@dataclass
class Reader:
    """Someone who types what a page says, in `place`."""

    place: Path
    lay_out: dict[str, Callable[[Path], object]]
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def read(self, page: str) -> list[str]:
        """The commands that were run."""
        ran = []
        for block in DOCS.blocks(page):
            if block.title:
                (self.place / block.title).write_text(block.text, encoding="utf-8")
            elif block.language == "python":
                exec(compile(block.text, "a page", "exec"), {"__name__": "__main__"})
            elif block.language == "json":
                json.loads(block.text)
            elif block.language == "bash":
                ran += [command for command in DOCS.command_lines(block.text) if self.type(command)]
        return ran

    def type(self, command: str) -> bool:
        """Run one command; False where it is left to other tests."""
        words = words_of(command)
        if words[0] in ELSEWHERE or words[:2] == ["phnet", "demo"]:
            return False
        self.prepare([word for word in words if word not in made_by(words)])
        if words[:2] == ["python", "-m"] and words[2] == "phnet_monai":
            words = ["phnet", *words[3:]]
        if words[0] == "phnet":
            code = main(words[1:])
            captured = self.capsys.readouterr()
            assert code == 0, f"{command}\nexit code {code}\n{captured.out}\n{captured.err}"
        elif words[:2] == ["python", "-m"]:
            # here, not in a process of its own: importing torch and MONAI costs more than what they do
            self.monkeypatch.setattr(sys, "argv", words[2:])
            runpy.run_module(words[2], run_name="__main__", alter_sys=True)
        elif words[0] in IN_A_SHELL:
            subprocess.run(words, check=True, cwd=self.place)
        else:
            raise AssertionError(f"{command}: this test cannot run it; put it into a block `sh`")
        return True

    def prepare(self, words: list[str]) -> None:
        for name, make in self.lay_out.items():
            used = any(word == name or word.startswith(f"{name}/") for word in words)
            if used and not (self.place / name).exists():
                make(self.place / name)


def words_of(command: str) -> list[str]:
    """The words of one command as a shell makes them, with what makes it small."""
    for long, short in SHRUNK:
        command = command.replace(long, short)
    words = DOCS.split(os.path.expandvars(command))
    assert not {"|", ">", "<", "&", "&&", ";"} & set(words), f"more than one plain command: {command}"
    start = words[3:] if words[:3] == ["python", "-m", "phnet_monai"] else words[1:]
    if start[:1] == ["train"]:
        assert "smoke" in words, f"this training would not be small: {command}"
        words += [word for flag, value in FEWER.items() if flag not in words for word in (flag, value)]
    if start[:1] == ["compare"] and "--report-only" not in words:
        assert "smoke" in words, f"these trainings would not be small: {command}"
        words += ["--jobs", "0", *(word for pair in FEWER.items() for word in pair)]
    return words


def made_by(words: list[str]) -> set[str]:
    """What a command writes: not to be laid out for it."""
    start = words[3:] if words[:3] == ["python", "-m", "phnet_monai"] else words[1:]
    if words[0] not in ("phnet", "python") or not start or start[0] not in COMMANDS:
        return set()
    return {str(DOCS.check_phnet(start, True).get("out"))}


@pytest.fixture
def reader(
    phantoms: Path,
    datalist: Path,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Reader:
    def prepared(target: Path) -> None:
        # paths in a datalist are relative to it
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(datalist.parent, target_is_directory=True)

    def trained(target: Path) -> None:
        target.mkdir(parents=True)
        shutil.copy(checkpoint, target / "last.pt")

    names: dict[str, Callable[[Path], object]] = {
        "Dataset_BUSI_with_GT": lambda target: as_busi(phantoms, target),
        "my_images": lambda target: own_pictures(phantoms, target),
        "new_images": lambda target: new_pictures(phantoms, target),
        "scans": lambda target: new_pictures(phantoms, target),
        "data/busi": prepared,
        "data/own": prepared,
        "runs/phnet": trained,
    }
    monkeypatch.setenv("BUNDLE", str(ROOT / "bundle"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # `python -m phnet_monai` looks for modules in the current folder
    return Reader(tmp_path, names, monkeypatch, capsys)


def as_busi(phantoms: Path, target: Path) -> None:
    """BUSI in miniature, one image with two masks."""
    pictures = sorted((phantoms / "images").iterdir())
    classes = ["benign"] * 13 + ["malignant"] * 7 + ["normal"] * 4
    for number, (picture, group) in enumerate(zip(pictures, classes, strict=True)):
        folder = target / group
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"{group} ({sum(1 for file in folder.iterdir() if 'mask' not in file.name) + 1})"
        shutil.copy(picture, folder / f"{stem}.png")
        for ending in ("_mask", "_mask_1") if number == 0 else ("_mask",):
            shutil.copy(phantoms / "masks" / picture.name, folder / f"{stem}{ending}.png")


def own_pictures(phantoms: Path, target: Path) -> None:
    """`images/` and `masks/`, three images without outline."""
    shutil.copytree(phantoms, target)
    for mask in sorted((target / "masks").iterdir())[:3]:
        mask.unlink()


def new_pictures(phantoms: Path, target: Path) -> None:
    target.mkdir()
    for picture, suffix in zip(sorted((phantoms / "images").iterdir()), (".png", ".jpg", ".bmp"), strict=False):
        with Image.open(picture) as image:
            image.save((target / picture.name).with_suffix(suffix))


@pytest.mark.filterwarnings("ignore:parsing config_file")  # MONAI's, of every config
@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_says_can_be_done(page: str, reader: Reader) -> None:
    bundle = {path: path.stat().st_mtime_ns for path in (ROOT / "bundle").rglob("*")}
    modules = set(sys.modules)
    ran = reader.read(PAGES[page])
    for name in set(sys.modules) - modules:  # those that the page wrote
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(reader.place)):
            del sys.modules[name]
    if page == "docs/tutorial.md":
        check_tutorial()
    assert ran or all(block.language != "bash" for block in DOCS.blocks(PAGES[page]))
    assert {path: path.stat().st_mtime_ns for path in (ROOT / "bundle").rglob("*")} == bundle  # nothing is left behind


def check_tutorial() -> None:
    """Its last datalist is the first one with the twelve chosen images among the labeled ones."""
    first, second = load_datalist("data/own"), load_datalist("data/second")
    names = {
        part: [{item["image"] for item in parts[part]} for parts in (first, second)]
        for part in ("labeled", "unlabeled")
    }
    added = names["labeled"][1] - names["labeled"][0]
    assert len(added) == 12
    assert names["unlabeled"][0] - names["unlabeled"][1] == added
    for part in ("validation", "test"):
        assert first[part] == second[part]
    for item in second["labeled"]:
        assert read_mask(item["label"]).shape == read_image(item["image"]).shape


def test_readme_shows_the_whole_way() -> None:
    bash = [block for block in DOCS.blocks(PAGES["README.md"]) if block.language == "bash"]
    shown = {" ".join(line.split()[:2]) for block in bash for line in DOCS.command_lines(block.text)}
    assert {"phnet prepare", "phnet train", "phnet evaluate", "phnet infer", "python -m"} <= shown
