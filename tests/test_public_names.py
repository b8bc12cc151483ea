"""The public names of each room, and which room may import which."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import phnet_monai

PACKAGE = Path(phnet_monai.__file__).parent

NAMES = {
    "transforms": ["draw_keep_mask", "hardest_patches", "mix_patches", "patch_hardness", "shielded_patch_count"],
    "losses": ["HardPatchContrastiveLoss", "MemoryBank", "class_contrast", "masked_cross_entropy"],
    "networks": ["PHNet", "export_state_dict", "load_checkpoint"],
    "engines": ["SemiSupervisedEvents", "SemiSupervisedTrainer", "View"],
    "handlers": ["AdaptivePatchAugmentation", "EMATeacher", "HardPatchContrast"],
    "metrics": ["bootstrap_interval", "per_image_scores", "pooled_dice_iou", "wilcoxon_holm"],
    "data": [
        "audit",
        "check_leaks",
        "find_marks",
        "make_phantom",
        "make_splits",
        "prepare_busbra",
        "prepare_busi",
        "prepare_folder",
    ],
    "inference": ["Predictor"],
    "comparison": ["compare", "read_matrix"],
}

# room -> rooms that it may import besides itself: arrows point from the command line down to the transforms
BELOW = {
    "transforms": set(),
    "metrics": set(),
    "data": {"transforms"},
    "networks": {"transforms"},
    "losses": {"networks", "transforms"},
    "engines": {"data", "losses", "metrics", "networks", "transforms"},
    "handlers": {"data", "engines", "losses", "metrics", "networks", "transforms"},
    "inference": {"data", "losses", "metrics", "networks", "transforms"},
    "comparison": {"data", "engines", "handlers", "inference", "losses", "metrics", "networks", "transforms"},
    "cli": {"comparison", "data", "engines", "handlers", "inference", "losses", "metrics", "networks", "transforms"},
}
# version, devices by name, several processes, optional libraries, whole files, seeds, work in processes
EVERYONES = {"phnet_monai", "device", "distributed", "extras", "files", "seeds", "shipped", "tasks"}
HEAVY = ("torch", "monai", "ignite", "segmentation_models_pytorch", "tensorboard", "nibabel")


@pytest.mark.parametrize(("room", "name"), [(room, name) for room, names in NAMES.items() for name in names])
def test_public_name_is_there_and_explained(room: str, name: str) -> None:
    module = importlib.import_module(f"phnet_monai.{room}")
    assert name in module.__all__
    found = getattr(module, name)
    assert found.__module__.startswith(f"phnet_monai.{room}.")
    text = inspect.getdoc(found) or ""
    inherited = {inspect.getdoc(base) for base in found.__mro__[1:]} if inspect.isclass(found) else set()
    assert len(text.split()) > 3
    assert text not in inherited  # `getdoc` falls back to the parent's


@pytest.mark.parametrize("room", [room for room in BELOW if room != "cli"])
def test_room_exports_what_it_lists(room: str) -> None:
    module = importlib.import_module(f"phnet_monai.{room}")
    assert module.__doc__
    assert len(set(module.__all__)) == len(module.__all__)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def imported_rooms(file: Path) -> Iterator[tuple[int, str]]:
    """(line, first part below `phnet_monai`) of every import of the package in a file, wherever it stands."""
    package = ["phnet_monai", *file.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), filename=str(file))):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = (
                ".".join([*package[: len(package) + 1 - node.level], node.module or ""]) if node.level else node.module
            )
            assert base is not None
            base = base.strip(".")
            # `from phnet_monai import demo` names a module or a value of the package itself
            modules = [f"{base}.{alias.name}" for alias in node.names] if base == "phnet_monai" else [base]
        else:
            continue
        for module in modules:
            first, _, rest = module.partition(".")
            if first == "phnet_monai":
                room = rest.partition(".")[0]
                yield node.lineno, room if (PACKAGE / room).is_dir() or (PACKAGE / f"{room}.py").is_file() else first


@pytest.mark.parametrize("room", BELOW)
def test_imports_point_one_way(room: str) -> None:
    files = sorted((PACKAGE / room).rglob("*.py"))
    assert files
    # the command line begins everything, so that it may call what stands above the rooms (the demonstration)
    above = {"demo"} if room == "cli" else set()
    allowed = BELOW[room] | EVERYONES | above | {room}
    wrong = [
        f"{file.relative_to(PACKAGE)}:{line} imports {found}"
        for file in files
        for line, found in imported_rooms(file)
        if found not in allowed
    ]
    assert wrong == []


def test_every_room_has_its_place() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == set(BELOW)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("from phnet_monai.cli import main", "cli"),
        ("def f():\n    import phnet_monai.handlers.ema as e", "handlers"),
        ("from phnet_monai import engines", "engines"),
        ("from phnet_monai import __version__", "phnet_monai"),
        ("from ..inference import Predictor", "inference"),
        ("from .. import inference", "inference"),
    ],
)
def test_the_check_of_imports_sees_them(code: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for room in ("cli", "handlers", "engines", "inference", "data"):
        (tmp_path / room).mkdir()
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    (tmp_path / "data" / "module.py").write_text(code)
    assert [room for _, room in imported_rooms(tmp_path / "data" / "module.py")] == [found]


@pytest.mark.parametrize(
    ("modules", "without"),
    [
        # `phnet --help` or a misspelt flag is answered at once, not after seconds of imports
        (["phnet_monai", "phnet_monai.cli", "phnet_monai.cli.main"], (*HEAVY, "numpy", "scipy", "skimage", "PIL")),
        # a wrong path is refused, and a dataset prepared, without torch
        (["phnet_monai.inference.files", "phnet_monai.data"], HEAVY),
    ],
    ids=["cli", "data"],
)
def test_heavy_packages_wait_until_they_are_needed(modules: list[str], without: tuple[str, ...]) -> None:
    code = f"import sys\nimport {', '.join(modules)}\nprint([name for name in {without!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
