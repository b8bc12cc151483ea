"""The commands and examples of README and docs, as they stand there, made small.

Each page is read in order in a folder of its own. What a page takes for granted is laid out before the first command
that names it. Made small: the `smoke` profile in place of any other, two steps of two images in place of an epoch;
commands in blocks that are not `bash` are long ones, which are cut down further (`MINIATURE`, `SCRIPTS`).
"""

from __future__ import annotations

import json
import os
import re
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
PAGES = {name: text for name, text in DOCS.pages().items() if DOCS.blocks(text)}
FEWER = {"--epoch_length": "2", "--batch_size": "2"}
SHRUNK = (
    ("--profile cpu", "--profile smoke"),
    ("--profiles cpu", "--profiles smoke"),
    ("profiles/cpu.json", "profiles/smoke.json"),
)
MINIATURE = (
    (r"--methods (\w+),(\w+)[\w,]*", r"--methods \1,\2"),
    (r"--seeds [\d,]+", "--seeds 0"),
    (r"--labeled 1/8(,1/4)?", "--labeled 1/4"),
    (r"--jobs \d", ""),
    (r"--nproc-per-node \d", "--nproc-per-node 2"),
    (r"--profile paper", "--profile smoke"),
    (r"--memory \d+", "--memory 20"),
    (r"'\$BUNDLE/configs/multi_gpu_train.json'", r"'$BUNDLE/configs/profiles/smoke.json',\g<0>"),
)
FEW = json.dumps({"max_epochs": 1, "pretrain_epochs": 0, **{key[2:]: int(value) for key, value in FEWER.items()}})
SCRIPTS = {  # what makes a script quick; of two equal flags the last one counts
    "benchmark_backends.py": "--threads 1 --rounds 1 --batch 2",
    "benchmark_infer.py": "--rounds 1 --limit 3",
    "benchmark_loading.py": "--seconds 0.1",
    "benchmark_methods.py": "--rounds 1 --steps 2 --methods sup_only,phnet",
    "benchmark_report.py": "--frames 4",
    "benchmark_step.py": "--steps 1",
    "kill_and_resume.py": "--kills 1",
    "make_default_model.py": f"--profile smoke --out bundle --overrides '{FEW}'",
    "method_figures.py": "--epochs 1 --steps 2",
}
IN_A_SHELL = ("mkdir", "cp")
ELSEWHERE = {  # what this test leaves out, and why or to which test
    "make demo": "minutes; it calls `phnet demo`, which tests/integration/test_command_line.py looks at",
    "make coverage": "runs these tests",
    "pip install": "the network",
    "mlflow ui": "not ours: a server",
    "python -m venv": "an environment of its own; scripts/check_monailabel.py does these steps",
    "monailabel": "an environment of its own; scripts/check_monailabel.py does these steps",
    "unzip": "an environment of its own; scripts/check_monailabel.py does these steps",
    "python scripts/package_bundle.py": "tests/integration/test_package_bundle.py",
    "python scripts/check_deploy.py": "an environment of its own, with MONAI Deploy",
    "python scripts/check_distribution.py": "tests/integration/test_distribution.py",
    "python -m build": "tests/test_packaging.py",
    "python scripts/measure_ranking.py": "tests/integration/test_measure_ranking.py",
}


