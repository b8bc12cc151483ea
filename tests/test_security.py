"""Nothing in the package loads a file as a program (what is written in SECURITY.md)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [path for folder in ("phnet_monai", "scripts") for path in sorted((ROOT / folder).rglob("*.py"))]
NAMES = [path.relative_to(ROOT).as_posix() for path in SOURCES]

EXECUTING = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "code", "codeop"}
"""Modules that run what they read."""

TORCHSCRIPT = "phnet_monai/inference/backends.py"
"""The one place that loads a program, and says so."""


OWN_WORK = {"scripts/bundle_rules.py": ("loads TorchScript",)}
"""Scripts that open what they have just written."""


def dotted(node: ast.AST) -> str:
    """`torch.load` of the expression `torch.load`; empty for others."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def keyword(call: ast.Call, name: str) -> object:
    """The literal value of an argument given by name; None where it is not given."""
    found = [argument.value for argument in call.keywords if argument.arg == name]
    return found[0].value if found and isinstance(found[0], ast.Constant) else None


def faults(text: str, file: str = "x.py") -> Iterator[str]:
    """What in a source file could run a file that a user was given."""
    for node in ast.walk(ast.parse(text)):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
            for alias in node.names:  # by another name the calls below would not be known
                if (node.module, alias.name) in {
                    ("torch", "load"),
                    ("torch.jit", "load"),
                    ("os", "system"),
                    ("os", "popen"),
                }:
                    yield f"line {node.lineno}: imports {alias.name} from {node.module}"
        for module in modules:
            if module.split(".")[0] in {*EXECUTING, "yaml"}:
                yield f"line {node.lineno}: imports {module}"
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        last = name.rpartition(".")[2]
        if name in ("eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec"):
            yield f"line {node.lineno}: calls {name}"
        elif name == "torch.load" and keyword(node, "weights_only") is not True:
            yield f"line {node.lineno}: torch.load without weights_only=True"
        elif name in ("torch.jit.load", "jit.load") and file != TORCHSCRIPT:
            yield f"line {node.lineno}: loads TorchScript outside of {TORCHSCRIPT}"
        elif name in ("np.load", "numpy.load") and keyword(node, "allow_pickle") not in (None, False):
            yield f"line {node.lineno}: numpy.load with allow_pickle"
        elif last in ("extractall", "extract", "unpack_archive"):
            yield f"line {node.lineno}: {name} unpacks an archive without looking at its names"
        elif keyword(node, "shell") is True or name in ("os.system", "os.popen"):
            yield f"line {node.lineno}: {name} starts a shell"


@pytest.mark.parametrize("name", NAMES)
def test_no_file_is_run(name: str) -> None:
    found = list(faults((ROOT / name).read_text(encoding="utf-8"), name))
    found = [fault for fault in found if not any(words in fault for words in OWN_WORK.get(name, ()))]
    assert not found, f"{name}: {'; '.join(found)}"


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import loads",
        "import yaml",
        "import dill as d",
        "torch.load(path)",
        "from torch import load",
        "from os import system as call",
        "torch.load(path, weights_only=False)",
        "torch.load(path, map_location='cpu', weights_only=flag)",
        "torch.jit.load(path)",
        "eval(text)",
        "exec(text)",
        "np.load(path, allow_pickle=True)",
        "archive.extractall(folder)",
        "shutil.unpack_archive(path)",
        "subprocess.run(words, shell=True)",
        "os.system(text)",
    ],
)
def test_the_check_sees_what_it_looks_for(text: str) -> None:
    assert list(faults(text))


@pytest.mark.parametrize(
    "text", ["torch.load(path, weights_only=True)", "network.eval()", "np.load(path)", "re.compile(x)"]
)
def test_the_check_lets_the_rest_pass(text: str) -> None:
    assert not list(faults(text))


def test_torchscript_is_loaded_in_one_place() -> None:
    text = (ROOT / TORCHSCRIPT).read_text(encoding="utf-8")
    assert text.count("torch.jit.load(") == 1
    assert "trusted origin only" in text


def test_configs_are_not_given_to_the_config_parser_by_inference() -> None:
    """MONAI's parser evaluates `$`; `engines` give it this package's own files and the user's, for a training."""
    pairs = zip(NAMES, SOURCES, strict=True)
    users = [name for name, path in pairs if "ConfigParser" in path.read_text(encoding="utf-8")]
    trainings = ["phnet_monai/engines/run.py", "phnet_monai/engines/tracking.py"]
    assert users == [*trainings, "scripts/bundle_rules.py"]
    for name in NAMES:
        if name.startswith("phnet_monai/inference/"):
            text = (ROOT / name).read_text(encoding="utf-8")
            assert "phnet_monai.engines" not in text, name


def test_the_policy_tells_what_matters() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    for words in ("weights_only=True", "TorchScript", "config", "`$`", "report", "MAX_PIXELS", "MAX_UNPACKED_BYTES"):
        assert words in text
