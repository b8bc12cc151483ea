"""The wheel: what it carries, what it leaves behind, and that it works without the checkout."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from email.parser import Parser
from pathlib import Path

import pytest

from phnet_monai import __version__

ROOT = Path(__file__).parents[1]
NOT_SOURCE = (".git", ".venv", ".*_cache", "__pycache__", "dist", "build", "demo_out", "shared", "*.pt")
STRAY = ("runs/phnet/last.pt", "eval/mask.png", "data/datalist.json", "models/other.pt")
MODELS = ("bundle/models/model.pt", "bundle/models/model.safetensors", "bundle/models/SHA256SUMS")


def call(words: Sequence[str | Path], *, cwd: Path, **environment: str) -> str:
    """Output of `python words...`; fails with all of its output."""
    command = [sys.executable, *map(str, words)]
    values = {**os.environ, **environment}
    done = subprocess.run(command, cwd=cwd, env=values, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheel of a copy of the checkout in which somebody has trained and segmented inside `bundle/`."""
    pytest.importorskip("build", reason="needs phnet-monai[dev]")
    pytest.importorskip("hatchling", reason="needs phnet-monai[dev]")
    source = tmp_path_factory.mktemp("source") / "checkout"
    shutil.copytree(ROOT, source, symlinks=True, ignore=shutil.ignore_patterns(*NOT_SOURCE))
    for name in MODELS:
        shutil.copy(ROOT / name, source / name)
    for name in STRAY:
        (source / "bundle" / name).parent.mkdir(parents=True, exist_ok=True)
        (source / "bundle" / name).write_bytes(b"left behind by a run")
    out = tmp_path_factory.mktemp("wheel")
    call(["-m", "build", "--no-isolation", "--wheel", "--outdir", out], cwd=source)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def read(wheel: Path, name: str) -> str:
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(name).decode("utf-8")


def test_wheel_carries_package_bundle_and_licence(wheel: Path, names: list[str]) -> None:
    assert wheel.name == f"phnet_monai-{__version__}-py3-none-any.whl"
    configs = [path.relative_to(ROOT).as_posix() for path in (ROOT / "bundle" / "configs").rglob("*") if path.is_file()]
    assert {
        "bundle/configs/train.json",
        "bundle/configs/profiles/smoke.json",
        "bundle/configs/methods/phnet.json",
    } <= set(configs)
    modules = [path.relative_to(ROOT).as_posix() for path in (ROOT / "phnet_monai").rglob("*.py")]
    wanted = (
        {f"phnet_monai/{name}" for name in configs}
        | set(modules)
        | {"phnet_monai/bundle/LICENSE", *(f"phnet_monai/{name}" for name in MODELS)}
    )
    assert sorted(wanted - set(names)) == []
    info = f"phnet_monai-{__version__}.dist-info"
    assert read(wheel, f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_wheel_carries_nothing_else(names: list[str]) -> None:
    assert [name for name in STRAY if f"phnet_monai/bundle/{name}" in names] == []
    tops = {name.split("/")[0] for name in names}
    assert tops == {"phnet_monai", f"phnet_monai-{__version__}.dist-info"}
    assert len(set(names)) == len(names)
    models = [f"phnet_monai/{name}" for name in MODELS]
    assert sorted(name for name in names if name.startswith("phnet_monai/bundle/models/")) == sorted(models)
    assert [name for name in names if re.search(r"\.(pt|ts|png|pyc)$", name)] == models[:1]


def test_wheel_declares_version_needs_and_command(wheel: Path) -> None:
    info = f"phnet_monai-{__version__}.dist-info"
    metadata = Parser().parsestr(read(wheel, f"{info}/METADATA"))
    assert metadata["Version"] == __version__
    assert metadata["Name"] == "phnet-monai"
    assert metadata["Requires-Python"] == ">=3.10"
    needs = " ".join(metadata.get_all("Requires-Dist") or [])
    assert all(name in needs for name in ("torch", "monai", "pytorch-ignite", "segmentation-models-pytorch", "pillow"))
    assert {"lite0", "plot", "dev"} <= set(metadata.get_all("Provides-Extra") or [])
    script = read(wheel, f"{info}/entry_points.txt")
    assert re.search(r"^\[console_scripts\]\nphnet = phnet_monai\.cli\.main:main$", script, re.MULTILINE)


def test_version_is_the_same_everywhere() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.findall(r'^version = "(.+)"$', project, re.MULTILINE) == [__version__]
    metadata = json.loads((ROOT / "bundle" / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert metadata["version"] == __version__
    assert __version__ in metadata["changelog"]
    log = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[?v?(\d+\.\d+\.\d+)", log, re.MULTILINE)[0] == __version__


def test_installed_wheel_finds_the_bundle_inside_itself(wheel: Path, tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-index",
        "--no-deps",
        "--target",
        target,
    ]
    call([*pip, wheel], cwd=elsewhere)
    code = (
        "import phnet_monai\n"
        "from phnet_monai.engines.run import bundle_folder, compose, overlay\n"
        "layers = [overlay('profiles', 'smoke'), overlay('methods', 'phnet')]\n"
        "parser = compose(bundle_folder() / 'configs' / 'train.json', layers, {'max_epochs': 3})\n"
        "network = parser.get_parsed_content('network')\n"
        "values = [parser['size'], parser['max_epochs'], type(network).__name__]\n"
        "print([phnet_monai.__file__, str(bundle_folder()), *values])\n"
    )
    shown = call(["-W", "ignore", "-c", code], cwd=elsewhere, PYTHONPATH=str(target), OMP_NUM_THREADS="1")
    assert ast.literal_eval(shown.splitlines()[-1]) == [
        str(target / "phnet_monai" / "__init__.py"),
        str(target / "phnet_monai" / "bundle"),
        64,
        3,
        "PHNet",
    ]
    script = "phnet.exe" if os.name == "nt" else "phnet"
    assert (target / "bin" / script).is_file() or (target / "Scripts" / script).is_file()