@dataclass
class Reader:
    """Someone who types what a page says, in `place`."""

    place: Path
    lay_out: dict[str, Callable[[Path], object]]
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def read(self, page: str) -> list[str]:
        """The commands that were run. What one of them makes is not laid out: it must come before it is needed."""
        ran = []
        lines = [line for block in DOCS.blocks(page) for line in DOCS.command_lines(block) if not left_out(line)]
        for out in {name for line in lines for name in made_by(words_of(in_miniature(line)))} - {"runs/phnet"}:
            self.lay_out.pop(out, None)
        for block in DOCS.blocks(page):
            if block.title:
                (self.place / block.title).write_text(block.text, encoding="utf-8")
            elif block.language == "python":
                if "write_phantoms" not in block.text:  # else it makes its own images
                    self.prepare(re.findall(r"\"([^\"]+)\"", block.text))
                exec(compile(block.text, "a page", "exec"), {"__name__": "__main__"})
            elif block.language == "json":
                json.loads(block.text)
            ran += [command for command in DOCS.command_lines(block) if self.type(command, block.language == "bash")]
            self.monkeypatch.chdir(self.place)
        return ran

    def type(self, command: str, short: bool) -> bool:
        """Run one command; False where it is left to other tests."""
        if left_out(command):
            return False
        words = words_of(command if short else in_miniature(command))
        self.prepare([word for word in words if word not in made_by(words)])
        if words[:2] == ["python", "-m"] and words[2] == "phnet_monai":
            words = ["phnet", *words[3:]]
        if words[0] == "phnet":
            code = main(words[1:])
            captured = self.capsys.readouterr()
            assert code == 0, f"{command}\nexit code {code}\n{captured.out}\n{captured.err}"
        elif words[0] == "python":
            # here, not in a process of its own: importing torch and MONAI costs more than what they do
            self.run_python(words[1:])
        elif words[0] == "cd":
            self.monkeypatch.chdir(words[1])
        elif words[0] in IN_A_SHELL:
            subprocess.run(words, check=True, cwd=self.place)
        elif words[0] == "torchrun":
            run = [sys.executable, "-m", "torch.distributed.run", *words[1:]]
            done = subprocess.run(run, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        else:
            raise AssertionError(f"{command}: this test cannot run it; tell why in ELSEWHERE")
        return True

    def run_python(self, words: list[str]) -> None:
        if words[0] == "-m":
            self.monkeypatch.setattr(sys, "argv", words[1:])
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        elif words[0] == "-c":
            exec(compile(words[1], "a page", "exec"), {"__name__": "__main__"})
        else:
            self.monkeypatch.syspath_prepend(str(ROOT / "scripts"))
            self.monkeypatch.setattr(sys, "argv", words)
            code: int | str | None = 0
            try:
                runpy.run_path(str(ROOT / words[0]), run_name="__main__")
            except SystemExit as ended:
                code = ended.code
            assert not code, f"{' '.join(words)}: exit code {code}"

    def prepare(self, words: list[str]) -> None:
        for name, make in self.lay_out.items():
            used = any(word == name or word.startswith(f"{name}/") or f"'{name}/" in word for word in words)
            if used and not (self.place / name).exists():
                make(self.place / name)


def left_out(command: str) -> bool:
    if "benchmark_report.py" in command and not (shutil.which("chromium") and shutil.which("chromedriver")):
        return True
    return any(command == name or command.startswith(f"{name} ") for name in ELSEWHERE)


def in_miniature(command: str) -> str:
    """A long command with what makes it short."""
    for long, short in MINIATURE:
        command = re.sub(long, short, command)
    words = command.split()
    if words[0] == "python" and words[1].startswith("scripts/"):
        command += " " + SCRIPTS.get(words[1].removeprefix("scripts/"), "")
    if words[:2] == ["phnet", "train"] and "--profile" not in words:
        command += " --profile smoke"
    if "compare" in words[:4] and "--report-only" not in words:
        command += " --profiles smoke" + (" --seeds 0" if "--matrix" in words else "")
    return command


def words_of(command: str) -> list[str]:
    """The words of one command as a shell makes them, with what makes it small."""
    for long, short in SHRUNK:
        command = command.replace(long, short)
    words = DOCS.split(os.path.expandvars(command))
    assert not {"|", ">", "<", "&", "&&", ";"} & set(words), f"more than one plain command: {command}"
    start = words[words.index("phnet_monai") + 1 :] if "phnet_monai" in words[:5] else words[1:]
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
        "BUSBRA": lambda target: as_busbra(phantoms, target),
        "bundles/breast_ultrasound_phnet_segmentation": lambda target: shutil.copytree(ROOT / "bundle", target),
        "bundle": lambda target: shutil.copytree(ROOT / "bundle", target),
        "docs/results/busi_2/starts": lambda target: target.mkdir(parents=True),
        "docs/results/plus_choice/matrix.json": kept_matrix("plus_choice"),
        "docs/results/busbra/matrix.json": kept_matrix("busbra"),
    }
    monkeypatch.setenv("BUNDLE", str(ROOT / "bundle"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # `python -m phnet_monai` looks for modules in the current folder
    return Reader(tmp_path, names, monkeypatch, capsys)


def kept_matrix(folder: str) -> Callable[[Path], object]:
    def copy(target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "docs" / "results" / folder / "matrix.json", target)

    return copy


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


def as_busbra(phantoms: Path, target: Path) -> None:
    """BUS-BRA in miniature, each patient with two images."""
    rows = ["ID,Case,Pathology"]
    for number, picture in enumerate(sorted((phantoms / "images").iterdir())):
        name = f"{number // 2:04}-{'lr'[number % 2]}"
        for folder, file, source in (("Images", f"bus_{name}", "images"), ("Masks", f"mask_{name}", "masks")):
            (target / folder).mkdir(parents=True, exist_ok=True)
            shutil.copy(phantoms / source / picture.name, target / folder / f"{file}.png")
        rows.append(f"bus_{name},{number // 2},{('benign', 'malignant')[number % 4 > 1]}")
    (target / "bus_data.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


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
    commands = [line for block in DOCS.blocks(PAGES[page]) for line in DOCS.command_lines(block)]
    assert ran == [command for command in commands if not left_out(command)]
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


def test_what_is_left_out_is_run_where_it_is_said() -> None:
    named = [reason for reason in ELSEWHERE.values() if reason.startswith("tests/")]
    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []
    commands = [line for page in PAGES.values() for block in DOCS.blocks(page) for line in DOCS.command_lines(block)]
    assert {name for name in ELSEWHERE if any(command.startswith(name) for command in commands)} == set(ELSEWHERE)


def test_readme_shows_the_whole_way() -> None:
    bash = [block for block in DOCS.blocks(PAGES["README.md"]) if block.language == "bash"]
    shown = {" ".join(line.split()[:2]) for block in bash for line in DOCS.command_lines(block)}
    assert {"phnet prepare", "phnet train", "phnet evaluate", "phnet infer", "python -m"} <= shown
